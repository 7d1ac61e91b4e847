"""`spear recipe new`: a working recipe for a folder of recordings, with limits that fit the machine."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import spear
from spear import fs
from spear.errors import ConfigError, DataError
from spear.manifest.scan import scan
from spear.recipe.templates import Facts, corpus_name, render


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
    """Makes the recipe, whole or not at all, and returns its directory.

    Raises:
        ConfigError: something is there already, or an unknown kind or size. DataError: no audio in the folder, or no
            room or right to write.
    """
    place, audio = Path(settings.path), Path(settings.audio)
    if place.is_symlink() or (place.exists() and any(place.iterdir() if place.is_dir() else [place])):
        raise ConfigError(f"{place}, which exists", "a new directory", "choose another, or remove it")
    size = settings.size or ("base" if torch.cuda.is_available() else "mini")
    name = corpus_name(audio.resolve().name)
    facts = Facts(name, settings.kind, size, settings.teacher, settings.num_codebooks, 0)
    facts = replace(facts, recordings=len(scan(audio, settings.kind).entries))
    shared = Path(spear.__file__).resolve().parents[1] / "shared"
    if not (shared / "corpora.sh").exists():
        raise DataError(f"no {shared}", "the repository's scripts", "run this from a checkout (pip install -e .)")
    with whole(place) as draft:
        for file, text in render(facts).items():
            fs.write_text(draft / file, text)
            if file.endswith((".sh", ".py")):
                (draft / file).chmod((draft / file).stat().st_mode | 0o111)
        _share(draft, place.resolve(), shared)
        (draft / "data" / "raw").mkdir(parents=True)
        (draft / "data" / "raw" / name).symlink_to(audio.resolve())
    return place


@contextlib.contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A directory beside `place`; its content moves there when the block ends well, and is removed when it does not."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".recipe-", dir=place.resolve().parent))
        try:
            draft = scratch / "recipe"
            draft.mkdir()
            yield draft
            if not place.exists():
                os.rename(draft, place)
            else:  # empty, and perhaps where the user stands
                for part in sorted(draft.iterdir()):
                    os.replace(part, place / part.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{place} cannot be written ({error.strerror})", "room, and the right to write there", "choose another path"
        ) from error


def _share(draft: Path, place: Path, shared: Path) -> None:
    """A link to the repository's shared/ inside it, and a copy outside: a recipe never points out of its tree."""
    if place.is_relative_to(shared.parent):
        (draft / "shared").symlink_to(os.path.relpath(shared, place))
    else:
        shutil.copytree(shared, draft / "shared", ignore=shutil.ignore_patterns("__pycache__"))
