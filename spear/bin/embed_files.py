"""`spear embed-files`: one vector for each recording (the mean of the encoder's frames), or all frames as well.

    spear embed-files recordings/ more.mp3 --checkpoint exp/student --output vectors.npz

Files of any length, rate and format; a long one is heard in windows. Those that cannot be used are listed with the
reason, and in OUTPUT.skipped.jsonl. Python reads the vectors with `numpy.load("vectors.npz")["vectors"]`.
"""

import argparse
from collections.abc import Sized
from pathlib import Path

from spear.errors import ConfigError, DataError, reasons


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """The flags of commands that run an encoder over recordings."""
    parser.add_argument("--checkpoint", required=True, help="what spear.load_model reads: a run, a folder, a file")
    parser.add_argument("--layer", type=int, default=-1, help="from 0; -1 (the default): the encoder's output")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--window-seconds", type=float, default=30.0, help="longer recordings are heard in windows")
    parser.add_argument("--overlap-seconds", type=float, default=1.0, help="what windows give up to their neighbours")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="audio of a batch, with padding")


def embed(arguments: argparse.Namespace, teacher, recordings: list, refused: list[dict], with_frames: bool = False):
    """What an encoder makes of recordings (`spear.teachers.vectors.Vectors`); appends {path, reason} of bad ones."""
    from spear.teachers.vectors import embed_recordings

    def refuse(number: int, reason: str) -> None:
        refused.append({"path": str(recordings[number].path), "reason": reason})

    lengths = (arguments.window_seconds, arguments.overlap_seconds, arguments.batch_seconds)
    return embed_recordings(teacher, recordings, refuse, *lengths, with_frames)


def encoder(arguments: argparse.Namespace):
    """The encoder that the flags name, as a teacher."""
    from spear import dist
    from spear.teachers import load_teacher

    if arguments.batch_seconds <= 0:
        raise ConfigError(f"--batch-seconds {arguments.batch_seconds:g}", "a positive number", "correct the flag")
    return load_teacher("spear", arguments.checkpoint, arguments.layer, dist.choose_device(arguments.device))


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and embeds."""
    parser = argparse.ArgumentParser(
        prog="spear embed-files", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="recordings, or folders with all below them")
    parser.add_argument("--output", required=True, type=Path, help="NAME.npz or NAME.parquet")
    parser.add_argument("--frames", action="store_true", help="keep the frames too")
    add_encoder(parser)
    arguments = parser.parse_args(argv)
    from spear import fs, log
    from spear.manifest.recordings import find_recordings
    from spear.teachers.vectors import check_output, save_vectors

    log.setup()
    check_output(arguments.output)
    recordings, refused = find_recordings(arguments.files)
    vectors = embed(arguments, encoder(arguments), recordings, refused, arguments.frames)
    require_some(vectors.paths, refused)
    save_vectors(vectors, arguments.output)
    count, dim = vectors.vectors_ND.shape
    print(f"{arguments.output}: {count} vectors of {dim} numbers, {vectors.seconds.sum() / 3600:.2f} h of audio")
    listing = arguments.output.with_name(arguments.output.name + ".skipped.jsonl")
    listing.unlink(missing_ok=True)
    if refused:
        fs.write_jsonl(listing, refused)
    tell_refused(refused, str(listing))
    return 0


def require_some(found: Sized, refused: list[dict]) -> None:
    """Refuses to go on with nothing.

    Raises:
        DataError: nothing was found; with the reasons.
    """
    if not len(found):
        raise DataError(f"no recording that can be used{reasons(refused)}", "at least one", "correct the paths")


def tell_refused(refused: list[dict], listing: str = "", most: int = 20) -> None:
    """Prints what was left out, with the reasons."""
    for bad in refused[:most]:
        print(f"left out {bad['path']}: {bad['reason']}")
    if refused and (listing or len(refused) > most):
        print(f"{len(refused)} left out" + (f"; all are in {listing}" if listing else ""))
