"""`spear transcribe`: recordings to text, with times and confidences of words, by a run that was fine-tuned for it.

    spear transcribe talk.mp3 lectures/ --checkpoint exp/asr
    spear transcribe talk.mp3 --checkpoint exp/asr --format srt --output subtitles

Files of any length, rate and format; long ones are heard in windows that overlap, and their frames are put together
before they are decoded. Without --output, transcripts are printed; a file that is there with another content is never
replaced. Files that cannot be used are listed with the reason, and the rest goes on.
"""

import argparse
from pathlib import Path

from spear.bin.embed_files import require_some, tell_refused
from spear.errors import ConfigError

OBJECTIVES = ("ctc", "transducer")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and transcribes."""
    arguments = _parser().parse_args(argv)
    if arguments.batch_seconds <= 0:
        raise ConfigError(f"--batch-seconds {arguments.batch_seconds:g}", "a positive number", "correct the flag")
    from spear import dist, fs, log
    from spear.manifest.recordings import find_recordings
    from spear.recognise.decoding import Decoder, Decoding
    from spear.recognise.long import transcribe
    from spear.recognise.subtitles import written
    from spear.train.finetuned import load_finetuned

    log.setup()
    model_files = arguments.lexicon, arguments.language_model
    decoding = Decoding(arguments.method, arguments.beam, *model_files, arguments.language_model_weight)
    model = load_finetuned(arguments.checkpoint, dist.choose_device(arguments.device))
    stream = stream_of_words(model, arguments.checkpoint, arguments.stream)
    decoder = Decoder(model.model.heads[stream], model.vocabularies[stream], decoding)
    recordings, refused = find_recordings(arguments.files)
    files = _outputs(recordings, arguments.output, arguments.format) if arguments.output else []

    def refuse(number: int, reason: str) -> None:
        refused.append({"path": str(recordings[number].path), "reason": reason})

    lengths = arguments.window_seconds, arguments.overlap_seconds, arguments.batch_seconds
    done = []
    for number, words in transcribe(model.encode, decoder, model.model.frame_rate_hz, recordings, refuse, *lengths):
        path = str(recordings[number].path)
        text = written(words, arguments.format, path)
        if not files:
            print(f"{path}: {text}" if arguments.format == "txt" else text, end="", flush=True)
        elif _is_another(files[number], text):
            refuse(
                number, f"{files[number]} is there with another content, and stays as it is (choose another --output)"
            )
            continue
        else:
            fs.write_text(files[number], text)
            print(f"{path}: {len(words)} words, in {files[number]}")
        done.append(path)
    require_some(done, refused)
    tell_refused(refused)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spear transcribe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="recordings, or folders with all below them")
    parser.add_argument("--checkpoint", required=True, type=Path, help="a run with a head of CTC or of a transducer")
    parser.add_argument("--stream", default="", help="name of its stream, where it has several such heads")
    parser.add_argument("--format", default="txt", choices=("txt", "json", "srt", "vtt"), help="of what is written")
    parser.add_argument("--output", type=Path, help="folder for a file of each recording; without, they are printed")
    parser.add_argument("--method", default="greedy", help="greedy, beam, or lexicon (CTC on characters)")
    parser.add_argument("--beam", type=int, default=0, help="sequences that a beam search keeps; 0: its default")
    parser.add_argument("--lexicon", default="", help="file whose lines begin with a word, for --method lexicon")
    parser.add_argument(
        "--language-model", default="", help="ARPA or KenLM file: of words for --method lexicon, of units for beam"
    )
    parser.add_argument("--language-model-weight", type=float, default=0.3, help="of a model of units")
    parser.add_argument("--window-seconds", type=float, default=30.0, help="longer recordings are heard in windows")
    parser.add_argument("--overlap-seconds", type=float, default=2.0, help="what windows give up to their neighbours")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="audio of a batch, with padding")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def stream_of_words(model, checkpoint: Path, wanted: str) -> str:
    """The stream of a fine-tuned model whose head says words; the wanted one of several.

    Raises:
        ConfigError: none, or several.
    """
    known = [name for name in model.objectives if model.config.streams[name].objective in OBJECTIVES]
    found = [name for name in known if wanted in ("", name)]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"{checkpoint} with {len(found)} heads for words" + (f" of the name '{wanted}'" if wanted else ""),
        f"one of {', '.join(known)}" if known else "a run that was fine-tuned for transcripts",
        "name it with --stream" if known else "spear finetune --task ctc makes one",
    )


def _is_another(path: Path, text: str) -> bool:
    """Whether something is there that is not this very transcript, as the same call writes it again."""
    return path.exists() and not (path.is_file() and path.read_bytes() == text.encode())


def _outputs(recordings: list, folder: Path, suffix: str) -> list[Path]:
    """A file for each recording: its name, with a number where several have the same."""
    taken: set[str] = set()
    files = []
    for recording in recordings:
        name, number = recording.path.stem, 1
        while (chosen := name if number == 1 else f"{name}-{number}").lower() in taken:
            number += 1
        taken.add(chosen.lower())
        files.append(folder / f"{chosen}.{suffix}")
    return files
