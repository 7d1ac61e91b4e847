"""What published protocols do to audio before the encoder: the level is lowered, silence is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from spear.manifest import Item

_RATE_HZ = 16000
_WINDOW, _PERIOD = _RATE_HZ // 50, _RATE_HZ // 10  # 20 ms of level, 0.1 s of sound or of silence
_THRESHOLD = 0.001  # 0.1 % of full scale


@dataclass(frozen=True)
class Excerpt(Item):
    """An item whose audio is changed when it is read.

    Attributes:
        gain_db: added to the level.
        kept: stretches [start, stop) of the recording that remain, in samples at 16 kHz; none: all of it. The item's
            duration is then theirs together, and its start is 0.
        padded_seconds: shorter audio is filled up with zeros to so much; 0: it is not.
    """

    gain_db: float = 0.0
    kept: tuple[tuple[int, int], ...] = ()
    padded_seconds: float = 0.0

    def change(self, wave_S: np.ndarray, sample_rate: int) -> np.ndarray:
        """The excerpt's audio from that of the recording (or, where nothing is cut, of the item), at any rate."""
        if self.kept:
            scale = sample_rate / _RATE_HZ
            wave_S = np.concatenate([wave_S[round(a * scale) : round(b * scale)] for a, b in self.kept])
        wave_S = np.pad(wave_S, (0, max(0, round(self.padded_seconds * sample_rate) - len(wave_S))))
        return wave_S * np.float32(10 ** (self.gain_db / 20)) if self.gain_db else wave_S


def with_gain(item: Item, gain_db: float) -> Excerpt:
    """The item at another level."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return Excerpt(**values | {"gain_db": gain_db})


def sounding(wave_S: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of a recording at 16 kHz that are not silent, as sox's `silence 1 0.1 0.1% -1 0.1 0.1%` keeps them.

    Silence lasts until 0.1 s on end are loud, and then returns after 0.1 s on end that are not; a shorter pause, and
    what follows the last sound for less than 0.1 s, stay. Loud is a sample over whose last 20 ms the root mean square
    exceeds 0.1 % of full scale; that window is emptied wherever silence begins.

    Returns:
        [start, stop) in samples, ascending; none for silence alone.
    """
    power = np.concatenate([[0.0], np.cumsum(np.square(wave_S, dtype=np.float64))])
    ends = np.arange(1, len(wave_S) + 1)
    loud = power[ends] - power[np.maximum(ends - _WINDOW, 0)] > _WINDOW * _THRESHOLD**2
    loud_ends, quiet_ends = _ends_of_periods(loud), _ends_of_periods(~loud)
    found: list[tuple[int, int]] = []
    place = 0
    while True:
        # Where the window has just been emptied, samples are less loud than `loud` says.
        fresh = power[place + 1 : place + 1 + _WINDOW] - power[place] > _WINDOW * _THRESHOLD**2
        quiet = np.flatnonzero(~fresh)
        sound = _first(loud_ends, place + (int(quiet[-1]) + 1 if len(quiet) else 0) + _PERIOD)
        if sound is None:
            return found
        silence = _first(quiet_ends, sound + _PERIOD)
        start, stop = sound - _PERIOD, len(wave_S) if silence is None else silence - _PERIOD
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
        if silence is None:
            return found
        place = silence


def _ends_of_periods(flags: np.ndarray) -> np.ndarray:
    """Places after which at least 0.1 s of samples on end, the last one before the place, had the flag."""
    places = np.arange(1, len(flags) + 1)
    last_without = np.maximum.accumulate(np.where(flags, 0, places))
    return places[places - last_without >= _PERIOD]


def _first(places: Sequence[int], least: int) -> int | None:
    number = int(np.searchsorted(places, least))
    return int(places[number]) if number < len(places) else None
