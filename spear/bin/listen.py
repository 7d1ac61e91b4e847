"""`spear listen`: a recording or a microphone to words while they are said, by a causal run fine-tuned for it.

    spear listen talk.wav --checkpoint exp/asr
    spear listen microphone --checkpoint exp/asr                # pip install sounddevice; Ctrl-C ends it

A recording is heard as fast as the machine can, with --real-time as slowly as it was said. On a terminal the line grows
as words are recognised; elsewhere each segment is printed when it ends, with its time.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from spear.errors import ConfigError

MICROPHONE = "microphone"
_RATE_HZ = 16000
_PACKET_SECONDS = 0.1


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and listens until the end."""
    arguments = _parser().parse_args(argv)
    for name in ("chunk_ms", "left_context_ms"):
        if (value := getattr(arguments, name)) < 20 or value % 20:
            raise ConfigError(f"--{name.replace('_', '-')} {value}", "a multiple of 20", "correct the flag")
    from spear import dist, log
    from spear.bin.transcribe import stream_of_words
    from spear.nn.chunks import ChunkSize
    from spear.recognise.live import LiveRecogniser
    from spear.train.finetuned import load_finetuned

    log.setup()
    tuned = load_finetuned(arguments.checkpoint, dist.choose_device(arguments.device))
    stream = stream_of_words(tuned, arguments.checkpoint, arguments.stream)
    size = ChunkSize(arguments.chunk_ms // 20, arguments.left_context_ms // 20)
    head, vocabulary = tuned.model.heads[stream], tuned.vocabularies[stream]
    recogniser = LiveRecogniser(tuned.model, head, vocabulary, size, arguments.endpoint_seconds)
    packets = _microphone() if arguments.source == MICROPHONE else _recording(arguments.source, arguments.real_time)
    heard, line = recogniser.start(), _Line()
    try:
        for samples in packets:
            heard = recogniser.accept(heard, samples)
            line.show(heard.ended, recogniser.words(heard))
    except KeyboardInterrupt:
        pass  # how one stops talking to a microphone
    heard = recogniser.finish(heard)
    line.show(heard.ended, [])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spear listen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=f"a recording, or {MICROPHONE}")
    parser.add_argument(
        "--checkpoint", required=True, type=Path, help="a causal run with a head of CTC or a transducer"
    )
    parser.add_argument("--stream", default="", help="name of its stream, where it has several such heads")
    parser.add_argument("--chunk-ms", type=int, default=640, help="what is heard at a time: less is sooner and worse")
    parser.add_argument("--left-context-ms", type=int, default=2560, help="before a chunk that it may use")
    parser.add_argument("--endpoint-seconds", type=float, default=0.8, help="a pause that ends a segment; 0: none does")
    parser.add_argument("--real-time", action="store_true", help="hear a recording as slowly as it was said")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def _recording(source: str, real_time: bool) -> Iterator:
    import torch

    from spear.audio import load_audio

    samples = torch.from_numpy(load_audio(Path(source), _RATE_HZ))
    started, packet = time.monotonic(), round(_PACKET_SECONDS * _RATE_HZ)
    for number, part in enumerate(samples.split(packet), 1):
        if real_time:
            time.sleep(max(0.0, started + number * _PACKET_SECONDS - time.monotonic()))
        yield part


def _microphone() -> Iterator:
    import torch

    from spear.errors import MissingPackageError

    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: without the PortAudio library
        raise MissingPackageError(
            f"no microphone: {error}", "the package sounddevice, with PortAudio", "pip install sounddevice"
        ) from error
    with sounddevice.InputStream(samplerate=_RATE_HZ, channels=1, dtype="float32") as stream:
        while True:
            samples, _ = stream.read(round(_PACKET_SECONDS * _RATE_HZ))
            yield torch.from_numpy(samples[:, 0].copy())


class _Line:
    """What is printed: on a terminal the segment that is being said, everywhere those that have ended."""

    def __init__(self):
        self._is_terminal, self._shown = sys.stdout.isatty(), 0

    def show(self, ended, words) -> None:
        for segment in ended:
            text = " ".join(word.text for word in segment)
            self._print(f"{segment[0].start_seconds:8.2f}  {text}" if segment else "", end="\n")
        if self._is_terminal and words:
            self._print(" " * 10 + " ".join(word.text for word in words), end="")

    def _print(self, text: str, end: str) -> None:
        if self._is_terminal:
            text = "\r" + text + " " * (self._shown - len(text))
            self._shown = 0 if end else len(text)
        print(text, end=end, flush=True)
