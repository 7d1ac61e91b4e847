"""One cut as the rest of spear sees it, and reading cuts from JSONL."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spear import fs
from spear.errors import DataError

SAMPLE_RATE_HZ = 16000
DOMAIN_OF_KIND = {"speech": "speech", "event": "audio", "music": "audio"}


@dataclass(frozen=True)
class Item:
    """A stretch of a recording with what is known about it.

    Attributes:
        id: unique over all manifests of a corpus.
        path: the recording (absolute).
        start_seconds: where the cut starts in the recording.
        duration_seconds: how long it is.
        num_samples: its length at 16 kHz.
        speed: how many times as fast the recording is played, pitch included; start and length are of what is heard.
        domain: "speech" or "audio".
        kind: "speech", "event" or "music".
        speaker: name, or None; joined by + where several speak.
        text: transcript, or None.
        phones: phone sequence, or None.
        labels: class labels by key.
        split: "train" (pre-training may use it) or "heldout" (dev or test of some task).
        task_splits: "train", "dev" or "test" by task name.
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


def read_items(path: str | Path) -> list[Item]:
    """All of `iter_items` at once."""
    return list(iter_items(path))


def iter_items(path: str | Path) -> Iterator[Item]:
    """Reads a lhotse cuts JSONL file, such as `data/manifests/cuts_speech_train.jsonl`, one cut after the other.

    Recordings named relatively are found from the folder above the manifest's (`data/` for `data/manifests/x.jsonl`).
    Cuts of other origin work too: missing fields take their defaults, and `custom.kind` that of speech. The lines are
    read as JSON, since building lhotse's objects takes ten times as long. Of lhotse's transforms, changes of the speed
    are applied when audio is read.

    Raises:
        DataError: the file is missing, a line is not JSON, or it is not a cut of a recording in a file; or a recording
            has a transform that is not a change of the speed.
    """
    root = Path(path).absolute().parent.parent
    for number, cut in enumerate(fs.iter_jsonl(path), 1):
        try:
            item = _item(cut, root)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(
                f"line {number} of {path} is not a cut of a recording ({type(error).__name__}: {error})",
                "a lhotse MonoCut or MultiCut whose recording is a file",
                "run the manifests stage again",
            ) from error
        yield item


def _item(cut: dict, root: Path) -> Item:
    source = cut["recording"]["sources"][0]
    if source["type"] != "file":
        raise KeyError(f"recording source of type {source['type']}")
    supervision = (cut.get("supervisions") or [{}])[0]
    custom = {**(supervision.get("custom") or {}), **(cut.get("custom") or {})}
    kind, phones = custom.get("kind", "speech"), custom.get("phones")
    return Item(
        id=cut["id"],
        path=root / source["source"],
        start_seconds=float(cut["start"]),
        duration_seconds=float(cut["duration"]),
        num_samples=round(cut["duration"] * SAMPLE_RATE_HZ),
        domain=custom.get("domain", DOMAIN_OF_KIND[kind]),
        kind=kind,
        speaker=supervision.get("speaker"),
        text=supervision.get("text"),
        phones=None if phones is None else tuple(phones),
        labels=custom.get("labels") or {},
        split=custom.get("split", "train"),
        task_splits=custom.get("task_splits") or {},
        speed=_speed(cut["recording"]),
    )


def _speed(recording: dict) -> float:
    """The speed that lhotse's `perturb_speed` gave a recording; its other transforms change the sound as well."""
    speed = 1.0
    for transform in recording.get("transforms") or ():
        if transform["name"] == "Speed":
            speed *= float(transform["kwargs"]["factor"])
        elif transform["name"] != "Resample":  # audio is read at the rate that is wanted, whatever a manifest says
            raise DataError(
                f"recording {recording['id']} with lhotse's transform {transform['name']}",
                "recordings as they are stored, or with perturb_speed",
                "store the changed audio (lhotse's CutSet.save_audios), or leave these cuts out",
            )
    return speed
