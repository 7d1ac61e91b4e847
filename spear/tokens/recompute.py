"""Tokens made again from the audio, for a sample: the only check that would notice other audio under the same ids."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spear.shards import ShardStore
from spear.tokens.extract import embed, read_audio
from spear.tokens.streams import Stream
from spear.tokens.units import Item, item_frames

# Rounding differs between processors and batches, and moves a code here and there; other audio moves nearly all.
LEAST_AGREEMENT = 0.5
LEAST_MEAN_AGREEMENT = 0.9


@dataclass
class Agreement:
    """Share of equal codes by cut, and the cuts whose audio cannot be read, with the reason."""

    stream: str
    shares: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over all cuts that were made again; NaN without any."""
        return float(np.mean(list(self.shares.values()))) if self.shares else float("nan")

    def problems(self) -> list[str]:
        """What is wrong, in words; empty when the tokens are those of the audio."""
        found = [f"{item}: {reason}" for item, reason in self.unreadable.items()]
        found += [
            f"{item}: {share:.0%} of the codes are those of its audio"
            for item, share in self.shares.items()
            if share < LEAST_AGREEMENT
        ]
        if not found and self.mean < LEAST_MEAN_AGREEMENT:
            found.append(f"{self.mean:.1%} of all codes are those of the audio: another teacher, layer or quantizer")
        return found


def recompute(stream: Stream, items: Sequence[Item], number: int, seed: int = 0) -> Agreement:
    """Makes the tokens of some cuts again and compares them with what is stored.

    Args:
        stream: with its teacher and quantizer; its directory is read, not written.
        items: all cuts.
        number: of cuts to take, chosen by the hash of their ids.
        seed: another one takes other cuts.
    """
    store, found = ShardStore(stream.directory), Agreement(stream.name)
    there = [item for item in items if stream.takes(item) and item.id in store]
    there.sort(key=lambda item: hashlib.blake2b(f"{seed} {item.id}".encode("utf-8", "surrogateescape")).digest())
    for item in there[:number]:
        audio = read_audio(item, {stream.teacher.sample_rate})
        if isinstance(audio, str):
            found.unreadable[item.id] = audio
            continue
        (frames_TD,) = embed(stream.teacher, [audio[stream.teacher.sample_rate]], [item.id])
        new_TN, old_TN = stream.rows(frames_TD[: item_frames(item, stream.teacher)]), store.read(item.id)
        length = min(len(new_TN), len(old_TN))
        longest = max(len(new_TN), len(old_TN), 1)
        found.shares[item.id] = float((new_TN[:length] == old_TN[:length]).mean(axis=1).sum() / longest)
    return found
