"""From frames to one vector of an utterance, and from utterances' losses to those of a batch."""

import torch
from torch import Tensor, nn

from spear.models.heads import HeadOutput

_BOTTLENECK = 128


def valid_frames(x_BTD: Tensor, lens_B: Tensor) -> Tensor:
    """(B, T, 1), true inside the utterances."""
    return (torch.arange(x_BTD.shape[1], device=x_BTD.device) < lens_B[:, None])[:, :, None]


class AttentiveStatistics(nn.Module):
    """Mean and deviation over frames, weighted for each channel by what the frame and the whole utterance are like."""

    def __init__(self, dim: int):
        super().__init__()
        self.down, self.up = nn.Linear(3 * dim, _BOTTLENECK), nn.Linear(_BOTTLENECK, dim)

    def forward(self, x_BTD: Tensor, lens_B: Tensor) -> Tensor:
        """(B, T, D) -> (B, 2 D)."""
        valid_BT1 = valid_frames(x_BTD, lens_B)
        plain_BT1 = valid_BT1 / lens_B.clamp(min=1)[:, None, None]
        whole_B1D = torch.cat(_statistics(x_BTD, plain_BT1), dim=1)[:, None]
        context = torch.cat((x_BTD, whole_B1D.expand(-1, x_BTD.shape[1], -1)), dim=2)
        scores_BTD = self.up(self.down(context).tanh()).masked_fill(~valid_BT1, torch.finfo(x_BTD.dtype).min)
        return torch.cat(_statistics(x_BTD, scores_BTD.softmax(dim=1) * valid_BT1), dim=1)


def _statistics(x_BTD: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation, (B, D) each; weights of padded frames are 0."""
    x_BTD = torch.where(weights > 0, x_BTD, 0.0)
    mean_BD = (x_BTD * weights).sum(1)
    variance_BD = ((x_BTD - mean_BD[:, None]).square() * weights).sum(1)
    return mean_BD, variance_BD.clamp(min=1e-8).sqrt()


def mean_over_time(x_BTD: Tensor, lens_B: Tensor) -> Tensor:
    """The mean over valid frames; zeros without any."""
    return torch.where(valid_frames(x_BTD, lens_B), x_BTD, 0.0).sum(1) / lens_B.clamp(min=1)[:, None]


def utterance_output(losses_B: Tensor, used_B: Tensor, weights_B: Tensor, measures: list[Tensor]) -> HeadOutput:
    """Loss and statistics of a batch of utterances; nothing of them is masked.

    Args:
        losses_B: of each utterance; whatever stands where it is not used.
        used_B: whether it counts.
        weights_B: of its loss.
        measures: (B,) each.
    """
    losses_B = torch.where(used_B, losses_B, 0.0)
    counted = [losses_B.detach(), used_B.float(), *(torch.where(used_B, each.float(), 0.0) for each in measures)]
    sums_K = torch.stack([each.sum() for each in counted])
    return HeadOutput((losses_B * weights_B).sum(), torch.stack((torch.zeros_like(sums_K), sums_K)))
