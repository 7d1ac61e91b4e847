"""Decoding every recording once, before anything relies on it, and cutting long ones into windows."""

from pathlib import Path

import numpy as np

from spear.audio import load_audio, probe
from spear.errors import DataError

SILENCE = 2.0**-16  # less than half a step of 16-bit audio
_LOST_FRACTION, _LOST_SECONDS = 0.02, 0.1  # a recording shorter than declared by more than both has lost its end


def examine_unit(unit: dict) -> dict:
    """Examines the recordings of a unit of work {root, min_seconds, max_seconds, files: [{id, path, declared}]}.

    Returns:
        {"results": [...]}: for each file either {id, reason} or {id, sample_rate_hz, num_samples, num_channels,
        windows: [[first sample, number of samples], ...], silent_windows}.
    """
    return {"results": [_examine(Path(unit["root"]), file, unit) for file in unit["files"]]}


def _examine(root: Path, file: dict, limits: dict) -> dict:
    path = root / file["path"]
    try:
        if path.stat().st_size == 0:
            return {"id": file["id"], "reason": "empty file"}
        info = probe(path)
        if info.duration_seconds < limits["min_seconds"]:
            return {"id": file["id"], "reason": f"too short: {info.duration_seconds:.4f} s, {info.num_samples} samples"}
        lost = (file["declared"] or 0.0) - info.duration_seconds
        if lost > _LOST_SECONDS and lost > _LOST_FRACTION * file["declared"]:
            reason = f"truncated: {info.duration_seconds:.3f} s of the {file['declared']:.3f} s in the manifest"
            return {"id": file["id"], "reason": reason}
        windows, silent = [], 0
        for start, count in split_windows(info.num_samples, info.sample_rate_hz, limits["max_seconds"]):
            if _is_silent(path, info.sample_rate_hz, start, count):
                silent += 1
            else:
                windows.append([start, count])
    except (DataError, OSError) as error:
        # The path is in the quarantine entry already; a reason that does not repeat it can be counted.
        reason = error.found if isinstance(error, DataError) else str(error)
        return {"id": file["id"], "reason": reason.replace(str(path), "the file")}
    if not windows:
        return {"id": file["id"], "reason": "silent: every sample is zero"}
    format_ = {
        "sample_rate_hz": info.sample_rate_hz,
        "num_samples": info.num_samples,
        "num_channels": info.num_channels,
    }
    return {"id": file["id"], **format_, "windows": windows, "silent_windows": silent}


def split_windows(num_samples: int, sample_rate_hz: int, max_seconds: float) -> list[tuple[int, int]]:
    """(first sample, count) of equal windows of at most `max_seconds` that cover a recording."""
    number = max(1, -(-num_samples // max(1, int(max_seconds * sample_rate_hz))))
    edges = [round(place * num_samples / number) for place in range(number + 1)]
    return [(start, stop - start) for start, stop in zip(edges, edges[1:])]


def _is_silent(path: Path, rate: int, start: int, count: int) -> bool:
    """Decodes a window (which raises DataError when it is damaged) at the file's own rate."""
    samples = load_audio(path, rate, start / rate, count / rate)
    return float(np.abs(samples).max(initial=0.0)) < SILENCE
