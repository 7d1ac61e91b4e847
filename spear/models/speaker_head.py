"""Who speaks: an ECAPA-TDNN (arXiv 2005.07143) on the encoder's states, trained with an angular margin.

Where the paper normalises over the batch, the channels of each frame are normalised here: an utterance's embedding then
depends neither on padding nor on other utterances, and several ranks are one that accumulates.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear import compat
from spear.models.heads import IGNORE, Encoded, HeadOutput
from spear.models.layers import LayerMix
from spear.models.pooling import AttentiveStatistics, mean_over_time, utterance_output, valid_frames

_SCALE = 8  # parts of a block's channels that see more context one after the other
_BOTTLENECK = 128  # of the gates


class _Convolution(nn.Module):
    """Convolution over time, ReLU, norm over channels; padded frames count as zeros."""

    def __init__(self, dim: int, channels: int, kernel: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(dim, channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))
        self.norm = nn.LayerNorm(channels, bias=False)

    def forward(self, x_BTD: Tensor, valid_BT1: Tensor) -> Tensor:
        x_BTD = torch.where(valid_BT1, x_BTD, 0.0)
        return self.norm(self.conv(x_BTD.transpose(1, 2)).transpose(1, 2).relu())


class _Block(nn.Module):
    """Squeeze-excitation and Res2Net: parts of the channels see more and more context; a gate weighs channels."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        width = channels // _SCALE
        self.first, self.last = _Convolution(channels, channels), _Convolution(channels, channels)
        self.parts = nn.ModuleList(_Convolution(width, width, 3, dilation) for _ in range(_SCALE - 1))
        self.squeeze, self.excite = nn.Linear(channels, _BOTTLENECK), nn.Linear(_BOTTLENECK, channels)

    def forward(self, x_BTD: Tensor, valid_BT1: Tensor, lens_B: Tensor) -> Tensor:
        pieces = list(self.first(x_BTD, valid_BT1).chunk(_SCALE, dim=2))
        for number, part in enumerate(self.parts, 1):
            before = pieces[number - 1] if number > 1 else 0.0
            pieces[number] = part(pieces[number] + before, valid_BT1)
        y_BTD = self.last(torch.cat(pieces, dim=2), valid_BT1)
        gate_BD = self.excite(self.squeeze(mean_over_time(y_BTD, lens_B)).relu()).sigmoid()
        return x_BTD + y_BTD * gate_BD[:, None]


class SpeakerHead(nn.Module):
    """Embeddings of speakers.

    Args:
        encoder: see `LayerMix`.
        num_speakers: of training.
        layers: `last` or `weighted`.
        channels: of the network, a multiple of 8.
        embedding_dim: of the embedding.
        margin: angle in radians by which the right speaker is made harder.
        scale: of the cosines in the softmax.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_speakers: int,
        layers: str = "weighted",
        channels: int = 512,
        embedding_dim: int = 192,
        margin: float = 0.2,
        scale: float = 30.0,
    ):
        super().__init__()
        self.mix = LayerMix(encoder, layers)
        self.wants_layers, self.margin, self.scale = self.mix.wants_layers, margin, scale
        self.first = _Convolution(self.mix.dim, channels, 5)
        self.blocks = nn.ModuleList(_Block(channels, dilation) for dilation in (2, 3, 4))
        self.join = _Convolution(3 * channels, 3 * channels)
        self.pooling = AttentiveStatistics(3 * channels)
        self.norm = nn.LayerNorm(6 * channels, bias=False)
        self.output = nn.Linear(6 * channels, embedding_dim)
        self.directions = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_speakers, embedding_dim)))

    def embed(self, encoded: Encoded) -> Tensor:
        """(B, embedding_dim) float32, of length 1."""
        with compat.disabled_autocast(encoded.hidden_BTD.device.type):
            x_BTD, lens_B = self.mix(encoded).float(), encoded.lens_B
            valid_BT1 = valid_frames(x_BTD, lens_B)
            x_BTD, found = self.first(x_BTD, valid_BT1), []
            for block in self.blocks:
                x_BTD = block(x_BTD, valid_BT1, lens_B)
                found.append(x_BTD)
            pooled = self.pooling(self.join(torch.cat(found, dim=2), valid_BT1), lens_B)
            return F.normalize(self.output(self.norm(pooled)), dim=1)

    def predict(self, encoded: Encoded, targets_B11: Tensor, weights_B: Tensor) -> HeadOutput:
        """Additive angular margin softmax (ArcFace, arXiv 1801.07698), summed over utterances, in nats.

        Args:
            encoded: the encoder's output.
            targets_B11: speakers, -100 where there is none; those from `num_speakers` on have no direction and no loss.
            weights_B: weight of each utterance.

        Returns:
            with one measure, whether the nearest direction is the speaker's; scores are embeddings and speakers of all.
        """
        embedding_BE, speakers_B = self.embed(encoded), targets_B11[:, 0, 0]
        said_B = (speakers_B != IGNORE) & (weights_B > 0)
        used_B = said_B & (speakers_B < len(self.directions))
        targets_B = speakers_B.where(used_B, IGNORE)
        with compat.disabled_autocast(embedding_BE.device.type):
            cosines_BS = embedding_BE @ F.normalize(self.directions, dim=1).T
            logits_BS = margin_logits(cosines_BS, targets_B.clamp(min=0), self.margin, self.scale)
            losses_B = F.cross_entropy(logits_BS, targets_B, ignore_index=IGNORE, reduction="none")
        output = utterance_output(losses_B, used_B, weights_B, [cosines_BS.argmax(1) == targets_B])
        if self.training:
            return output
        return output._replace(scores=(embedding_BE[said_B], speakers_B[said_B]))


def margin_logits(cosines_BS: Tensor, targets_B: Tensor, margin: float, scale: float) -> Tensor:
    """scale x cos(angle + margin) for the right speaker, scale x cosine for the others.

    Beyond an angle of pi - margin, where the cosine would rise again, it goes on falling in a straight line.
    """
    own_B1 = cosines_BS.gather(1, targets_B[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
    sine_B1 = (1 - own_B1.square()).sqrt()
    harder_B1 = own_B1 * math.cos(margin) - sine_B1 * math.sin(margin)
    beyond_B1 = own_B1 - math.sin(math.pi - margin) * margin
    harder_B1 = torch.where(own_B1 > math.cos(math.pi - margin), harder_B1, beyond_B1)
    return scale * cosines_BS.scatter(1, targets_B[:, None], harder_B1)
