"""`spear similar`: the recordings that are nearest to one, by the cosine of their mean frames.

    spear similar bark.wav recordings/ --checkpoint exp/student --top 10
    spear similar bark.wav vectors.npz --checkpoint exp/student            # of spear embed-files, which it made before

Nothing is written, unless --exp-dir says where the vectors of the folder may be kept for the next question.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from spear.bin.embed_files import add_encoder, embed, encoder, require_some, tell_refused
from spear.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and searches."""
    parser = argparse.ArgumentParser(
        prog="spear similar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("query", type=Path, help="a recording")
    parser.add_argument("among", type=Path, help="a folder of recordings, or an .npz of spear embed-files")
    parser.add_argument("--top", type=int, default=10, help="how many")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--exp-dir", type=Path, help="keeps the folder's vectors in EXP_DIR/vectors; default: nowhere")
    add_encoder(parser)
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}", "a number from 1 on", "correct it")
    if arguments.query.is_dir():
        raise ConfigError(f"the query {arguments.query}, a folder", "one recording", "name a file in it")
    from spear import log
    from spear.manifest.recordings import find_recordings
    from spear.teachers.vectors import check_same_encoder, load_vectors, nearest

    log.setup()
    teacher = encoder(arguments)
    heard, bad = find_recordings([arguments.query])
    query = embed(arguments, teacher, heard, bad)
    require_some(query.paths, bad)
    if arguments.among.suffix == ".npz":
        found, refused = load_vectors(arguments.among), []
        check_same_encoder(found.card, teacher, arguments.among)
    else:
        found, refused = _of_folder(arguments, teacher)
    same = os.path.realpath(query.paths[0])
    others = np.array([os.path.realpath(path) != same for path in found.paths], dtype=bool)
    rows = nearest(query.vectors_ND[0], found.vectors_ND[others], arguments.top)
    answer = [{"cosine": round(cosine, 6), "path": str(found.paths[others][row])} for row, cosine in rows]
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return 0
    for row in answer:
        print(f"{row['cosine']:.4f}  {row['path']}")
    tell_refused([*bad, *refused])
    return 0


def _of_folder(arguments: argparse.Namespace, teacher):
    """Vectors of a folder; with --exp-dir those of files that have not changed since are taken from there."""
    from spear import fs
    from spear.errors import DataError
    from spear.manifest.recordings import find_recordings
    from spear.teachers.vectors import load_vectors, save_vectors

    recordings, refused = find_recordings([arguments.among])
    if arguments.exp_dir is None:
        found = embed(arguments, teacher, recordings, refused)
        require_some(found.paths, refused)
        return found, refused
    windows = [arguments.window_seconds, arguments.overlap_seconds]
    key = fs.sha256_json([teacher.fingerprint(), windows, os.path.realpath(arguments.among)])[:16]
    kept = arguments.exp_dir / "vectors" / f"{key}.npz"
    states = [(str(recording.path), *fs.state_of(recording.path)) for recording in recordings]
    try:
        before = load_vectors(kept)
        known = {
            (str(path), *state): row for row, (path, state) in enumerate(zip(before.paths, before.states.tolist()))
        }
    except DataError:  # none yet, or damaged
        before, known = None, {}
    new = [recording for recording, state in zip(recordings, states) if state not in known]
    found = before.chosen([known[state] for state in states if state in known]) if before else None
    if new:
        made = embed(arguments, teacher, new, refused)
        found = made if found is None else found.joined(made)
    require_some(found.paths, refused)
    save_vectors(found, kept)
    return found, refused
