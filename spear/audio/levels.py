"""How loud a recording is, measured while it is decoded: peaks, constants, channels that cancel."""

import math

import numpy as np

SILENCE = 2.0**-16  # half a step of 16-bit audio
HEADROOM = 8.0  # peaks of sound that is merely too loud, or that a lossy decoder overshoots, stay below
CLIPPED = 0.0  # as a gain: nothing is scaled, samples are clipped to full scale
_FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)  # of integers that were stored as floating-point numbers
_OVER = 1.1  # a resampled recording exceeds the full scale that it had
LARGEST_PEAK = _OVER * _FULL_SCALES[-1]
_CANCELLED = 0.2  # of the power that the mean of independent channels has
_OFFSET_SPREAD = 2.0**-13  # four steps of 16-bit audio: noise of a converter


class Levels:
    """Peaks and powers of what was added so far.

    Attributes:
        peak: the largest magnitude in any channel.
        num_not_finite: samples that are no numbers.
        lows, highs, powers: (channels,) or, of several channels, (channels + 1,) with their mean as the last; power is
            the sum of squares around the mean of each block.
    """

    def __init__(self, num_channels: int):
        rows = num_channels + (num_channels > 1)
        self.num_channels, self.peak, self.num_not_finite = num_channels, 0.0, 0
        self.lows, self.highs, self.powers = np.full(rows, np.inf), np.full(rows, -np.inf), np.zeros(rows)

    def add(self, block_TC: np.ndarray) -> None:
        """Measures a block of float32 samples."""
        if self.num_channels == 1:
            rows_RT = block_TC.reshape(1, -1)
        else:
            rows_RT = np.empty((self.num_channels + 1, len(block_TC)), np.float32)
            rows_RT[:-1] = block_TC.T
            np.mean(rows_RT[:-1], axis=0, out=rows_RT[-1])
        lows, highs = rows_RT.min(axis=1), rows_RT.max(axis=1)
        peak = max(-float(lows.min()), float(highs.max()))  # numbers that are none are carried through
        if not math.isfinite(peak):
            self.num_not_finite += block_TC.size - int(np.isfinite(block_TC).sum())
            return
        self.peak = max(self.peak, peak)
        self.lows, self.highs = np.minimum(self.lows, lows), np.maximum(self.highs, highs)
        if self.num_channels > 1:
            with np.errstate(over="ignore", invalid="ignore"):
                rows_RT -= rows_RT.mean(axis=1, keepdims=True)
                self.powers += np.einsum("rt,rt->r", rows_RT, rows_RT)

    def merge(self, other: "Levels") -> None:
        """Adds what another has measured."""
        self.peak = max(self.peak, other.peak)
        self.num_not_finite += other.num_not_finite
        self.lows, self.highs = np.minimum(self.lows, other.lows), np.maximum(self.highs, other.highs)
        self.powers += other.powers

    @property
    def cancelled_channel(self) -> int | None:
        """The channel of the most power where the channels cancel in their mean, as those of opposite polarity do."""
        if self.num_channels == 1:
            return None
        channels = self.powers[:-1]
        independent = channels.mean() / self.num_channels
        return int(channels.argmax()) if self.powers[-1] < _CANCELLED * independent else None

    def nothing(self, channel: int | None = None) -> str:
        """Why there is nothing to hear in a channel (or the mean of all); empty when there is something."""
        low, high = (float(values[-1 if channel is None else channel]) for values in (self.lows, self.highs))
        peak, spread, centre = max(-low, high), high - low, (low + high) / 2
        if peak == 0:
            return "silent: every sample is zero"
        if peak < SILENCE:
            return f"silent: a peak of {peak:.2g}, which is less than half a step of 16-bit audio"
        if spread < 2 * SILENCE or (spread <= _OFFSET_SPREAD and abs(centre) > spread):
            return f"only an offset: every sample is about {centre:.4g}"
        return ""


def full_scale_gain(peak: float, lossy: bool, choice: str) -> tuple[float, str]:
    """What to multiply a recording by whose peak may be beyond full scale.

    Args:
        peak: its largest magnitude.
        lossy: it is of a lossy format, whose decoder overshoots: up to 8 times full scale this is left as it is.
        choice: "exclude", "clip" or "rescale", see `spear.manifest.ingest.ManifestsConfig`.

    Returns:
        the gain (`CLIPPED` to clip instead), and the reason why the recording cannot be used, if so.
    """
    if peak > LARGEST_PEAK:
        return 1.0, f"beyond full scale: a peak of {peak:.4g}, more than integers of 32 bits have"
    integers = peak > HEADROOM
    if peak <= 1 or (lossy and not integers and choice != "clip"):
        return 1.0, ""
    if choice == "exclude":
        range_ = ", in the range of integers" if integers else ""
        return 1.0, f"beyond full scale: a peak of {peak:.4g}{range_}"
    if integers:  # of a clipped one nothing would be left
        return 1.0 / next(scale for scale in _FULL_SCALES if peak <= _OVER * scale), ""
    return (CLIPPED, "") if choice == "clip" else (1.0 / peak, "")
