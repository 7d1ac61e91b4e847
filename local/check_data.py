#!/usr/bin/env python3
"""Says what is in a folder of audio and what is wrong with it, without writing anything there.

    local/check_data.py DIR [--kind speech|event|music] [--tasks FILE.yaml] [--num-jobs N]

Every file is decoded once, exactly as stage 1 of a recipe does, so what passes here passes there.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from spear import fs, log
from spear.bin.main import guard
from spear.manifest import ManifestsConfig, format_summary, make_manifests


def main(argv: list[str] | None = None) -> int:
    """Checks one folder; the exit code is 1 when files are unusable."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="with manifest.tsv, or any folder of audio files")
    parser.add_argument("--kind", default="speech", help="speech, event or music, for files that do not state it")
    parser.add_argument("--tasks", default="", help="a YAML file with tasks, to see their splits")
    parser.add_argument("--num-jobs", "--num_jobs", type=int, default=0, help="processes; 0: one for each core")
    arguments = parser.parse_args(argv)
    log.setup()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "data" / "manifests"
        settings = ManifestsConfig(
            raw=str(arguments.directory.resolve()),
            output=str(output),
            tasks=arguments.tasks,
            kind=arguments.kind,
            max_bad_fraction=1.0,
            num_jobs=arguments.num_jobs,
        )
        print(format_summary(make_manifests(settings)))
        bad = fs.read_jsonl(output / "quarantine.jsonl")
    for item in bad:
        print(f"unusable: {item['path']}: {item['reason']}")
    print(f"{len(bad)} of the files cannot be used" if bad else "every file can be used")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(guard(main))
