"""Examined recordings as lhotse cuts: the one place that builds lhotse objects for stage 1."""

from collections.abc import Sequence

from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.augmentation import Clipping, Volume
from lhotse.utils import fastcopy

from spear.audio.levels import CLIPPED
from spear.manifest.foreign import CLIPPING
from spear.manifest.item import DOMAIN_OF_KIND
from spear.manifest.scan import Entry


def make_cuts(
    entry: Entry, result: dict, source: str, split: str, task_splits: dict[str, str], speeds: Sequence[float] = ()
) -> list[dict]:
    """The lhotse cuts of a recording, one per window, each followed by copies of it at other speeds.

    Recordings of several channels become MultiCuts, which stand for the mean, where none of the channels is named. Text
    and phones are of the whole: windows do not have them. Copies belong to no task.
    """
    rate, channels = result["sample_rate_hz"], list(range(result["num_channels"]))
    recording = Recording(
        id=entry.recording or entry.id,
        sources=[AudioSource(type="file", channels=channels, source=source)],
        sampling_rate=rate,
        num_samples=result["num_samples"],
        duration=result["num_samples"] / rate,
        channel_ids=channels,
    )
    if gain := [_change(result["gain"])] if "gain" in result else []:
        recording = fastcopy(recording, transforms=gain)
    if entry.speed != 1:
        recording = recording.perturb_speed(entry.speed, affix_id=False)
    # Of the item, which may be a segment: text and phones belong to all of it.
    whole = len(result["windows"]) == 1 and not result["silent_windows"]
    custom = {"kind": entry.kind, "domain": DOMAIN_OF_KIND[entry.kind], "split": split, "task_splits": task_splits}
    labels = {"labels": entry.labels, **({"phones": entry.phones} if whole and entry.phones else {})}
    channel = entry.channel if entry.channel is not None else result.get("channel")
    channel = channel if channel is not None else channels if len(channels) > 1 else 0
    cuts = []
    for number, (start, count) in enumerate(result["windows"]):
        cut_id = entry.id if whole else f"{entry.id}-w{number:04d}"
        supervision = SupervisionSegment(
            id=cut_id,
            recording_id=entry.recording or entry.id,
            start=0.0,
            duration=count / rate,
            channel=channel,
            text=entry.text if whole else None,
            speaker=entry.speaker,
            custom=labels,
        )
        kind = MultiCut if isinstance(channel, list) else MonoCut
        cut = kind(
            id=cut_id,
            start=start / rate,
            duration=count / rate,
            channel=channel,
            recording=recording,
            supervisions=[supervision],
            custom=custom,
        )
        copies = [cut.perturb_speed(speed) for speed in speeds]
        cuts += [cut.to_dict(), *(_without_tasks(copy.to_dict()) for copy in copies)]
    return cuts


def _change(gain: float) -> Clipping | Volume:
    """A gain as a transform of lhotse's, so that lhotse hears the same."""
    return Clipping(**CLIPPING) if gain == CLIPPED else Volume(factor=gain)


def _without_tasks(cut: dict) -> dict:
    return {**cut, "custom": {**cut["custom"], "task_splits": {}}}
