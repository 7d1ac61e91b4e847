"""SPEAR pre-training: mask the log-mel input, encode it, predict every teacher's tokens (the paper on one page).

    features --mask--> encoder_embed --> 7 Zipformer stacks --> h_t --> one linear softmax per codebook and teacher

    L(b) = sum over teachers s of  w_s(domain of b) * sum_t a_t * (1/C) * sum_c  -log p_s,c(token_t,c | h_t)

with w_s the domain weights of the strategy and a_t the masked or unmasked weight.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spear import dist
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
        scores: by stream, see `HeadOutput.scores`; of the streams that have any.
    """

    loss: Tensor
    stats: dict[str, Tensor]
    scores: dict[str, tuple[Tensor, ...]]


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

    Attributes:
        encoder_frozen: while true, the encoder stays in evaluation mode and computes without a graph, so that heads
            alone learn; see `freeze_encoder`.
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
        self.encoder_frozen = False
        self._frozen: list[nn.Parameter] = []

    def freeze_encoder(self, frozen: bool) -> None:
        """Freezes all but the heads, or lets them learn again; modes follow `train` and `eval`."""
        self.encoder_frozen = frozen
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        learning = (p for name, p in self.named_parameters() if not name.startswith("heads.") and p.requires_grad)
        # Layers that are sharded over ranks settle on their marks once; without a graph they get no gradient either.
        self._frozen = [p for p in learning if not dist.is_sharded(p)] if frozen else []
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "SpearPretrainModel":
        """As of every module, but a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder_embed.eval()
            self.encoder.eval()
        return self

    def encode_masked(
        self,
        features_BTF: Tensor,
        feature_lens_B: Tensor,
        time_mask_BT: Tensor | None = None,
        channel_mask_BF: Tensor | None = None,
    ) -> Encoded:
        """What heads predict from; arguments as for `forward`."""
        with_layers = any(getattr(head, "wants_layers", False) for head in self.heads.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            if time_mask_BT is None:
                time_mask_BT = torch.zeros(features_BTF.shape[:2], dtype=torch.bool, device=features_BTF.device)
            else:
                features_BTF = apply_masks(features_BTF, time_mask_BT, channel_mask_BF, self.mask_emb)
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
        stats, scores = {}, {}
        for name, head in self.heads.items():
            result = head.predict(encoded, targets[name], stream_weights[name])
            loss = loss + result.loss
            stats[name] = result.stats
            if result.scores:
                scores[name] = result.scores
        return PretrainOutput(loss, stats, scores)
