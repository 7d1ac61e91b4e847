"""Lhotse's objects, as they come from others: typed, and never more than names of files.

A manifest of lhotse may say that audio or an array is what a command prints (`type: command`, `storage_path: pipe:...`,
Kaldi's archives), what a server sends, or a pickle. Nothing of this is followed: recordings are files, arrays are in
files of a format that holds nothing but numbers. Every door through which such an object enters uses this module.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from spear import fs, records
from spear.errors import DataError

SOURCE_TYPES = ("file",)
# Formats of lhotse's that hold arrays and nothing else, in files; and our shards (see `spear.manifest.exchange`).
STORAGE_TYPES = (
    "numpy_files",
    "numpy_hdf5",
    "lilcom_files",
    "lilcom_hdf5",
    "chunked_lilcom_hdf5",
    "lilcom_chunky",
    "spear_tokens",
)
CLAMPED_SECONDS = 0.01  # a frame: tools round starts, and a cut may then begin just before its recording
SHORTEST_SUPERVISION_SECONDS = 0.1  # shorter ones are slips of an alignment
LONGEST_SECONDS = 1e7  # nothing that was recorded lasts four months
SPEEDS = (0.01, 100.0)
MAX_CHANNELS = 1024
_MAX_PLACE_BYTES = 4096
# Clipping to [-1, 1] and nothing else, in lhotse's words.
CLIPPING = {"hard": True, "gain_db": 0.0, "normalize": False}
_DROPPED = re.compile(r"^[\x00-\x20]+|[\t\r\n]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

Place = Annotated[float, msgspec.Meta(ge=-LONGEST_SECONDS, le=LONGEST_SECONDS)]
Length = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)]


class CutArray(NamedTuple):
    """A cut's array in a manifest of lhotse's, or its labels in a file of HuBERT's tools.

    Attributes:
        id, num_samples: of the cut.
        load: reads the array, or what belongs to the cut of one that is longer; raises DataError where it is not what
            the manifest says, and whatever the reader of its format raises.
        problem: why it cannot be used at all; empty where it can.
        frame_shift_seconds: of a row, where the manifest states it.
        padded: the cut was padded, so that its array may be longer.
        place: where it is stored; with another one, it is another array.
    """

    id: str
    num_samples: int
    load: Callable[[], np.ndarray]
    problem: str = ""
    frame_shift_seconds: float | None = None
    padded: bool = False
    place: tuple = ()


class Source(msgspec.Struct):
    """A recording's source: one file with some of its channels."""

    type: str
    source: Any
    channels: Annotated[list[int], msgspec.Meta(min_length=1, max_length=MAX_CHANNELS)] = msgspec.field(
        default_factory=lambda: [0]
    )


class Transform(msgspec.Struct):
    """What lhotse does to audio after reading it."""

    name: str
    kwargs: dict[str, Any] = {}


class Recording(msgspec.Struct):
    """A recording; its duration is of what is heard, transforms included."""

    sources: list[Source]
    id: str = ""
    duration: Length | None = None
    transforms: list[Transform] | None = None


class Supervision(msgspec.Struct):
    """What is known about a stretch of a cut, or (on its own) of a recording. Starts count from there."""

    id: str = ""
    recording_id: str = ""
    start: Place = 0.0
    duration: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)] | None = None
    channel: int | list[int] | None = None
    text: str | int | float | None = None
    speaker: str | int | float | None = None
    custom: dict[str, Any] | None = None


class Cut(msgspec.Struct):
    """A stretch of a recording."""

    id: str
    start: Place
    duration: Length
    recording: Recording | None = None
    channel: int | list[int] | None = None
    supervisions: list[Supervision] | None = None
    custom: dict[str, Any] | None = None
    type: str = "MonoCut"


class ArrayRecord(msgspec.Struct):
    """Where an array is stored."""

    storage_type: str
    storage_path: str
    storage_key: str
    shape: list[records.Count]


class TemporalRecord(msgspec.Struct):
    """An array whose rows are `frame_shift` seconds of a recording, from `start` on."""

    array: ArrayRecord
    frame_shift: Annotated[float, msgspec.Meta(ge=1e-4, le=100)]
    start: Place = 0.0
    temporal_dim: records.Count = 0


class Audio(NamedTuple):
    """Which audio a cut is of.

    Attributes:
        source: the file, as the manifest names it.
        channel: which of the file's channels, from 0.
        of_channels: how many the manifest says that the file has.
        speed: how many times as fast it is played.
        gain: what samples are multiplied by; 0: they are clipped to full scale instead.
    """

    source: str
    channel: int | None
    of_channels: int
    speed: float
    gain: float


class Said(NamedTuple):
    """What the supervisions of a cut say about all of it."""

    text: str | None
    speaker: str | None
    custom: dict[str, Any]
    number: int


def convert(value: Any, record: type, what: str) -> Any:
    """A JSON value as a record; cuts that are no stretch of one recording are refused for what they are.

    Raises:
        DataError: it is none; what and which field are named.
    """
    kind = value.get("type") if isinstance(value, dict) else None
    if record is Cut and kind in ("MixedCut", "PaddingCut"):
        raise DataError(
            f"{what} of the kind {kind}", "a stretch of one recording (MonoCut)", "store its audio (CutSet.save_audios)"
        )
    return records.convert(value, record, what)


def iterate(path: Path, record: type, what: str, refuse: Callable[[str, str], None]) -> Iterator[Any]:
    """The lines of a JSONL (.gz) file as records; `refuse(id, reason)` is told of every line that is none.

    Raises:
        DataError: the file itself cannot be read.
    """
    for number, line in fs.iter_lines(path, escape=True):
        if not line.strip():
            continue
        value = None
        try:
            value = fs.parse_json(line, what)
            yield convert(value, record, what)
        except DataError as error:
            refuse(name_of(value, number), f"line {number}: {reason_of(error)}")


def text_problem(*texts: str | None) -> str:
    """Why texts cannot be written as UTF-8 (JSON may hold halves of characters); an empty text when they can."""
    try:
        "".join(text for text in texts if text).encode()
        return ""
    except UnicodeEncodeError:
        return "text with half a character (a lone surrogate)"


def name_of(value: Any, number: int) -> str:
    """A name for what stands in a line: its id if it has one."""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and found else f"line {number}"


def reason_of(error: DataError) -> str:
    """An error as the reason of a refusal."""
    return f"{error.found}; expected {error.expected.removeprefix('expected ')}"


def audio_of(recording: Recording | None, channel: int | list[int] | None, mean: bool = False) -> Audio:
    """The file and the channel that a cut or supervision is of.

    Args:
        recording: its recording.
        channel: as lhotse counts: over all files of a recording.
        mean: all channels of a file may be asked for, and stand for their mean.

    Raises:
        DataError: what is not in a file, more than one channel, a channel that is not there, or a transform other than
            a change of speed or volume. (Audio is read at the rate that is wanted, so resampling needs nothing.)
    """
    if recording is None:
        raise DataError("a cut without a recording", "one with it", "write it with its recording")
    if problem := next(filter(None, (source_problem(source.type, source.source) for source in recording.sources)), ""):
        raise DataError(problem, "a recording in a file", "store it as a file (CutSet.save_audios)")
    wanted = channel[0] if isinstance(channel, list) and len(channel) == 1 else channel
    sources = [s for s in recording.sources if wanted is None or isinstance(wanted, list) or wanted in s.channels]
    everything = isinstance(wanted, list) and len(sources) == 1 and sorted(wanted) == sorted(sources[0].channels)
    if isinstance(wanted, list) and not (mean and everything):
        raise DataError(
            f"a cut of {len(wanted)} channels (MultiCut)",
            "one channel",
            "make a cut for each channel (MultiCut.to_mono), or store their mean",
        )
    if len(sources) != 1:
        what = f"channel {wanted}" if wanted is not None else "no channel"
        raise DataError(
            f"{what} of a recording of {len(recording.sources)} files, of which {len(sources)} have it",
            "a channel that one file has",
            "correct the channel",
        )
    channels = sources[0].channels
    position = channels.index(wanted) if isinstance(wanted, int) else None
    return Audio(sources[0].source, position, len(channels), *_changes(recording))


def source_problem(kind: Any, place: Any) -> str:
    """Why audio, or an array, at a place of this kind is not read; an empty text for a file."""
    if kind not in SOURCE_TYPES:
        return f"audio of the type {str(kind)[:40]!r}, which is not read"
    return place_problem(place)


def place_problem(place: Any) -> str:
    """Why a place is not the name of a local file or folder; an empty text when it is."""
    try:
        named = isinstance(place, str) and place and "\0" not in place and len(os.fsencode(place)) <= _MAX_PLACE_BYTES
    except UnicodeEncodeError:  # half a character
        named = False
    if not named:
        return "a place that is no name of a file"
    # Readers of URLs drop some characters first, and a library may shorten "./x" to "x" before it looks.
    plain = _DROPPED.sub("", place)
    if place == "-" or os.path.normpath(plain).startswith("pipe:") or (_URL.match(plain) and "//" in plain):
        return f"{place[:60]!r}, which is no file"
    return ""


def storage_problem(kind: Any, place: Any) -> str:
    """Why an array that is stored in this way is not read; an empty text when it is."""
    if kind not in STORAGE_TYPES:
        return f"an array of the storage type {str(kind)[:40]!r}, which is not read"
    return place_problem(place)


def forbidden(value: Any) -> str:
    """Why an object must not be given to lhotse: something in it, however deep, is no file. Empty when it may be."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            problem = ""
            if "storage_type" in value:
                problem = storage_problem(value["storage_type"], value.get("storage_path"))
            elif "source" in value and "type" in value:
                problem = source_problem(value["type"], value["source"])
            if problem:
                return problem
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return ""


def _changes(recording: Recording) -> tuple[float, float]:
    """Speed and gain of a recording by lhotse's transforms; its others change the sound in other ways."""
    speed, gain = 1.0, 1.0
    for transform in recording.transforms or ():
        factor = transform.kwargs.get("factor")
        positive = isinstance(factor, int | float) and 0 < factor < 1e6
        if transform.name == "Speed" and positive and SPEEDS[0] <= factor <= SPEEDS[1]:
            speed *= factor
        elif transform.name == "Volume" and positive and gain > 0:
            gain *= factor
        elif transform.name == "Clipping" and transform.kwargs == CLIPPING and gain == 1:
            gain = 0.0
        elif transform.name != "Resample":  # audio is read at the rate that is wanted, whatever a manifest says
            raise DataError(
                f"a recording with lhotse's transform {transform.name[:40]}"
                + (f" by {str(factor)[:20]}" if transform.name in ("Speed", "Volume") else ""),
                "recordings as they are stored, or with perturb_volume, or perturb_speed by 0.01 to 100",
                "store the changed audio (lhotse's CutSet.save_audios), or leave these cuts out",
            )
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise DataError(f"a recording at {speed:g} times its speed", "0.01 to 100 times", "correct its transforms")
    return speed, gain


def clamp(start: float, duration: float) -> tuple[float, float]:
    """Start and duration in seconds of a cut that may begin a frame before its recording.

    Raises:
        DataError: it begins earlier, or nothing is left.
    """
    if start < 0:
        if start < -CLAMPED_SECONDS or duration + start <= 0:
            raise DataError(f"a start at {start:g} s", "a start within the recording", "correct the cut")
        start, duration = 0.0, duration + start
    return start, duration


def said_of(supervisions: list[Supervision] | None, duration: float) -> Said:
    """What all supervisions together say of a cut of so many seconds.

    Those that cover less than 0.1 s of it count only where no other does. Texts are joined in the order of their
    starts, different speakers by +; custom fields are those of the one that covers most.
    """
    if not supervisions:
        return Said(None, None, {}, 0)

    def covers(one: Supervision) -> float:
        stop = duration if one.duration is None else min(duration, one.start + one.duration)
        return stop - max(0.0, one.start)

    longest = max(supervisions, key=covers)
    counted = [one for one in supervisions if covers(one) >= SHORTEST_SUPERVISION_SECONDS] or [longest]
    counted.sort(key=lambda one: one.start)
    texts = [str(one.text) for one in counted if one.text not in (None, "")]
    speakers = dict.fromkeys(str(one.speaker) for one in counted if one.speaker not in (None, ""))
    return Said(" ".join(texts) or None, "+".join(speakers) or None, longest.custom or {}, len(counted))
