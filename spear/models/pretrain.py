"""SPEAR pre-training: mask the log-mel input, encode it, predict every teacher's tokens (the paper on one page).

    features --mask--> encoder_embed --> 7 Zipformer stacks --> h_t --> one linear softmax per codebook and teacher

    L(b) = sum over teachers s of  w_s(domain of b) * sum_t a_t * (1/C) * sum_c  -log p_s,c(token_t,c | h_t)

with w_s the domain weights of the strategy and a_t the masked or unmasked weight.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear.models.encoders.base import EncoderConfig
from spear.models.heads import Encoded, HeadSpec
from spear.models.mask import apply_masks, masked_student_frames
from spear.models.spear import SpearModel

__all__ = ["HeadSpec", "PretrainOutput", "SpearPretrainModel"]


class PretrainOutput(NamedTuple):
    """What one batch gives.

    Attributes:
        loss: scalar to minimise; a sum over frames, not a mean (ScaledAdam does not see its scale).
        stats: by stream, see `HeadOutput.stats`.
    """

    loss: Tensor
    stats: dict[str, Tensor]


class SpearPretrainModel(SpearModel):
    """The encoder with a mask embedding and one head for each stream of targets.

    A head is a module with `predict(encoded, targets, weights_B)`, which gives a `HeadOutput`; one whose attribute
    `wants_layers` is true gets the output of every layer, too.

    Args:
        config: encoder sizes.
        heads: by stream name, what makes a head: `build(encoder, initial_scale)`, such as `HeadSpec`.
        masked_weight: weight of frames whose input was masked. The authors' final runs weigh all frames alike.
        unmasked_weight: weight of the other frames.
        head_initial_scale: see `CodebookHead`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        heads: Mapping[str, HeadSpec],
        masked_weight: float = 1.0,
        unmasked_weight: float = 1.0,
        head_initial_scale: float = 1.0,
    ):
        super().__init__(config)
        self.mask_emb = nn.Parameter(torch.randn(config.num_mel_bins))
        self.heads = nn.ModuleDict({name: spec.build(self, head_initial_scale) for name, spec in heads.items()})
        self.masked_weight, self.unmasked_weight = masked_weight, unmasked_weight

    def encode_masked(
        self,
        features_BTF: Tensor,
        feature_lens_B: Tensor,
        time_mask_BT: Tensor | None = None,
        channel_mask_BF: Tensor | None = None,
    ) -> Encoded:
        """What heads predict from; arguments as for `forward`."""
        if time_mask_BT is None:
            time_mask_BT = torch.zeros(features_BTF.shape[:2], dtype=torch.bool, device=features_BTF.device)
        else:
            features_BTF = apply_masks(features_BTF, time_mask_BT, channel_mask_BF, self.mask_emb)
        with_layers = any(getattr(head, "wants_layers", False) for head in self.heads.values())
        encoded = self.encode(features_BTF, feature_lens_B, with_hidden_states=with_layers)
        num_frames = encoded.encoder_out.shape[1]
        masked_BT = masked_student_frames(time_mask_BT, num_frames, round(100 / self.frame_rate_hz))
        frame_weights_BT = torch.where(masked_BT, self.masked_weight, self.unmasked_weight)
        return Encoded(
            hidden_BTD=encoded.encoder_out,
            lens_B=encoded.encoder_out_lens,
            layers=encoded.hidden_states if with_layers else [],
            layer_lens_B=encoded.hidden_lens,
            masked_BT=masked_BT,
            frame_weights_BT=frame_weights_BT,
            embed_BTD=encoded.embed_out if with_layers else None,
        )

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
            targets: by stream, what its head takes.
            stream_weights: by stream (B,) weight of each utterance, from its domain.
            time_mask_BT, channel_mask_BF: bool masks, or None to leave the input whole (validation).
        """
        encoded = self.encode_masked(features_BTF, feature_lens_B, time_mask_BT, channel_mask_BF)
        loss = encoded.hidden_BTD.new_zeros((), dtype=torch.float32)
        stats = {}
        for name, head in self.heads.items():
            result = head.predict(encoded, targets[name], stream_weights[name])
            loss = loss + result.loss
            stats[name] = result.stats
        return PretrainOutput(loss, stats)
