"""From embeddings to a trained quantizer: channel statistics, normalisation, training."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spear.quantize.codec import check_vectors
from spear.quantize.store import TrainedQuantizer, make_card
from spear.quantize.stream import sample_stream
from spear.quantize.trainer import QuantizerTrainConfig, train_quantizer

# Added to standard deviations, as in the reference: a constant channel must not be divided by zero.
_FLOOR = 1e-5


def channel_statistics(frames_MD: Tensor) -> tuple[Tensor, Tensor]:
    """(dim,) float32 mean and standard deviation (plus 1e-5) of the frames."""
    mean_D = frames_MD.mean(dim=0, dtype=torch.float64)
    variance_D = torch.zeros_like(mean_D)
    for part in frames_MD.split(65536):
        variance_D += (part.double() - mean_D).square().sum(dim=0)
    return mean_D.float(), (variance_D / max(1, len(frames_MD))).sqrt().float() + _FLOOR


def fit(
    frames: np.ndarray | Tensor | Iterable[np.ndarray | Tensor],
    num_codebooks: int,
    config: QuantizerTrainConfig | None = None,
    normalise: bool = True,
    progress: Callable[[dict], None] | None = None,
    state_path: str | Path | None = None,
    max_frames: int = 500_000,
) -> tuple[TrainedQuantizer, dict]:
    """Trains a quantizer on embeddings, normalised per channel if asked for.

    Args:
        frames: (M, dim) embeddings on the teacher's own scale, float16 or float32; or an iterable of such blocks, read
            once, which may be larger than memory (`spear.quantize.stream`).
        normalise: whether channels get mean 0 and variance 1 first; the statistics stay with the quantizer.
        max_frames: most frames to train on; only for blocks, of which an even sample is drawn.
        num_codebooks, config, progress, state_path: see `train_quantizer`.

    Returns:
        the quantizer, and its metrics (errors are those of the normalised frames).

    Raises:
        DataError: see `train_quantizer`.
    """
    config, mean, std = config or QuantizerTrainConfig(), None, None
    if isinstance(frames, np.ndarray | Tensor):
        frames = torch.as_tensor(frames)
        frames_MD = check_vectors(frames, frames.shape[-1]).float()
        if normalise and frames_MD.dim() == 2 and len(frames_MD):
            mean, std = channel_statistics(frames_MD)
    else:
        sample = sample_stream(frames, max_frames, config.seed)
        frames_MD = sample.frames_MD.float()
        mean, std = (sample.mean_D, sample.std_D + _FLOOR) if normalise else (None, None)
    if mean is not None:
        frames_MD = (frames_MD - mean) / std
    quantizer, metrics = train_quantizer(frames_MD, num_codebooks, config, progress, state_path)
    card = make_card(quantizer, mean, std, metrics=metrics, details={"structure": config.structure})
    return TrainedQuantizer(quantizer, mean, std, card), metrics
