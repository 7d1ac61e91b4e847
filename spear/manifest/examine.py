"""Decoding every recording once, before anything relies on it, and cutting long ones into windows."""

from pathlib import Path

import numpy as np

from spear.audio import load_audio, probe
from spear.errors import DataError

SILENCE = 2.0**-16  # less than half a step of 16-bit audio
_LOST_FRACTION, _LOST_SECONDS = 0.02, 0.1  # a recording shorter than declared by more than both has lost its end


def examine_unit(unit: dict) -> dict:
    """Examines the recordings of a unit of work {root, min_seconds, max_seconds, decode, files}.

    A file is {id, path, declared} or, for a segment of one, {id, path, declared, start}, and may have `channel` and
    `speed`: windows are then of what is heard, at the file's rate. A segment without `declared` lasts to the end.
    `decode` false reads headers only, and what is damaged shows when it is first used.

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
        if file.get("channel", 0) >= info.num_channels:
            return {"id": file["id"], "reason": f"no channel {file['channel']}: the file has {info.num_channels}"}
        begin, count, reason = _extent(info, file, limits)
        if reason:
            return {"id": file["id"], "reason": reason}
        windows, silent = [], 0
        for start, length in split_windows(count, info.sample_rate_hz, limits["max_seconds"]):
            if limits.get("decode", True) and _is_silent(path, info.sample_rate_hz, begin + start, length, file):
                silent += 1
            else:
                windows.append([begin + start, length])
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


def _extent(info, file: dict, limits: dict) -> tuple[int, int, str]:
    """First sample and number of samples of a recording or segment, or the reason why it cannot be used."""
    declared, speed = file["declared"] or 0.0, file.get("speed", 1.0)
    heard = info.num_samples if speed == 1 else round(info.num_samples / speed)
    if (start := file.get("start")) is None:
        begin, count, there = 0, heard, heard / info.sample_rate_hz
    else:
        begin = min(heard, round(start * info.sample_rate_hz))
        there = max(0.0, heard / info.sample_rate_hz - start)
        count = heard - begin
        if file["declared"] is not None:
            count = min(count, round(declared * info.sample_rate_hz))
    if count / info.sample_rate_hz < limits["min_seconds"]:
        return 0, 0, f"too short: {count / info.sample_rate_hz:.4f} s, {count} samples"
    lost = declared - there
    if lost > _LOST_SECONDS and lost > _LOST_FRACTION * declared:
        return 0, 0, f"truncated: {there:.3f} s of the {declared:.3f} s in the manifest"
    return begin, count, ""


def split_windows(num_samples: int, sample_rate_hz: int, max_seconds: float) -> list[tuple[int, int]]:
    """(first sample, count) of equal windows of at most `max_seconds` that cover a recording."""
    number = max(1, -(-num_samples // max(1, int(max_seconds * sample_rate_hz))))
    edges = [round(place * num_samples / number) for place in range(number + 1)]
    return [(start, stop - start) for start, stop in zip(edges, edges[1:])]


def _is_silent(path: Path, rate: int, start: int, count: int, file: dict) -> bool:
    """Decodes a window (which raises DataError when it is damaged) at the file's own rate."""
    samples = load_audio(path, rate, start / rate, count / rate, file.get("speed", 1.0), file.get("channel"))
    return float(np.abs(samples).max(initial=0.0)) < SILENCE
