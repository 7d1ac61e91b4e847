"""Writes a task in HEAR's layout, from clips that somebody makes."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spear import fs
from spear.audio.load import save_audio
from spear.errors import DataError
from spear.names import file_name


@dataclass(frozen=True)
class Clip:
    """A recording of a task.

    Attributes:
        name: without suffix; unique in its split.
        split: train, valid, test or a fold.
        wave_S: its samples, or what makes them when they are written.
        target: labels, or events {label, start, end} in milliseconds.
    """

    name: str
    split: str
    wave_S: np.ndarray | Callable[[], np.ndarray]
    target: list


def write_task(
    tasks_dir: Path,
    name: str,
    clips: Iterable[Clip],
    rate_hz: int,
    seconds: float | None,
    metadata: Mapping[str, Any],
    labels: Iterable[str] = (),
) -> dict[str, int]:
    """Writes `tasks_dir/name`, in the place of what was there; returns the clips of each split.

    Args:
        name: `{task}-{version}-{mode}`.
        rate_hz: of the clips.
        seconds: what they are cut or padded to; None: as they are.
        metadata: further fields of `task_metadata.json`.
        labels: of the vocabulary; by default those that occur.

    Raises:
        DataError: no clip.
    """
    folder = tasks_dir / name
    shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, dict[str, list]] = {}
    for clip in clips:
        wave_S = clip.wave_S() if callable(clip.wave_S) else clip.wave_S
        if seconds is not None:
            size = round(seconds * rate_hz)
            wave_S = np.pad(wave_S[:size], (0, max(0, size - len(wave_S))))
        wav = file_name(clip.name, ".wav")
        save_audio(folder / str(rate_hz) / clip.split / wav, wave_S, rate_hz)
        found.setdefault(clip.split, {})[wav] = clip.target
    if not found:
        raise DataError(f"no clip of {name}", "some", "give a folder with all its sources")
    occurring = {
        t["label"] if isinstance(t, dict) else t for files in found.values() for ts in files.values() for t in ts
    }
    lines = [f"{number},{label}" for number, label in enumerate(labels or sorted(occurring))]
    fs.write_text(folder / "labelvocabulary.csv", "\n".join(["idx,label", *lines, ""]))
    for split, files in found.items():
        fs.write_json(folder / f"{split}.json", files)
    task, version, mode = name.rsplit("-", 2)
    usual = {"task_name": task, "version": version, "mode": mode, "embedding_type": "scene", "splits": sorted(found)}
    usual |= {"prediction_type": "multiclass", "split_mode": "new_split_kfold", "sample_duration": seconds}
    fs.write_json(folder / "task_metadata.json", usual | dict(metadata))
    return dict(Counter({split: len(files) for split, files in sorted(found.items())}))
