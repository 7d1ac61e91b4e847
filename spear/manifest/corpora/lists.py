"""Corpora that come as JSONL lists: lhotse's manifests (also those of Libriheavy) and NeMo's."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from spear.errors import DataError
from spear.manifest import foreign
from spear.manifest.foreign import Cut, Recording, Supervision
from spear.manifest.item import DOMAIN_OF_KIND
from spear.manifest.scan import Entry, Scan, files_below
from spear.manifest.words import is_held_out

_ENOUGH_FILES = 100  # found under a rule, which is then certain
_MOST_DROPPED = 32  # leading parts of a name


class NemoLine(msgspec.Struct):
    """A line of NeMo's manifests; numbers may be texts."""

    audio_filepath: str
    duration: float | str | None = None
    offset: float | str | None = None
    text: str | int | float | None = None
    speaker: str | int | float | None = None
    id: str | int | None = None
    utt_id: str | int | None = None


class _Manifest:
    """What one manifest lists: entries whose paths are as they stand there, and what is refused."""

    def __init__(self, raw: Path, path: Path, kind: str, fill: Callable[["_Manifest"], None]):
        self.path, self.kind, self.entries = path, kind, []
        self.refused: list[dict] = []
        self.heldout = is_held_out(os.path.relpath(path, raw))
        self.failed: DataError | None = None
        try:
            fill(self)
        except DataError as error:  # damaged, in another encoding, or something else altogether
            self.failed, self.entries, self.refused = error, [], []

    def refuse(self, item_id: str, reason: str) -> None:
        """Lists what cannot be used."""
        self.refused.append({"id": item_id, "path": self.path.name, "reason": reason})

    def take(self, item_id: str, make: Callable[..., Entry], *arguments) -> None:
        """Adds an entry, or refuses it with the reason why it cannot be made."""
        try:
            self.entries.append(make(self, *arguments))
        except DataError as error:
            self.refuse(item_id, foreign.reason_of(error))


# Where recordings are ----------------------------------------------------------------------------------------------


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _rule(raw: Path, manifest: Path, sources: Iterable[str]) -> tuple[Path, int]:
    """From where a manifest names its recordings: a folder, and how many leading parts are dropped.

    Lists name their audio from the directory in which somebody once ran a script (download/librilight/...). What is
    dropped is therefore the beginning of every name in the manifest, so that two names never become the same. Of all
    such rules, the one under which most files are there; the shortest among equals.
    """
    parts = {source: Path(source).parts for source in sources}
    common = os.path.commonprefix([found[:-1] for found in parts.values()])
    rules = [(base, count) for count in range(min(len(common), _MOST_DROPPED) + 1) for base in (raw, manifest.parent)]
    hits: Counter = Counter()
    enough = 0
    for found in parts.values():
        here = [(base, count) for base, count in rules if _is_file(base.joinpath(*found[count:]))]
        hits.update(here)
        enough += bool(here)
        if enough == _ENOUGH_FILES:
            break
    return max(rules, key=lambda rule: hits[rule])


def _scan(raw: Path, manifests: list[_Manifest]) -> Scan:
    """Joins manifests, with paths relative to `raw`; no file answers for two names, of one manifest or of several."""
    found = Scan([], [], has_manifest=True)
    rules = [_rule(raw, manifest.path, {entry.path for entry in manifest.entries}) for manifest in manifests]
    owner: dict[Path, str] = {}
    # Names taken as they stand come first: what is dropped from others must not lead to the files of these.
    for number in sorted(range(len(manifests)), key=lambda number: rules[number][1]):
        manifest, (base, count) = manifests[number], rules[number]
        found.refused += manifest.refused
        if manifest.failed:
            found.leave_out(manifest.path, manifest.failed)
        for entry in manifest.entries:
            source = entry.path
            place = base.joinpath(*Path(source).parts[count:])
            if not _is_file(place):
                entry.path = source.lstrip("/")
            elif count and owner.setdefault(place, source) != source:
                reason = f"a name whose folder is not there; the file of this name is that of {owner[place]}"
                found.refused.append({"id": entry.id, "path": source, "reason": reason})
                continue
            else:
                owner.setdefault(place, source)
                entry.path = os.path.relpath(place, raw)
            found.entries.append(entry)
    return found


# lhotse ------------------------------------------------------------------------------------------------------------


def _files(raw: Path, word: str) -> list[Path]:
    found = [raw / name for name in files_below(raw)[0] if name.endswith((".jsonl", ".jsonl.gz"))]
    return [path for path in found if word in path.name]


def lhotse(raw: Path, kind: str) -> Scan:
    """Cuts, or else recordings with supervisions, in JSONL files anywhere below the folder.

    Of a cut, id, recording, channel, start, duration and what its supervisions say (see `foreign.said_of`) are taken;
    files whose names or folders say dev, test or valid are held out. Recordings that perturb_speed has changed are read
    at their speed; cuts that it has changed are refused, since --speed-perturb makes such copies.

    What is no stretch of one channel of a recording in a file is refused, one by one, and so are files that cannot be
    read, and supervisions without a file of recordings.
    """
    cuts = _files(raw, "cuts")
    if cuts:
        return _scan(raw, [_Manifest(raw, path, kind, _fill_from_cuts) for path in cuts])
    return _scan(raw, [_Manifest(raw, path, kind, _fill_from_supervisions) for path in _files(raw, "supervisions")])


def _fill_from_cuts(manifest: _Manifest) -> None:
    for cut in foreign.iterate(manifest.path, Cut, "a cut", manifest.refuse):
        manifest.take(cut.id, _of_cut, cut)


def _fill_from_supervisions(manifest: _Manifest) -> None:
    recordings = _recordings(manifest.path, manifest)
    for segment in foreign.iterate(manifest.path, Supervision, "a supervision", manifest.refuse):
        manifest.take(segment.id, _of_supervision, segment, recordings)


def _recordings(supervisions: Path, manifest: _Manifest) -> dict[str, Recording]:
    path = supervisions.with_name(supervisions.name.replace("supervisions", "recordings"))
    packed = path.name.endswith(".gz")
    other = path.with_name(path.name.removesuffix(".gz") if packed else f"{path.name}.gz")
    path = next((place for place in (path, other) if place.exists()), path)
    if not path.exists():
        raise DataError(f"{supervisions} without {path.name}", "both, as lhotse prepare writes them", "copy it there")
    return {one.id: one for one in foreign.iterate(path, Recording, "a recording", manifest.refuse)}


def _of_supervision(manifest: _Manifest, segment: Supervision, recordings: dict[str, Recording]) -> Entry:
    if segment.recording_id not in recordings:
        raise DataError(
            f"a supervision of the recording {segment.recording_id!r}, which is not listed",
            "one of the recordings beside it",
            "add it to the recordings",
        )
    if segment.duration is None or not segment.id:
        raise DataError("a supervision without id or duration", "both", "write it again with lhotse")
    cut = Cut(
        segment.id,
        segment.start,
        segment.duration,
        recordings[segment.recording_id],
        0 if segment.channel is None else segment.channel,  # lhotse's default
        [msgspec.structs.replace(segment, start=0.0)],
    )
    return _of_cut(manifest, cut, copies=True)


def _of_cut(manifest: _Manifest, cut: Cut, copies: bool = False) -> Entry:
    """The entry of a cut.

    Raises:
        DataError: it is not what can be read; says why.
    """
    own, recording = cut.custom or {}, cut.recording
    audio = foreign.audio_of(recording, cut.channel, mean="task_splits" in own)
    if audio.gain != 1:
        raise DataError(
            "a recording with lhotse's transform Volume or Clipping",
            "recordings as they are stored",
            "leave the change out, or store the changed audio (CutSet.save_audios)",
        )
    if audio.speed != 1 and not copies:
        raise DataError(
            "not a recording as it is stored, but a copy that perturb_speed made",
            "cuts at their own speed",
            "leave copies out, and make them with --speed-perturb",
        )
    start, duration = foreign.clamp(cut.start, cut.duration)
    said = foreign.said_of(cut.supervisions, duration)
    custom = {**said.custom, **own}
    texts = custom.get("texts")  # of Libriheavy: with punctuation and case, and without
    text = said.text or (texts[0] if isinstance(texts, list) and texts and isinstance(texts[0], str) else None)
    whole = start == 0 and recording.duration is not None and abs(duration - recording.duration) < 1e-3
    several = len(recording.sources) > 1  # files that are one recording to lhotse, and several to us
    return Entry(
        cut.id,
        audio.source,
        custom["kind"] if custom.get("kind") in tuple(DOMAIN_OF_KIND) else manifest.kind,
        duration_seconds=duration,
        speaker=said.speaker,
        text=text,
        start_seconds=None if whole else start,
        recording=f"{recording.id}-{Path(audio.source).stem}" if several else recording.id or None,
        heldout=manifest.heldout,
        channel=audio.channel,
        speed=audio.speed,
    )


# NeMo --------------------------------------------------------------------------------------------------------------


def nemo(raw: Path, kind: str) -> Scan:
    """NeMo's manifests: {"audio_filepath", "duration", "offset", "text"}, as YODAS-Granary has them.

    The id is the manifest's own (`id` or `utt_id`) or the audio's name with its offset in milliseconds. Numbers may be
    texts; without a duration, a stretch lasts to the end of its recording. Lines that cannot be used (such as those
    with a list of files) are refused, one by one, and so are files without one line of this kind.
    """
    suffixes = (".json", ".jsonl", ".jsonl.gz", ".json.gz")
    names = [name for name in files_below(raw)[0] if name.endswith(suffixes)]
    return _scan(raw, [_Manifest(raw, raw / name, kind, _fill_from_nemo) for name in names])


def _fill_from_nemo(manifest: _Manifest) -> None:
    for line in foreign.iterate(manifest.path, NemoLine, "a line", manifest.refuse):
        manifest.take(_nemo_id(line, None), _of_line, line)
    if not manifest.entries and manifest.refused:
        raise DataError(
            f"{manifest.path} without a line that can be used, such as {manifest.refused[0]['reason']}",
            "a manifest of NeMo, one JSON object with audio_filepath a line",
            "correct it, or move other files away",
        )


def _nemo_id(line: NemoLine, offset: float | None) -> str:
    place = f"-{round(1000 * offset):08d}" if offset is not None else ""
    own = next((str(found) for found in (line.id, line.utt_id) if found not in (None, "")), "")
    # Without what leads to another folder: ids may become parts of paths.
    parts = [part for part in os.path.splitext(line.audio_filepath)[0].split("/") if part not in ("", ".", "..")]
    return own or "/".join(parts) + place


def _of_line(manifest: _Manifest, line: NemoLine) -> Entry:
    if problem := foreign.place_problem(line.audio_filepath):
        raise DataError(problem, "a recording in a file", "correct audio_filepath")
    offset, duration = _seconds(line.offset, "offset"), _seconds(line.duration, "duration")
    if offset is not None:
        start, end = foreign.clamp(offset, math.inf if duration is None else duration)
        offset, duration = start, None if end == math.inf else end
    if duration is not None and duration <= 0:
        raise DataError(f"a duration of {duration:g} s", "more than 0", "correct the line")
    return Entry(
        _nemo_id(line, offset),
        line.audio_filepath,
        manifest.kind,
        duration_seconds=duration,
        speaker=None if line.speaker in (None, "") else str(line.speaker),
        text=None if line.text in (None, "") else str(line.text),
        start_seconds=offset,
        recording=line.audio_filepath if offset is not None else None,
        heldout=manifest.heldout,
    )


def _seconds(value: float | str | None, name: str) -> float | None:
    """A time of NeMo's, which some tools write as text; an empty one is none.

    Raises:
        DataError: it is no finite number.
    """
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not abs(seconds) < foreign.LONGEST_SECONDS:
        raise DataError(f"{name} {str(value)[:40]!r}", "a number of seconds, within 1e7", "correct the line")
    return seconds
