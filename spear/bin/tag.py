"""`spear tag`: what is heard in recordings, and when: the top labels of a fine-tuned tagger or classifier, in windows.

    spear tag street.mp3 forest/ --checkpoint exp/tags --window-seconds 2 --top 3
    spear tag street.mp3 --checkpoint exp/tags --json > street.json

Recordings of any length, rate and format; each is cut into equal windows of about the length that is asked for, and the
mean over them stands before them. Files that cannot be used are listed with the reason, and the rest goes on.
"""

import argparse
import json
from pathlib import Path

from spear.bin.embed_files import require_some, tell_refused
from spear.errors import ConfigError

OBJECTIVES = ("tagging", "classification")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and tags."""
    parser = argparse.ArgumentParser(
        prog="spear tag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="recordings, or folders with all below them")
    parser.add_argument("--checkpoint", required=True, type=Path, help="of spear finetune, for tags or classes")
    parser.add_argument("--window-seconds", type=float, default=2.0, help="about so long are the windows")
    parser.add_argument("--top", type=int, default=3, help="labels of a window")
    parser.add_argument("--least", type=float, default=0.0, help="labels less likely than this are left out")
    parser.add_argument("--json", action="store_true", help="print JSON: a list with an object for each recording")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="audio of a batch, with padding")
    arguments = parser.parse_args(argv)
    lengths = (arguments.window_seconds, arguments.batch_seconds)
    if not all(length > 0 for length in lengths) or arguments.top < 1:
        raise ConfigError("--window-seconds, --batch-seconds or --top below 1", "positive numbers", "correct them")
    from spear import dist, log
    from spear.manifest.recordings import find_recordings
    from spear.train.finetuned import load_finetuned

    log.setup()
    model = load_finetuned(arguments.checkpoint, dist.choose_device(arguments.device))
    streams = [name for name in model.objectives if model.config.streams[name].objective in OBJECTIVES]
    if len(streams) != 1:
        raise ConfigError(
            f"{arguments.checkpoint} with {len(streams)} heads for tags or classes",
            "a run that was fine-tuned for one of them",
            "spear finetune --task tagging (or classification) makes one",
        )
    recordings, refused = find_recordings(arguments.files)
    found = tag(model, streams[0], recordings, refused, arguments)
    require_some(found, refused)
    if arguments.json:
        print(json.dumps(found, indent=2, ensure_ascii=True))
        return 0
    for row in found:
        print(f"{row['path']} ({row['seconds']:.1f} s): {_words(row['labels'])}")
        for window in row["windows"] if len(row["windows"]) > 1 else ():
            print(f"  {window['start']:8.2f} - {window['stop']:8.2f}  {_words(window['labels'])}")
    tell_refused(refused)
    return 0


def tag(model, stream: str, recordings: list, refused: list[dict], arguments: argparse.Namespace) -> list[dict]:
    """{path, seconds, labels, windows: [{start, stop, labels}]} of every recording; labels are [{name, probability}].

    Args:
        model: a `spear.train.finetuned.FineTuned`.
        stream: whose head is asked.
        recordings: see `spear.manifest.recordings`.
        refused: receives {path, reason} of what cannot be decoded.
        arguments: window_seconds, batch_seconds, top and least.
    """
    from spear.finetuning.score import mean_of
    from spear.manifest.recordings import Piece, by_recording

    pieces = []
    for number, recording in enumerate(recordings):
        count = max(1, round(recording.duration_seconds / arguments.window_seconds))
        edges = [place * recording.duration_seconds / count for place in range(count + 1)]
        pieces += [Piece(number, a, b - a, a, b, b == edges[-1]) for a, b in zip(edges, edges[1:])]

    def refuse(number: int, reason: str) -> None:
        refused.append({"path": str(recordings[number].path), "reason": reason})

    def hear(batch, waves_BS, lengths_B) -> list:
        return model.decode(stream, model.encode(waves_BS, lengths_B))

    def top(probabilities: dict[str, float]) -> list[dict]:
        rows = [{"name": name, "probability": round(value, 4)} for name, value in probabilities.items()]
        return [row for row in rows if row["probability"] >= arguments.least][: arguments.top]

    found = []
    said = by_recording(recordings, pieces, hear, refuse, "tagging", arguments.batch_seconds)
    for number, windows in said.items():
        row = {"path": str(recordings[number].path), "seconds": round(recordings[number].duration_seconds, 3)}
        times = [
            {"start": round(piece.start_seconds, 3), "stop": round(piece.keep_stop_seconds, 3), "labels": top(answer)}
            for piece, answer in windows
        ]
        found.append({**row, "labels": top(mean_of([answer for _, answer in windows])), "windows": times})
    return found


def _words(labels: list[dict]) -> str:
    return ", ".join(f"{label['name']} {label['probability']:.2f}" for label in labels) or "nothing"
