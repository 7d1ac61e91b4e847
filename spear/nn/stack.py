"""Stacks of Zipformer layers at one frame rate (Zipformer, 3.4 and 3.5)."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spear.nn.bypass import Bypass
from spear.nn.chunks import ALL, Chunks
from spear.nn.layer import ZipformerLayer
from spear.nn.positions import RelativePositions
from spear.nn.resample import Downsample, repeat_last_valid, upsample


class ZipformerStack(nn.Module):
    """Layers in sequence.

    Args:
        layers: the layers; position_dim: width of their positional features.
    """

    def __init__(self, layers: list[ZipformerLayer], position_dim: int):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.positions = RelativePositions(position_dim)
        self.activation_checkpointing = False

    def forward(
        self, x_BTD: Tensor, feature_mask_B1D: Tensor | None, padding_BT: Tensor | None, chunks: Chunks = ALL
    ) -> list[Tensor]:
        """(B, T, D) -> the output of every layer, each (B, T, D).

        Args:
            feature_mask_B1D: 0 at channels that an utterance does without (training), or None.
            padding_BT: True at padded frames, or None.
            chunks: that the layers hear in.
        """
        position_RP = self.positions(x_BTD.shape[1], x_BTD.device)
        outputs = []
        if feature_mask_B1D is not None:
            x_BTD = x_BTD * feature_mask_B1D
        for layer in self.layers:
            if self.activation_checkpointing and self.training:
                # The random generators are put back for the second pass, so that it makes the same draws.
                x_BTD = checkpoint(layer, x_BTD, position_RP, padding_BT, chunks, use_reentrant=False)
            else:
                x_BTD = layer(x_BTD, position_RP, padding_BT, chunks)
            if feature_mask_B1D is not None:
                x_BTD = x_BTD * feature_mask_B1D
            outputs.append(x_BTD)
        return outputs


class DownsampledStack(nn.Module):
    """A stack that runs at 1/factor of the frame rate, with a bypass around it.

    Args:
        encoder: the stack; dim: its channels; factor: the downsampling.
        exact_padding: averages never mix an utterance's last frames with padding.
    """

    def __init__(self, encoder: ZipformerStack, dim: int, factor: int, exact_padding: bool):
        super().__init__()
        self.encoder = encoder
        self.downsample = Downsample(factor)
        self.out_combiner = Bypass(dim)
        self.factor, self.exact_padding = factor, exact_padding

    def forward(
        self, x_BTD: Tensor, feature_mask_B1D: Tensor | None, padding_BT: Tensor | None, chunks: Chunks = ALL
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, T, D) -> the stack's output (B, T, D), and the output of every layer at the low rate."""
        source = x_BTD
        if padding_BT is not None and self.exact_padding:
            source = repeat_last_valid(x_BTD, padding_BT)
        low_padding = None if padding_BT is None else padding_BT[:, :: self.factor]
        outputs = self.encoder(self.downsample(source), feature_mask_B1D, low_padding, chunks)
        return self.out_combiner(x_BTD, upsample(outputs[-1], self.factor, x_BTD.shape[1])), outputs


def set_activation_checkpointing(module: nn.Module, enabled: bool) -> None:
    """Whether layers and the front end keep only their input and compute the rest again in the backward pass.

    Results are the same, bit for bit.
    """
    for part in module.modules():
        if hasattr(part, "activation_checkpointing"):
            part.activation_checkpointing = enabled
