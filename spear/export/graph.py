"""What becomes an ONNX graph: audio or features in, outputs of an encoder or a head out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear.audio import LOG_FLOOR, Fbank
from spear.export.plain import PlainEncoder, mix_layers
from spear.export.source import Source
from spear.models.pooling import mean_over_time


class PlainFbank(nn.Module):
    """The features of `spear.audio.Fbank` from audio, as one product in double precision for window and Fourier sums.

    Removing the mean, pre-emphasis, the window and the transform are linear in the samples of a frame.

    Args:
        fbank: what is rebuilt.
    """

    def __init__(self, fbank: Fbank):
        super().__init__()
        config = self.config = fbank.config
        size, transform = config.window_samples, 1 << (config.window_samples - 1).bit_length()
        window_S, *mels_KF = fbank._tables[torch.device("cpu")]
        samples = torch.eye(size, dtype=torch.float64)
        centred = samples - 1 / size
        before = torch.cat([centred[:, :1], centred[:, :-1]], dim=1)  # the window is 0 where there is no sample before
        emphasised = (centred - config.preemphasis * before) * window_S.double()
        angles = (
            torch.arange(size, dtype=torch.float64)[:, None] * torch.arange(transform // 2) * (2 * math.pi / transform)
        )
        basis = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        mel = torch.zeros(transform, config.num_mel_bins, dtype=torch.float64)
        column = 0
        for (first, last), mel_KF in zip(fbank._bands, mels_KF):
            mel[2 * first : 2 * last, column : column + mel_KF.shape[1]] = mel_KF
            column += mel_KF.shape[1]
        self.register_buffer("spectrum", emphasised @ basis, persistent=False)
        self.register_buffer("mel", mel, persistent=False)

    def forward(self, waves_BS: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `Fbank.forward`."""
        window, shift = self.config.window_samples, self.config.shift_samples
        frames = (waves_BS.shape[1] + shift // 2) // shift
        place = torch.arange(frames * shift + window - shift) - (window - shift) // 2
        period_B1 = 2 * lens_B.clamp(min=1)[:, None]
        phase_BP = place[None] % period_B1
        source_BP = torch.where(phase_BP < lens_B[:, None], phase_BP, period_B1 - 1 - phase_BP)
        extended_BP = waves_BS.gather(1, source_BP)
        index = torch.arange(frames)[:, None] * shift + torch.arange(window)
        spectrum_BTK = extended_BP[:, index].double() @ self.spectrum
        features_BTF = (spectrum_BTK.square() @ self.mel).clamp(min=self.config.energy_floor).log().float()
        feature_lens_B = (lens_B + shift // 2) // shift
        valid_BT1 = (torch.arange(frames)[None] < feature_lens_B[:, None])[:, :, None]
        return torch.where(valid_BT1, features_BTF, LOG_FLOOR), feature_lens_B


class Graph(nn.Module):
    """(x, x_lens) -> the outputs named in `outputs`.

    Args:
        source: what is exported.
        audio: x is audio, (N, samples) and their numbers; else features (N, T, bins) and their frames.
        hidden_states: of an encoder alone, whether the output of every layer is an output too.

    Attributes:
        outputs: names, in order.
        sequences: whether inputs have a time axis.
    """

    sequences = True

    def __init__(self, source: Source, audio: bool = False, hidden_states: bool = False):
        super().__init__()
        self.kind, self.head, self.hidden_states = source.kind, source.head, hidden_states and not source.kind
        exact = getattr(source.config, "exact_padding", True)
        self.encoder = PlainEncoder(source.model, exact)
        self.fbank = PlainFbank(source.model.fbank) if audio else None
        names = {"ctc": ["log_probs", "log_probs_len"], "tagging": ["logits"], "classification": ["logits"]}
        self.outputs = list(names.get(self.kind, ["encoder_out", "encoder_out_lens"]))
        if self.hidden_states:
            self.outputs += [f"hidden_{number:02}" for number in range(len(source.config.layer_dims))]

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if self.fbank is not None:
            x, x_lens = self.fbank(x, x_lens)
        out_BTD, lens_B, embed_BTD, layers, layer_lens_B = self.encoder(x, x_lens)
        if not self.kind:
            return out_BTD, lens_B, *(layers if self.hidden_states else ())
        mixed_BTD = mix_layers(self.head.mix, out_BTD, embed_BTD, layers, layer_lens_B)
        if self.kind == "ctc":
            return self.head.output(mixed_BTD).log_softmax(-1), lens_B
        if self.kind == "transducer":
            return self.head.from_encoder(mixed_BTD), lens_B
        pooling = getattr(self.head, "pooling", None)
        return (self.head.output(pooling(mixed_BTD, lens_B) if pooling else mean_over_time(mixed_BTD, lens_B)),)


class Decoder(nn.Module):
    """The prediction network of a transducer: the last units (N, context) -> (N, joiner_dim).

    Units below 0, with which clients begin, are blanks.
    """

    sequences = False

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, y: Tensor) -> Tensor:
        """See the class."""
        network = self.head.prediction
        x_NCU = network.embedding(y.clamp(min=0)).transpose(1, 2)
        if network.conv is not None:
            x_NCU = F.conv1d(x_NCU, network.conv.weight, groups=network.conv.groups)
        return self.head.from_prediction(x_NCU[:, :, 0].relu())


class Joiner(nn.Module):
    """The joiner of a transducer: a frame and a state, (N, joiner_dim) each -> logits (N, units)."""

    sequences = False

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """See the class."""
        return self.head.output(torch.tanh(encoder_out + decoder_out))
