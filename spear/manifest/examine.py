"""Decoding every recording once, before anything relies on it, and cutting long ones into windows."""

from pathlib import Path

from spear.audio import load_audio
from spear.audio.levels import Levels, full_scale_gain
from spear.audio.load import blocks, info_of, open_sound
from spear.errors import DataError

_LOSSY = ("MP3", "MPEG", "OGG")
_LOST_FRACTION, _LOST_SECONDS = 0.02, 0.1  # a recording shorter than declared by more than both has lost its end


def examine_unit(unit: dict) -> dict:
    """Examines the recordings of a unit of work {root, min_seconds, max_seconds, decode, full_scale, files}.

    A file is {id, path, declared} or, for a segment of one, {id, path, declared, start}, and may have `channel` and
    `speed`: windows are then of what is heard, at the file's rate. A segment without `declared` lasts to the end.
    `decode` false reads headers only, and what is damaged or too loud shows when it is first used.

    Returns:
        {"results": [...]}: for each file either {id, reason} or {id, sample_rate_hz, num_samples, num_channels,
        windows: [[first sample, number of samples], ...], silent_windows}, and where they are called for: peak (beyond
        full scale), gain (see `load_audio`), channel (the loudest, where the mean of all cancels).
    """
    return {"results": [_examine(Path(unit["root"]), file, unit) for file in unit["files"]]}


def _examine(root: Path, file: dict, limits: dict) -> dict:
    path, decode = root / file["path"], limits.get("decode", True)
    try:
        if path.stat().st_size == 0:
            return {"id": file["id"], "reason": "empty file"}
        with open_sound(path, thorough=decode) as sound:
            info = info_of(sound)
            if file.get("channel", 0) >= info.num_channels:
                return {"id": file["id"], "reason": f"no channel {file['channel']}: the file has {info.num_channels}"}
            begin, count, reason = _extent(info, file, limits)
            if reason:
                return {"id": file["id"], "reason": reason}
            windows = split_windows(count, info.sample_rate_hz, limits["max_seconds"])
            windows = [[begin + start, length] for start, length in windows]
            result = {"id": file["id"], "sample_rate_hz": info.sample_rate_hz, "num_samples": info.num_samples}
            result |= {"num_channels": info.num_channels, "windows": windows, "silent_windows": 0}
            if not decode:
                return result
            levels = [_measure(sound, path, window, file) for window in windows]
        return _judge(result, levels, sound.format in _LOSSY, limits.get("full_scale", "rescale"))
    except (DataError, OSError) as error:
        # The path is in the quarantine entry already; a reason that does not repeat it can be counted.
        reason = error.found if isinstance(error, DataError) else str(error)
        return {"id": file["id"], "reason": reason.replace(str(path), "the file")}


def _measure(sound, path: Path, window: list[int], file: dict) -> Levels:
    """Decodes a window (which raises DataError when it is damaged) at the file's own rate."""
    channel, speed = file.get("channel"), file.get("speed", 1.0)
    if speed != 1:
        start, length = (samples / sound.samplerate for samples in window)
        levels = Levels(1)
        levels.add(load_audio(path, sound.samplerate, start, length, speed, channel)[:, None])
        return levels
    levels = Levels(1 if channel is not None else sound.channels)
    for block_TC in blocks(sound, path, *window):
        levels.add(block_TC if channel is None else block_TC[:, channel : channel + 1])
    return levels


def _judge(result: dict, levels: list[Levels], lossy: bool, full_scale: str) -> dict:
    """Adds what the levels of a recording's windows call for, or replaces it by the reason why it cannot be used."""
    whole = Levels(levels[0].num_channels)
    for each in levels:
        whole.merge(each)
    if whole.num_not_finite:
        return {"id": result["id"], "reason": f"the file holds {whole.num_not_finite} samples that are not finite"}
    gain, reason = full_scale_gain(whole.peak, lossy, full_scale)
    channel = whole.cancelled_channel
    if reason := reason or whole.nothing(channel):
        return {"id": result["id"], "reason": reason}
    windows = [window for window, each in zip(result["windows"], levels) if not each.nothing(channel)]
    if not windows:
        return {"id": result["id"], "reason": "silent, or only an offset, in every window"}
    result |= {"windows": windows, "silent_windows": len(levels) - len(windows)}
    result |= {"peak": whole.peak} if whole.peak > 1 else {}
    result |= {} if gain == 1 else {"gain": gain}
    return result | ({} if channel is None else {"channel": channel})


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
