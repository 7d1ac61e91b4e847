"""SPEAR pre-training: mask the log-mel input, encode it, predict every teacher's tokens (the paper on one page).

    features --mask--> encoder_embed --> 7 Zipformer stacks --> h_t --> one linear softmax per codebook and teacher

    L(b) = sum over teachers s of  w_s(domain of b) * sum_t a_t * (1/C) * sum_c  -log p_s,c(token_t,c | h_t)

with w_s the domain weights of the strategy and a_t the masked or unmasked weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear.models.encoders.base import EncoderConfig
from spear.models.heads import IGNORE, CodebookHead
from spear.models.mask import apply_masks, masked_student_frames
from spear.models.spear import SpearModel


@dataclass(frozen=True)
class HeadSpec:
    """Size of one teacher's prediction head.

    Attributes:
        num_codebooks: codebooks x target frames per student frame.
        codebook_size: tokens in each codebook.
    """

    num_codebooks: int
    codebook_size: int = 256


class PretrainOutput(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: scalar to minimise; a sum over frames, not a mean (ScaledAdam does not see its scale).
        stats: per teacher, (2, 3) float tensor, detached: rows masked and unmasked frames; columns summed
            cross-entropy in nats, number of entries, number of entries predicted right.
    """

    loss: Tensor
    stats: dict[str, Tensor]


class SpearPretrainModel(SpearModel):
    """The encoder with a mask embedding and one head per teacher stream.

    Args:
        config: encoder sizes.
        heads: head size of each stream, by stream name.
        masked_weight: weight of frames whose input was masked. The authors' final runs weigh all frames alike.
        unmasked_weight: weight of the other frames.
        head_initial_scale: see `CodebookHead`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        heads: dict[str, HeadSpec],
        masked_weight: float = 1.0,
        unmasked_weight: float = 1.0,
        head_initial_scale: float = 1.0,
    ):
        super().__init__(config)
        self.mask_emb = nn.Parameter(torch.randn(config.num_mel_bins))
        self.heads = nn.ModuleDict(
            {
                name: CodebookHead(
                    config.output_dim, spec.num_codebooks, spec.codebook_size, initial_scale=head_initial_scale
                )
                for name, spec in heads.items()
            }
        )
        self.masked_weight, self.unmasked_weight = masked_weight, unmasked_weight

    def forward(
        self,
        features_BTF: Tensor,
        feature_lens_B: Tensor,
        targets: dict[str, Tensor],
        stream_weights: dict[str, Tensor],
        time_mask_BT: Tensor | None = None,
        channel_mask_BF: Tensor | None = None,
    ) -> PretrainOutput:
        """Loss and statistics of a batch.

        Args:
            features_BTF: log-mel features, padded with ln(1e-10).
            feature_lens_B: valid frames.
            targets: per stream (B, T', C) token ids at the student's frame rate; -100 where there is none.
            stream_weights: per stream (B,) weight of each utterance, from its domain.
            time_mask_BT, channel_mask_BF: bool masks, or None to leave the input whole (validation).
        """
        if time_mask_BT is None:
            time_mask_BT = torch.zeros(features_BTF.shape[:2], dtype=torch.bool, device=features_BTF.device)
        else:
            features_BTF = apply_masks(features_BTF, time_mask_BT, channel_mask_BF, self.mask_emb)
        encoded = self.encode(features_BTF, feature_lens_B, with_hidden_states=False)
        hidden_BTD = encoded.encoder_out
        num_frames = hidden_BTD.shape[1]
        masked_BT = masked_student_frames(time_mask_BT, num_frames, round(100 / self.frame_rate_hz))
        frame_weights_BT = torch.where(masked_BT, self.masked_weight, self.unmasked_weight)

        loss = hidden_BTD.new_zeros((), dtype=torch.float32)
        stats = {}
        for name, head in self.heads.items():
            targets_BTC = targets[name]
            # Frames of utterances with weight 0 and frames without any target are left out before the matmul.
            used_BT = (targets_BTC != IGNORE).any(dim=2) & (stream_weights[name] > 0)[:, None]
            weights_M = (frame_weights_BT * stream_weights[name][:, None])[used_BT]
            result = head(hidden_BTD[used_BT], targets_BTC[used_BT], weights_M)
            loss = loss + result.loss
            stats[name] = _statistics(result, targets_BTC[used_BT] != IGNORE, masked_BT[used_BT])
        return PretrainOutput(loss, stats)


def _statistics(result, valid_MC: Tensor, masked_M: Tensor) -> Tensor:
    """(2, 3): summed loss, entries and right predictions of masked frames and of the others."""
    per_frame_M3 = torch.stack(
        (result.entry_loss_MC.sum(dim=1), valid_MC.sum(dim=1).float(), result.correct_MC.sum(dim=1).float()), dim=1
    )
    masked = masked_M.float()[:, None]
    return torch.stack(((per_frame_M3 * masked).sum(dim=0), (per_frame_M3 * (1 - masked)).sum(dim=0)))
