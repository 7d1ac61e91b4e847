"""What `spear recipe new` writes: a pure function of a few facts, so that a received recipe can be compared with it.

Whatever a user has named enters a script quoted for the shell (teachers), or as letters, digits and _ alone (folders).
"""

import json
import re
import shlex
import unicodedata
from dataclasses import asdict, dataclass

import yaml

import spear
from spear.errors import ConfigError
from spear.manifest.item import DOMAIN_OF_KIND
from spear.teachers import TeacherSpec

FACTS = "recipe.json"
FORMAT = "spear-recipe-1"
MAX_CODEBOOKS = 256
_MAX_NAME = 40
# A corpus C gives the scripts $C_dir, $C_layout, $C_kind and $C_domain; these would be variables of shared/*.sh.
RESERVED_NAMES = ("data", "exp", "stage")
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

here="$(CDPATH= cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)"
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

Made by `spear recipe new` (spear {version}) for {count} audio files; `recipe.json` holds what it was told.

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


@dataclass(frozen=True)
class Facts:
    """What decides the files of a new recipe; `recipe.json` holds it.

    Attributes:
        name: of the corpus, from `corpus_name`.
        kind: of its recordings: speech, event or music.
        size: one of `SIZES`.
        teacher: spec of a teacher; empty: random-projection targets.
        num_codebooks: bytes of a frame of targets.
        recordings: audio files found when it was made.
        spear_version: that made it.
        format: of these facts.
    """

    name: str
    kind: str
    size: str
    teacher: str
    num_codebooks: int
    recordings: int
    spear_version: str = spear.__version__
    format: str = FORMAT

    def __post_init__(self):
        if self.kind not in DOMAIN_OF_KIND or self.size not in SIZES:
            raise ConfigError(
                f"kind '{self.kind}' and size '{self.size}'",
                f"one of {', '.join(DOMAIN_OF_KIND)}, and one of {', '.join(SIZES)}",
                "correct --kind or --size",
            )
        if not 1 <= self.num_codebooks <= MAX_CODEBOOKS:
            raise ConfigError(
                f"{self.num_codebooks} codebooks", f"1 to {MAX_CODEBOOKS} of them", "correct --num-codebooks"
            )
        if corpus_name(self.name) != self.name or not re.fullmatch(r"[\w.+-]{1,40}", self.spear_version, re.ASCII):
            found = f"the corpus name {ascii(self.name)} and version {ascii(self.spear_version)}"
            raise ConfigError(found, "a name of letters, digits and _, and a version such as 0.1.0", "correct them")
        if self.teacher:
            if not self.teacher.isprintable() or self.teacher.startswith("-"):
                raise ConfigError(
                    f"teacher {ascii(self.teacher)}", "printable text on one line, not a flag", "rename its folder"
                )
            TeacherSpec.parse(self.teacher)


def corpus_name(folder: str) -> str:
    """A folder's name as a name for files, options and shell variables: letters a-z, digits and _.

    Accents are taken off, other scripts left out: données -> donnees, 日本 2 -> corpus_2.
    """
    plain = unicodedata.normalize("NFKD", folder.casefold()).encode("ascii", "ignore").decode().lower()
    name = re.sub("[^a-z0-9]+", "_", plain).strip("_")
    if not name[:1].isalpha() or name in RESERVED_NAMES:
        name = f"corpus_{name}"
    return name[:_MAX_NAME].strip("_")


def render(facts: Facts) -> dict[str, str]:
    """The text files of a recipe, by path."""
    domain = DOMAIN_OF_KIND[facts.kind]
    steps, seconds = _SCHEDULES[facts.size]
    values = {
        "name": facts.name,
        "flag": facts.name.replace("_", "-"),
        "stream": domain,
        "kind": facts.kind,
        "domain": domain,
        "teacher": shlex.quote(facts.teacher) if facts.teacher else "",
        "codebooks": facts.num_codebooks,
        "max_frames": 500_000 if facts.size != "mini" else 40_000,
        "more": " -> embeddings -> quantizer -> tokens" if facts.teacher else "",
        "version": facts.spear_version,
        "count": facts.recordings,
        "steps": steps,
        "seconds": seconds,
        "tokens": f"Tokens take {facts.num_codebooks} bytes a frame. " if facts.teacher else "",
    }
    return {
        "prepare.sh": _PREPARE.format(**values),
        "train.py": _TRAIN,
        "README.md": _README.format(**values),
        "conf/student.yaml": _conf(facts, domain),
        FACTS: json.dumps(asdict(facts), indent=2, sort_keys=True) + "\n",
    }


def _conf(facts: Facts, domain: str) -> str:
    steps, seconds = _SCHEDULES[facts.size]
    stream = {"domain_weights": {domain: 1.0}}
    if facts.teacher:
        stream["mix_tokens"] = domain == "speech"
    else:
        stream |= {"objective": "random_projection", "num_codebooks": facts.num_codebooks}
    speech = domain == "speech"
    small = facts.size == "mini"
    values = {
        "exp_dir": "exp/student",
        "num_steps": steps,
        "model": _MODELS[facts.size],
        "streams": {domain: stream},
        "sources": [{"name": facts.name, "cuts": f"manifests/cuts_{facts.name}_train.jsonl", "domain": domain}],
        "mask": {"time_probability": 0.5 if speech else 0.65, "channel_probability": 0.0 if small else 0.25},
        "mixing": {"probability": 0.2 if small else 0.5, "noise_probability": 0.0},
        "plan": {"max_seconds": seconds},
        "optimizer": {"base_lr": 0.045, "lr_hours": 1000 if small else 10_000},
        "num_workers": 0 if small else 8,
    }
    if not speech:  # of these recordings, those whose labels name neither people nor music
        values["mixing"]["noises"] = [f"manifests/noise_{facts.name}.jsonl"]
    if small:
        values["optimizer"] |= {"lr_batches": 3000, "warmup_batches": 50, "reference_seconds": 3}
        values |= {"valid_every_steps": 500, "checkpoint_every_steps": 500, "average_every_steps": 20}
        values |= {"average_last_steps": 500}
    targets = f"tokens of {facts.teacher}" if facts.teacher else "random-projection targets (no teacher)"
    head = f"# The student on {facts.name}: size {facts.size}, {targets}.\n"
    return head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)
