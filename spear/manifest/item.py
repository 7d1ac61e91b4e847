"""One cut as the rest of spear sees it, and reading cuts from JSONL."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear import fs
from spear.errors import DataError
from spear.log import get_logger
from spear.manifest import foreign
from spear.manifest.foreign import LONGEST_SECONDS, MAX_CHANNELS, SPEEDS
from spear.manifest.labels import human_label

SAMPLE_RATE_HZ = 16000
DOMAIN_OF_KIND = {"speech": "speech", "event": "audio", "music": "audio"}
DOMAINS = ("speech", "audio")
_SPEED_SUFFIX = re.compile(r"_sp[\d.]+$")
_NAMED = 5  # refused cuts that a warning names
logger = get_logger(__name__)


@dataclass(frozen=True)
class Item:
    """A stretch of a recording with what is known about it.

    Attributes:
        id: unique over all manifests of a corpus.
        path: the recording (absolute).
        start_seconds: where the cut starts in the recording.
        duration_seconds: how long it is; 0 stands for all of the recording, where nobody has measured it.
        num_samples: its length at 16 kHz.
        speed: how many times as fast the recording is played, pitch included; start and length are of what is heard.
        domain: "speech" or "audio".
        kind: "speech", "event" or "music".
        channel: which of the file's channels, from 0; None: their mean.
        gain: what its samples are multiplied by; 0: they are clipped to full scale instead.
        speaker: name, or None; joined by + where several speak.
        text: transcript, or None.
        phones: phone sequence, or None.
        labels: class labels by key.
        split: "train" (pre-training may use it) or "heldout" (dev or test of some task).
        task_splits: "train", "dev" or "test" by task name.

    Raises:
        DataError: a number out of its range, or a domain or kind that there is not.
    """

    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    num_samples: int
    domain: str
    kind: str
    speaker: str | None = None
    text: str | None = None
    phones: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    split: str = "train"
    task_splits: dict[str, str] = field(default_factory=dict)
    speed: float = 1.0
    channel: int | None = None
    gain: float = 1.0

    def __post_init__(self):
        for name, value, holds, range_ in (
            ("start_seconds", self.start_seconds, 0 <= self.start_seconds < LONGEST_SECONDS, "0 to 1e7"),
            ("duration_seconds", self.duration_seconds, 0 <= self.duration_seconds < LONGEST_SECONDS, "0 to 1e7"),
            ("num_samples", self.num_samples, self.num_samples >= 0, "0 or more"),
            ("speed", self.speed, SPEEDS[0] <= self.speed <= SPEEDS[1], "0.01 to 100"),
            ("channel", self.channel, self.channel is None or 0 <= self.channel < MAX_CHANNELS, "0 to 1023, or none"),
            ("gain", self.gain, 0 <= self.gain < 1e6, "0 to 1e6"),
            ("domain", self.domain, self.domain in DOMAINS, " or ".join(DOMAINS)),
            ("kind", self.kind, self.kind in DOMAIN_OF_KIND, ", ".join(DOMAIN_OF_KIND)),
        ):
            if not holds:
                raise DataError(f"{name} {value!r} of cut {self.id!r}", range_, "correct the cut, or leave it out")

    @property
    def of_people(self) -> str:
        """What says that a person is heard: speech, a transcript, or a label; empty when nothing does."""
        return "speech" if self.domain == "speech" else "a transcript" if self.text else human_label(self.labels)


def original_id(item_id: str) -> str:
    """The id of the recording that a copy at another speed was made of, by lhotse's rule (NAME_sp0.9)."""
    return _SPEED_SUFFIX.sub("", item_id)


def manifest_files(directory: str | Path) -> list[Path]:
    """The manifests of cuts in a folder, as stage 1 names them; gzipped ones, too."""
    return sorted(path for suffix in ("", ".gz") for path in Path(directory).glob(f"cuts_*.jsonl{suffix}"))


def read_items(path: str | Path, refused: list[dict] | None = None) -> list[Item]:
    """All of `iter_items` at once."""
    return list(iter_items(path, refused))


def iter_items(path: str | Path, refused: list[dict] | None = None) -> Iterator[Item]:
    """Reads a lhotse cuts JSONL (.gz) file, such as `data/manifests/cuts_speech_train.jsonl`, one cut after the other.

    Recordings named relatively are found from the folder above the manifest's (`data/` for `data/manifests/x.jsonl`).
    Cuts of other origin work too: missing fields take their defaults, and `custom.kind` that of speech; of several
    supervisions, see `spear.manifest.foreign.said_of`. The lines are read as JSON, since building lhotse's objects
    takes ten times as long. Of lhotse's transforms, changes of speed and volume are applied when audio is read. Cuts
    of several channels stand for their mean where stage 1 wrote them, and are refused where others did.

    Args:
        path: of the file.
        refused: receives {id, path, reason} of every cut that cannot be used. They are left out, with a warning.

    Raises:
        DataError: the file is missing, a line is not JSON, or none of its cuts can be used.
    """
    path = Path(path)
    root, found, count = path.absolute().parent.parent, [] if refused is None else refused, 0
    before = len(found)
    for number, line in fs.iter_lines(path):
        value = fs.parse_json(line, f"line {number} of {path}", "one JSON object on every line")
        try:
            item = to_item(value, root)
        except DataError as error:
            reason = f"line {number}: {foreign.reason_of(error)}"
            found.append({"id": foreign.name_of(value, number), "path": str(path), "reason": reason})
            continue
        count += 1
        yield item
    _report(path, found[before:], count)


def _report(path: Path, refused: list[dict], count: int) -> None:
    """Says which cuts of a manifest are left out."""
    if not refused:
        return
    if not count:
        kinds = Counter(row["reason"].partition(": ")[2] for row in refused)
        reasons = "; ".join(f"{times} x {reason}" for reason, times in kinds.most_common(3))
        raise DataError(
            f"{path} without a usable cut: {reasons}",
            "a lhotse MonoCut whose recording is a file",
            "run the manifests stage on it (--corpus lhotse), or write it again",
        )
    for row in refused[:_NAMED]:
        logger.warning("%s: left out %s: %s", path, row["id"], row["reason"])
    logger.warning("%s: %d of %d cuts are left out", path, len(refused), len(refused) + count)


def to_item(value: Any, root: Path) -> Item:
    """A cut's JSON object as an item, with recordings found from `root`.

    Raises:
        DataError: it is no stretch of one recording in a file; says what it is.
    """
    cut = foreign.convert(value, foreign.Cut, "a cut")
    start, duration = foreign.clamp(cut.start, cut.duration)
    said, own = foreign.said_of(cut.supervisions, duration), cut.custom or {}
    if not cut.id or (problem := foreign.text_problem(cut.id, said.text, said.speaker)):
        raise DataError(problem if cut.id else "a cut without an id", "an id, and texts in UTF-8", "correct the cut")
    audio = foreign.audio_of(cut.recording, cut.channel, mean="task_splits" in own)
    custom = {**said.custom, **own}
    kind = custom.get("kind", "speech")
    if not isinstance(kind, str):
        raise DataError("a kind that is no text", ", ".join(DOMAIN_OF_KIND), "correct custom.kind")
    return Item(
        id=cut.id,
        path=root / audio.source,
        start_seconds=start,
        duration_seconds=duration,
        num_samples=round(duration * SAMPLE_RATE_HZ),
        domain=custom.get("domain", DOMAIN_OF_KIND.get(kind, "")),
        kind=kind,
        speaker=said.speaker,
        text=said.text,
        phones=_phones(custom.get("phones")) if said.number <= 1 else None,
        labels=_texts(custom.get("labels")),
        split=str(custom.get("split", "train")),
        task_splits=_texts(custom.get("task_splits")),
        speed=audio.speed,
        channel=audio.channel if audio.of_channels > 1 else None,
        gain=audio.gain,
    )


def _texts(found: Any) -> dict[str, str]:
    """Those values of a foreign field that can be labels."""
    values = found.items() if isinstance(found, dict) else ()
    return {key: str(value) for key, value in values if isinstance(value, str | int | float)}


def _phones(found: Any) -> tuple[str, ...] | None:
    if found is None:
        return None
    phones = found.split() if isinstance(found, str) else found
    if not isinstance(phones, list) or not all(isinstance(phone, str) for phone in phones):
        raise DataError("phones that are no texts", "a list of texts", "correct custom.phones")
    return tuple(phones)
