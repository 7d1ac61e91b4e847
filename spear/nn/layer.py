"""One Zipformer layer: two thirds of a Macaron, sharing one set of attention weights (Zipformer, 3.5)."""

import torch
from torch import Tensor, nn

from spear.nn.attention import AttentionWeights, NonlinAttention, SelfAttention, constant_weights
from spear.nn.balancer import Balancer
from spear.nn.bypass import Bypass
from spear.nn.chunks import ALL, Chunks
from spear.nn.convolution import ConvolutionModule
from spear.nn.feed_forward import FeedForward
from spear.nn.norm import BiasNorm
from spear.nn.schedule import ScheduledFloat, happens, keep_mask
from spear.nn.whiten import Whiten, whitening_limit


def _add(x_BTD: Tensor, update_BTD: Tensor, keep_B11: Tensor | None) -> Tensor:
    """x + update, or without the update for the utterances where keep is 0."""
    return x_BTD + update_BTD if keep_B11 is None else torch.addcmul(x_BTD, update_BTD, keep_B11.to(update_BTD.dtype))


class ZipformerLayer(nn.Module):
    """Args:
    dim: channels.
    num_heads, query_head_dim, position_head_dim, value_head_dim, position_dim: attention sizes.
    feed_forward_dim: F; the three feed-forward modules have widths 3F/4, F and 5F/4.
    kernel: convolution kernel in frames.
    layer_skip_rate: probability that an utterance skips the layer.
    causal, exact_padding: of the convolutions, see `spear.nn.chunks`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        query_head_dim: int,
        position_head_dim: int,
        value_head_dim: int,
        position_dim: int,
        feed_forward_dim: int,
        kernel: int,
        layer_skip_rate: float | ScheduledFloat = 0.0,
        causal: bool = False,
        exact_padding: bool = False,
    ):
        super().__init__()
        # An unused tensor that every released checkpoint holds.
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5), requires_grad=False)
        self.bypass = Bypass(dim, layer_skip_rate)
        self.bypass_mid = Bypass(dim)

        self.self_attn_weights = AttentionWeights(dim, position_dim, num_heads, query_head_dim, position_head_dim)
        self.self_attn1 = SelfAttention(dim, num_heads, value_head_dim)
        self.self_attn2 = SelfAttention(dim, num_heads, value_head_dim)
        self.nonlin_attention = NonlinAttention(dim)
        widths = (feed_forward_dim * 3 // 4, feed_forward_dim, feed_forward_dim * 5 // 4)
        self.feed_forward1, self.feed_forward2, self.feed_forward3 = (
            FeedForward(dim, width, ScheduledFloat((0.0, 0.3), (20000.0, 0.1))) for width in widths
        )
        self.conv_module1 = ConvolutionModule(dim, kernel, causal, exact_padding)
        self.conv_module2 = ConvolutionModule(dim, kernel, causal, exact_padding)
        self.norm = BiasNorm(dim)

        # Training only: what may be skipped, and how often.
        self.attention_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        self.conv_skip_rate = ScheduledFloat((0.0, 0.2), (4000.0, 0.05), (16000.0, 0.0))
        # Off in every published model: the condition in their code never holds (docs/migration.md).
        self.constant_attention = False
        self.constant_attention_rate = ScheduledFloat((0.0, 0.25), (4000.0, 0.025))
        self.ff2_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))
        self.ff3_skip_rate = ScheduledFloat((0.0, 0.1), (4000.0, 0.01), (50000.0, 0.0))

        self.balancer_na = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.004), (4000.0, 0.02)), probability=0.05)
        self.balancer_ff2 = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.1)), 2.0, probability=0.05)
        self.balancer_ff3 = Balancer(0.3, 0.7, ScheduledFloat((0.0, 0.0), (4000.0, 0.2)), 4.0, probability=0.05)
        self.balancer1 = Balancer(0.45, 0.55, 0.2, 4.0)
        self.balancer2 = Balancer(0.45, 0.55, 0.1, 4.0)
        self.whiten = Whiten(whitening_limit(4.0, ratio=3.0))

    def _keep(self, x_BTD: Tensor, rate: ScheduledFloat) -> Tensor | None:
        return keep_mask(x_BTD, float(rate)) if self.training else None

    def forward(self, x_BTD: Tensor, position_RP: Tensor, padding_BT: Tensor | None, chunks: Chunks = ALL) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x_BTD: input; position_RP: (2T-1, position_dim); padding_BT: True at padded frames, or None.
            chunks: that the layer hears in.
        """
        original = x = x_BTD
        weights, first_head = self.self_attn_weights(x, position_RP, padding_BT, chunks.hidden_TT)
        if self.constant_attention and self.training and happens(float(self.constant_attention_rate)):
            first_head = constant_weights(first_head)
        keep_attention = self._keep(x, self.attention_skip_rate)

        x = x + self.feed_forward1(x)
        x = _add(x, self.balancer_na(self.nonlin_attention(x, first_head)), keep_attention)
        x = _add(x, self.self_attn1(x, weights), keep_attention)
        x = _add(x, self.conv_module1(x, padding_BT, chunks.frames), self._keep(x, self.conv_skip_rate))
        x = _add(x, self.balancer_ff2(self.feed_forward2(x)), self._keep(x, self.ff2_skip_rate))
        x = self.bypass_mid(original, x)

        x = _add(x, self.self_attn2(x, weights), keep_attention)
        x = _add(x, self.conv_module2(x, padding_BT, chunks.frames), self._keep(x, self.conv_skip_rate))
        x = _add(x, self.balancer_ff3(self.feed_forward3(x)), self._keep(x, self.ff3_skip_rate))
        x = self.norm(self.balancer1(x))
        return self.whiten(self.balancer2(self.bypass(original, x)))
