"""`spear recipe new`: a working recipe for a folder of recordings, with limits that fit the machine."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

import spear
from spear import fs
from spear.errors import ConfigError, DataError
from spear.manifest.item import DOMAIN_OF_KIND
from spear.manifest.scan import scan
from spear.teachers import TeacherSpec

SIZES = ("mini", "base", "large", "xlarge")
_MINI = {
    "num_encoder_layers": "1,1,1,1,1,1,1",
    "encoder_dim": "128",
    "encoder_unmasked_dim": "96",
    "feedforward_dim": "256",
    "num_heads": "4",
    "query_head_dim": "16",
    "subsampling_channels": "8,16,32",
}
_BASE = {
    "num_encoder_layers": "1,2,3,3,1,1,1",
    "encoder_dim": "512",
    "encoder_unmasked_dim": "256",
    "feedforward_dim": "1536",
}
_LARGE = {"encoder_dim": "1024", "encoder_unmasked_dim": "512", "feedforward_dim": "3072"}
_MODELS = {
    "mini": _MINI,
    "base": _BASE,
    "large": _LARGE | {"num_encoder_layers": "1,2,2,3,1,1,1"},
    "xlarge": {
        "num_encoder_layers": "1,2,3,4,1,1,1",
        "encoder_dim": "1280",
        "encoder_unmasked_dim": "768",
        "feedforward_dim": "3840",
    },
}
# Steps, batch seconds of a process: for a CPU's patience, for one large GPU.
_SCHEDULES = {"mini": (2000, 60), "base": (100_000, 400), "large": (300_000, 400), "xlarge": (300_000, 300)}

_PREPARE = """\
#!/usr/bin/env bash
# Prepares the recordings of data/raw/{name}: manifests -> statistics{more}.
#
#   ./prepare.sh                          # run it twice and the second run skips what is done
#   ./prepare.sh --{flag}-dir DIR         # recordings elsewhere (they are linked, not copied)
# Stages: 0 environment and data, 1 manifests, 2 fbank, 3 embeddings of a sample, 4 quantizers, 5 tokens. Files that
# cannot be used are listed in data/manifests/quarantine_{name}.jsonl. --executor local|dask|slurm and --num-jobs (0:
# one per core) apply to stages 1 and 2, --nproc-per-node to 3 and 5.
set -euo pipefail

here="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
. "$here/shared/corpora_options.sh"

{name}_dir=
{stream}_teacher={teacher}
{stream}_codebooks={codebooks}
{stream}_normalise=true
max_frames={max_frames}

. "$here/shared/parse_options.sh"
. "$here/shared/corpora.sh"

{name}_layout=folder
{name}_kind={kind}
{name}_domain={domain}
streams="${{{stream}_teacher:+{stream}}}"
prepare "{name}" "$streams"
"""

_TRAIN = '''\
#!/usr/bin/env python3
"""Trains the student of conf/student.yaml, or of --config FILE; alone, or in several processes under torchrun."""

import sys
from pathlib import Path

from spear.bin.main import guard
from spear.train.main import main

if __name__ == "__main__":
    sys.exit(guard(lambda argv: main(argv, recipe_dir=Path(__file__).resolve().parent)))
'''

_README = """\
# SPEAR on {name}

Made by `spear recipe new` (spear {version}) for {count} audio files.

## Data

Recordings below `data/raw/{name}`, a link. A `manifest.tsv` in it (id, path, kind, speaker, text, label) is used.

## Licence

That of the recordings; say here what it is before you pass results on.

## Disk

Recordings are linked. {tokens}Checkpoints are the largest files: see `exp/`.

## Time

`conf/student.yaml` trains {steps} steps of {seconds} s in each process; the log says what is left.

## Commands

    ./prepare.sh
    torchrun --nproc_per_node 1 train.py

## Results

None yet.
"""


@dataclass
class NewRecipe:
    """What `new_recipe` is told.

    Attributes:
        path: directory to make, such as egs/mine/spear.
        audio: folder of recordings.
        kind: speech, event or music.
        teacher: spec of a teacher; empty: random-projection targets, which need none.
        size: one of `SIZES`; empty: mini without a GPU, else base.
        num_codebooks: of the quantizer.
    """

    path: str
    audio: str
    kind: str = "speech"
    teacher: str = ""
    size: str = ""
    num_codebooks: int = 8


def new_recipe(settings: NewRecipe) -> Path:
    """Makes the recipe and returns its directory.

    Raises:
        ConfigError: something is there already, or an unknown kind or size. DataError: no audio in the folder.
    """
    place, audio = Path(settings.path), Path(settings.audio)
    size = settings.size or ("base" if torch.cuda.is_available() else "mini")
    if size not in SIZES or settings.kind not in DOMAIN_OF_KIND:
        raise ConfigError(
            f"kind '{settings.kind}' and size '{size}'",
            f"one of {', '.join(DOMAIN_OF_KIND)}, and one of {', '.join(SIZES)}",
            "correct --kind or --size",
        )
    if place.exists() and any(place.iterdir() if place.is_dir() else [place]):
        raise ConfigError(f"{place}, which exists", "a new directory", "choose another, or remove it")
    if settings.teacher:
        TeacherSpec.parse(settings.teacher)
    found = scan(audio, settings.kind)
    shared = Path(spear.__file__).resolve().parents[1] / "shared"
    if not (shared / "corpora.sh").exists():
        raise DataError(f"no {shared}", "the repository's scripts", "run this from a checkout (pip install -e .)")
    name = re.sub(r"\W+", "_", audio.resolve().name.lower()).strip("_") or "corpus"
    name = name if name[0].isalpha() else f"corpus_{name}"
    _write(place, settings, size, name, len(found.entries))
    _share(place, shared)
    (place / "data" / "raw").mkdir(parents=True)
    (place / "data" / "raw" / name).symlink_to(audio.resolve())
    return place


def _write(place: Path, settings: NewRecipe, size: str, name: str, count: int) -> None:
    domain = DOMAIN_OF_KIND[settings.kind]
    steps, seconds = _SCHEDULES[size]
    values = {
        "name": name,
        "flag": name.replace("_", "-"),
        "stream": domain,
        "kind": settings.kind,
        "domain": domain,
        "teacher": settings.teacher,
        "codebooks": settings.num_codebooks,
        "max_frames": 500_000 if size != "mini" else 40_000,
        "more": " -> embeddings -> quantizer -> tokens" if settings.teacher else "",
        "version": spear.__version__,
        "count": count,
        "steps": steps,
        "seconds": seconds,
        "tokens": f"Tokens take {settings.num_codebooks} bytes a frame. " if settings.teacher else "",
    }
    texts = {
        "prepare.sh": _PREPARE.format(**values),
        "train.py": _TRAIN,
        "README.md": _README.format(**values),
        "conf/student.yaml": _conf(settings, size, name, domain),
    }
    for file, text in texts.items():
        fs.write_text(place / file, text)
        if file.endswith((".sh", ".py")):
            (place / file).chmod(0o755)


def _conf(settings: NewRecipe, size: str, name: str, domain: str) -> str:
    steps, seconds = _SCHEDULES[size]
    stream = {"domain_weights": {domain: 1.0}}
    if settings.teacher:
        stream["mix_tokens"] = domain == "speech"
    else:
        stream |= {"objective": "random_projection", "num_codebooks": settings.num_codebooks}
    speech = domain == "speech"
    small = size == "mini"
    values = {
        "exp_dir": "exp/student",
        "num_steps": steps,
        "model": _MODELS[size],
        "streams": {domain: stream},
        "sources": [{"name": name, "cuts": f"manifests/cuts_{name}_train.jsonl", "domain": domain}],
        "mask": {"time_probability": 0.5 if speech else 0.65, "channel_probability": 0.0 if small else 0.25},
        "mixing": {"probability": 0.2 if small else 0.5, "noise_probability": 0.0},
        "plan": {"max_seconds": seconds},
        "optimizer": {"base_lr": 0.045, "lr_hours": 1000 if small else 10_000},
        "num_workers": 0 if small else 8,
    }
    if small:
        values["optimizer"] |= {"lr_batches": 3000, "warmup_batches": 50, "reference_seconds": 3}
        values |= {"valid_every_steps": 500, "checkpoint_every_steps": 500, "average_every_steps": 20}
        values |= {"average_last_steps": 500}
    targets = f"tokens of {settings.teacher}" if settings.teacher else "random-projection targets (no teacher)"
    head = f"# The student on {name}: size {size}, {targets}.\n"
    return head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)


def _share(place: Path, shared: Path) -> None:
    """A link to the repository's shared/ inside it, and a copy outside: a recipe never points out of its tree."""
    root = shared.parent
    if place.resolve().is_relative_to(root):
        (place / "shared").symlink_to(os.path.relpath(shared, place.resolve()))
    else:
        shutil.copytree(shared, place / "shared")
