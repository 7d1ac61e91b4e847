"""Log-mel filterbank features: the one definition that every part of spear uses.

Kaldi's fbank with ``snip_edges=False``: frame t covers the samples [160 t - 120, 160 t + 280) of the utterance, which
is continued on both sides by reflection. Batches are padded; every utterance is reflected at its own end, so that it
has the same features alone and in a batch.

How the computation differs from the textbook one (with the same result up to rounding):

- Pre-emphasis is applied to the waveform rather than to each frame. The two differ in the first sample of a frame only,
  and the Povey window is zero there.
- Removing a frame's mean m before pre-emphasis then means subtracting (1 - 0.97) m after it.
- Squared real and imaginary parts are added by the mel matrix product itself, and the product is done in bands, since a
  mel filter covers few frequencies.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from spear import fs
from spear.errors import ConfigError

LOG_FLOOR = math.log(1e-10)
"""The value of padded frames. Silence inside an utterance is higher: ln(2^-23), see `FbankConfig.energy_floor`."""

_CHUNK_FRAMES = 2048  # small enough for the intermediate arrays to stay in the processor's cache; measured
_CHUNK_FRAMES_GPU = 65536
_MELS_PER_BLOCK = 16


@dataclass(frozen=True)
class FbankConfig:
    """The definition of the features. The defaults are those of the released models.

    `high_hz` at or below zero counts down from the Nyquist frequency. `energy_floor` is the least mel energy: float32's
    epsilon, as in Kaldi and in the released models (whose padding, not whose floor, is 1e-10).
    """

    sample_rate_hz: int = 16000
    window_ms: float = 25.0
    shift_ms: float = 10.0
    num_mel_bins: int = 128
    preemphasis: float = 0.97
    low_hz: float = 20.0
    high_hz: float = -400.0
    energy_floor: float = 2.0**-23

    def definition(self) -> dict:
        """Everything that determines the values, for cards and feature archives."""
        fixed = {
            "kind": "log mel energies, natural log of the power spectrum",
            "window": "povey",
            "remove_mean_per_frame": True,
            "dither": 0.0,
            "edges": "reflected, kaldi snip_edges false",
            "input_range": [-1.0, 1.0],
            "normalisation": "none",
        }
        return {**asdict(self), **fixed}

    def definition_hash(self) -> str:
        """SHA-256 of `definition()`; training refuses tokens or features whose hash differs."""
        return fs.sha256_json(self.definition())

    @property
    def window_samples(self) -> int:
        """Samples in a frame: 400."""
        return round(self.sample_rate_hz * self.window_ms / 1000)

    @property
    def shift_samples(self) -> int:
        """Samples from frame to frame: 160."""
        return round(self.sample_rate_hz * self.shift_ms / 1000)

    def num_frames(self, num_samples):
        """Number of frames: samples / 160 rounded half up, so fewer than 80 samples have no frame.

        Accepts an int or an integer tensor and returns the same.
        """
        return (num_samples + self.shift_samples // 2) // self.shift_samples


class Fbank(nn.Module):
    """Computes log-mel features of a padded batch, on the device of the waves.

    Results do not depend on autocast, on the precision of matrix products, on the module's own dtype, or on the other
    utterances of the batch. Memory beyond input and output is bounded, however long the audio is. No gradient flows.
    """

    def __init__(self, config: FbankConfig | None = None):
        super().__init__()
        self.config = config = config or FbankConfig()
        if config.shift_samples < 1 or config.window_samples < config.shift_samples:
            raise ConfigError(
                f"window {config.window_ms} ms, shift {config.shift_ms} ms at {config.sample_rate_hz} Hz",
                "a shift of at least one sample, and a window that is not shorter",
                "use the defaults, 25 ms and 10 ms",
            )
        self._fft_size = 1 << (config.window_samples - 1).bit_length()
        # Tables are not buffers: `module.half()` must not change the features.
        self._bands: list[tuple[int, int]] = []
        tables = [_povey_window(config.window_samples)]
        for block_KF in _mel_matrix(config, self._fft_size).split(_MELS_PER_BLOCK, dim=1):
            used_K = block_KF.any(dim=1).nonzero().flatten()
            first, last = (int(used_K[0]), int(used_K[-1]) + 1) if len(used_K) else (0, 1)
            self._bands.append((first, last))
            # Every row twice, for the real and the imaginary part. Double precision is cheap in bands, and no setting
            # (autocast, TF32, bfloat16 matrix products) touches it.
            tables.append(block_KF[first:last].repeat_interleave(2, dim=0).double())
        self._tables = {torch.device("cpu"): tables}

    def num_frames(self, num_samples):
        """See `FbankConfig.num_frames`."""
        return self.config.num_frames(num_samples)

    @torch.no_grad()
    def forward(self, waves_BS: Tensor, lens_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            waves_BS: (batch, samples) in [-1, 1] at `sample_rate_hz`; samples beyond an utterance's length are ignored.
            lens_B: lengths in samples; default: all of them full.

        Returns:
            features_BTF float32 with T = num_frames(samples), padded with `LOG_FLOOR`; and feature_lens_B int64.

        Raises:
            ConfigError: the shapes do not fit each other, or a length is beyond the samples.
        """
        batch, samples = _check_shapes(waves_BS, lens_B)
        device = waves_BS.device
        if device not in self._tables:
            self._tables[device] = [table.to(device) for table in self._tables[torch.device("cpu")]]
        waves_BS = waves_BS.to(torch.float32)
        if lens_B is None:
            lens_B = torch.full((batch,), samples, dtype=torch.int64)
        lens_B = lens_B.to(device, torch.int64, non_blocking=True)
        feature_lens_B, frames = self.num_frames(lens_B), self.num_frames(samples)
        features_BTF = waves_BS.new_full((batch, frames, self.config.num_mel_bins), LOG_FLOOR)
        if batch == 0 or frames == 0:
            return features_BTF, feature_lens_B

        extended_BS = self._reflect(waves_BS, lens_B)
        chunk = max(1, (_CHUNK_FRAMES if device.type == "cpu" else _CHUNK_FRAMES_GPU) // batch)
        for start in range(0, frames, chunk):
            stop = min(start + chunk, frames)
            features_BTF[:, start:stop] = self._log_mel(extended_BS, start, stop)
        times_T = torch.arange(frames, device=device)
        features_BTF.masked_fill_((times_T >= feature_lens_B[:, None])[:, :, None], LOG_FLOOR)
        return features_BTF, feature_lens_B

    def _reflect(self, waves_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Each utterance with its reflections: `left` samples before its start, `right` after its own end."""
        window, shift = self.config.window_samples, self.config.shift_samples
        left, right = (window - shift) // 2, window // 2
        extended_BS = torch.nn.functional.pad(waves_BS, (left, right))
        before = torch.arange(-left, 0, device=waves_BS.device)
        after = torch.arange(right, device=waves_BS.device)
        positions_BS = torch.cat([before.expand(len(lens_B), -1), lens_B[:, None] + after], dim=1)
        # Reflection at both ends again and again, so that a single sample suffices: period twice the length.
        phase_BS = positions_BS.remainder(2 * lens_B[:, None].clamp(min=1))
        sources_BS = torch.where(phase_BS < lens_B[:, None], phase_BS, 2 * lens_B[:, None] - 1 - phase_BS).clamp(min=0)
        values_BS = waves_BS.gather(1, sources_BS)
        return extended_BS.scatter_(1, positions_BS + left, values_BS)

    def _log_mel(self, extended_BS: Tensor, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop` of all utterances: (batch, stop - start, mel bins)."""
        config = self.config
        window, shift = config.window_samples, config.shift_samples
        span_BS = extended_BS[:, start * shift : (stop - 1) * shift + window]
        emphasised_BS = span_BS.clone()
        emphasised_BS[:, 1:].sub_(span_BS[:, :-1], alpha=config.preemphasis)
        means_BT = span_BS.unfold(1, window, shift).mean(dim=2, keepdim=True)
        frames_BTS = emphasised_BS.unfold(1, window, shift) - (1 - config.preemphasis) * means_BT
        window_S, *mels_KF = self._tables[extended_BS.device]
        frames_BTS *= window_S
        squares_BTK = torch.view_as_real(torch.fft.rfft(frames_BTS, n=self._fft_size)).flatten(2).square_()
        bands = [
            squares_BTK[..., 2 * first : 2 * last].double() @ mel_KF
            for (first, last), mel_KF in zip(self._bands, mels_KF)
        ]
        return torch.cat(bands, dim=2).float().clamp_(min=config.energy_floor).log_()


def _check_shapes(waves_BS: Tensor, lens_B: Tensor | None) -> tuple[int, int]:
    if waves_BS.dim() != 2 or (lens_B is not None and lens_B.shape != waves_BS.shape[:1]):
        lens_shape = None if lens_B is None else tuple(lens_B.shape)
        raise ConfigError(
            f"waves of shape {tuple(waves_BS.shape)} with lengths of shape {lens_shape}",
            "waves (batch, samples) and lengths (batch,)",
            "add a batch dimension with waves[None]",
        )
    batch, samples = waves_BS.shape
    # Looking at lengths on a GPU would make the host wait for it.
    if (
        lens_B is not None
        and lens_B.device.type == "cpu"
        and batch
        and not 0 <= int(lens_B.min()) <= int(lens_B.max()) <= samples
    ):
        raise ConfigError(
            f"lengths from {int(lens_B.min())} to {int(lens_B.max())} for {samples} samples",
            f"lengths between 0 and {samples}",
            "give lengths in samples, not in frames or seconds",
        )
    return batch, samples


def _povey_window(size: int) -> Tensor:
    """A Hann window to the power 0.85: (size,)."""
    phase = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    return (0.5 - 0.5 * torch.cos(phase)).clamp(min=0).pow(0.85).float()


def _mel_scale(frequency_hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequency_hz / 700.0)


def _mel_matrix(config: FbankConfig, fft_size: int) -> Tensor:
    """Triangles of equal width on the mel scale, at the FFT's frequencies below Nyquist: (fft_size / 2, mel bins)."""
    nyquist_hz = config.sample_rate_hz / 2
    high_hz = config.high_hz if config.high_hz > 0 else nyquist_hz + config.high_hz
    if not 0 <= config.low_hz < high_hz <= nyquist_hz:
        raise ConfigError(
            f"mel range from {config.low_hz} to {high_hz} Hz",
            f"a range within 0 and {nyquist_hz} Hz",
            "use the defaults, low_hz 20 and high_hz -400",
        )
    ends = _mel_scale(torch.tensor([config.low_hz, high_hz], dtype=torch.float64))
    edges = torch.linspace(float(ends[0]), float(ends[1]), config.num_mel_bins + 2, dtype=torch.float64)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    bins_hz = torch.arange(fft_size // 2, dtype=torch.float64) * (config.sample_rate_hz / fft_size)
    mel = _mel_scale(bins_hz)[:, None]
    return torch.minimum((mel - left) / (center - left), (right - mel) / (right - center)).clamp(min=0).float()
