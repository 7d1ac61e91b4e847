"""Heads that are not linear: recurrent, x-vector, and the augmentation before them (SUPERB, arXiv 2105.01051)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_TIME_WARP_FRAMES, _TIME_MASKS, _TIME_WIDTH, _CHANNEL_MASKS, _CHANNEL_WIDTH = 5, 2, 40, 4, 50
_MIN_CONTEXT = 15  # frames that the x-vector's context needs; shorter utterances are padded with zeros


class RecurrentHead(nn.Module):
    """Linear, LSTM layers, Linear.

    Args:
        dim: D of the features.
        projection_dim: after the first Linear; 0 leaves it out.
        hidden_dim: units in each direction.
        num_outputs: C.
        join: so many projected frames are joined into one before the LSTM, and the output has that many times fewer.
        augment: SpecAugment on the features while training.
    """

    def __init__(
        self,
        dim: int,
        projection_dim: int,
        hidden_dim: int,
        num_layers: int,
        num_outputs: int,
        bidirectional: bool = True,
        join: int = 1,
        dropout: float = 0.0,
        augment: bool = False,
    ):
        super().__init__()
        self.augment, self.join = augment, join
        self.down = nn.Linear(dim, projection_dim) if projection_dim else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.LSTM(
            (projection_dim or dim) * join,
            hidden_dim,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.out = nn.Linear(hidden_dim * (1 + bidirectional), num_outputs)

    def forward(self, features_BTD: Tensor, lens_B: Tensor) -> Tensor:
        """(B, ceil(T / join), C)."""
        if self.augment and self.training:
            features_BTD = spec_augment(features_BTD, lens_B)
        x_BTP = self.down(features_BTD)
        if self.join > 1:
            # A last group that is not full is completed with zeros, those of padding included.
            valid_BT1 = (torch.arange(x_BTP.shape[1], device=x_BTP.device) < lens_B.to(x_BTP.device)[:, None])[
                ..., None
            ]
            x_BTP = functional.pad(x_BTP * valid_BT1, (0, 0, 0, -x_BTP.shape[1] % self.join))
            x_BTP = x_BTP.unflatten(1, (-1, self.join)).flatten(2)
        run = packed_lstm if x_BTP.is_cuda else padded_lstm
        return self.out(self.dropout(run(self.rnn, x_BTP, joined_lengths(lens_B, self.join))))


def packed_lstm(lstm: nn.LSTM, x_BTP: Tensor, lens_B: Tensor) -> Tensor:
    """Outputs of an LSTM with zeros behind each item's length: (B, T, directions * H). The way for a GPU."""
    packed = nn.utils.rnn.pack_padded_sequence(x_BTP, lens_B.cpu(), batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=x_BTP.shape[1])[0]


def padded_lstm(lstm: nn.LSTM, x_BTP: Tensor, lens_B: Tensor) -> Tensor:
    """The same as `packed_lstm`, a layer and direction at a time on padded batches. The way for a CPU.

    Torch hands padded input to oneDNN, which multiplies the weight gradients of all frames at once; packed input takes
    a product for each frame and adds up as many gradients of the size of the weights. In CPU seconds of two layers of
    1,024 units, 32 items: 18.1 against 8.4 for 57 to 60 frames; a head of slot filling on 135 frames each, all of
    equal length: 24.9 against 23.7. Each item is turned round within its own length for the backward direction.
    """
    frames_T = torch.arange(x_BTP.shape[1], device=x_BTP.device)
    lens_B1 = lens_B.to(x_BTP.device)[:, None]
    valid_BT = frames_T < lens_B1
    turned_BT = torch.where(valid_BT, lens_B1 - 1 - frames_T, frames_T)

    def turn(values_BTP: Tensor) -> Tensor:
        return values_BTP.gather(1, turned_BT[..., None].expand_as(values_BTP))

    for layer in range(lstm.num_layers):
        if layer:
            x_BTP = functional.dropout(x_BTP, lstm.dropout, lstm.training)
        ahead_BTH = _one_direction(lstm, f"_l{layer}", x_BTP)
        if lstm.bidirectional:
            back_BTH = turn(_one_direction(lstm, f"_l{layer}_reverse", turn(x_BTP)))
            x_BTP = torch.cat([ahead_BTH, back_BTH], dim=2)
        else:
            x_BTP = ahead_BTH
    return x_BTP * valid_BT[..., None]


def _one_direction(lstm: nn.LSTM, suffix: str, x_BTP: Tensor) -> Tensor:
    weights = [getattr(lstm, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    state_1BH = x_BTP.new_zeros(1, x_BTP.shape[0], lstm.hidden_size)
    # The last but two: whether what the gradient needs is kept.
    return torch.lstm(x_BTP, (state_1BH, state_1BH), weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]


def joined_lengths(lens_B: Tensor, join: int) -> Tensor:
    """Frames after joining: rounded up."""
    return (lens_B + join - 1) // join


def spec_augment(features_BTD: Tensor, lens_B: Tensor) -> Tensor:
    """Time warp (window 5), 2 time masks of 0 to 39 frames, 4 masks of 0 to 49 channels; zeros.

    As published, widths are bounded neither by short utterances nor by few channels, which a mask may cover whole; and
    masks begin where the widest of the batch would still fit, counted over the padded length. Padding stays as it is.
    Draws from torch's global generator, which the bank seeds for every step.
    """
    features_BTD = features_BTD.clone()
    batch, frames, dim = features_BTD.shape
    for row, length in enumerate(lens_B.tolist()):
        if length > 2 * _TIME_WARP_FRAMES:
            features_BTD[row, :length] = _time_warp(features_BTD[row, :length])
    channels_BD = _drawn_masks(batch, dim, _CHANNEL_MASKS, _CHANNEL_WIDTH)
    times_BT = _drawn_masks(batch, frames, _TIME_MASKS, _TIME_WIDTH)
    valid_BT = torch.arange(frames) < lens_B.cpu()[:, None]
    masked_BTD = (channels_BD[:, None] | times_BT[:, :, None]) & valid_BT[:, :, None]
    return features_BTD.masked_fill_(masked_BTD.to(features_BTD.device), 0.0)


def _drawn_masks(batch: int, size: int, count: int, width: int) -> Tensor:
    """(batch, size), true inside `count` spans of fewer than `width` places."""
    widths_BN1 = torch.randint(0, width, (batch, count, 1))
    starts_BN1 = torch.randint(0, max(1, size - int(widths_BN1.max())), (batch, count, 1))
    places_S = torch.arange(size)
    return ((places_S >= starts_BN1) & (places_S < starts_BN1 + widths_BN1)).any(dim=1)


def _time_warp(values_TD: Tensor) -> Tensor:
    """A point moves by up to 5 frames; both sides are stretched by cubic convolution."""
    length, window = len(values_TD), _TIME_WARP_FRAMES
    centre = int(torch.randint(window, length - window, ()))
    moved = int(torch.randint(centre - window, centre + window, ())) + 1
    parts = ((values_TD[:centre], moved), (values_TD[centre:], length - moved))
    sides = [
        functional.interpolate(part_TD[None, None], (size, values_TD.shape[1]), mode="bicubic", align_corners=False)
        for part_TD, size in parts
    ]
    return torch.cat(sides, dim=2)[0, 0]


class SpeakerHead(nn.Module):
    """The x-vector of SUPERB's ASV, and the class directions of its AM-softmax (SUPERB, arXiv 2105.01051).

    Linear to `channels`; TDNN layers of context 5, 3 (dilation 2), 3 (dilation 3), 1 and 1, which lose 14 frames; mean
    and standard deviation; Linear and ReLU, the embedding; Linear and ReLU; cosine with each speaker's direction.
    """

    def __init__(self, dim: int, channels: int, pooled_dim: int, num_speakers: int):
        super().__init__()
        self.down = nn.Linear(dim, channels)
        shapes = ((channels, 5, 1), (channels, 3, 2), (channels, 3, 3), (channels, 1, 1), (pooled_dim, 1, 1))
        sizes = [channels, *(size for size, _, _ in shapes)]
        self.tdnn = nn.ModuleList(
            nn.Conv1d(before, size, context, dilation=dilation)
            for before, (size, context, dilation) in zip(sizes, shapes)
        )
        self.embed = nn.Linear(2 * pooled_dim, channels)
        self.hidden = nn.Linear(channels, channels)
        self.directions = nn.Parameter(torch.empty(num_speakers, channels))
        nn.init.xavier_normal_(self.directions)

    def forward(self, features_BTD: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """(embeddings (B, channels), cosines with the training speakers (B, num_speakers))."""
        missing = max(0, _MIN_CONTEXT - features_BTD.shape[1])
        x_BCT = self.down(functional.pad(features_BTD, (0, 0, 0, missing))).transpose(1, 2)
        for layer in self.tdnn:
            x_BCT = layer(x_BCT).relu()
        lens_B = (lens_B.clamp(min=_MIN_CONTEXT) - (_MIN_CONTEXT - 1)).to(x_BCT.device)
        valid_B1T = (torch.arange(x_BCT.shape[2], device=x_BCT.device) < lens_B[:, None])[:, None]
        count_B1 = lens_B[:, None]
        mean_BC = (x_BCT * valid_B1T).sum(dim=2) / count_B1
        variance_BC = ((x_BCT - mean_BC[:, :, None]).square() * valid_B1T).sum(dim=2) / (count_B1 - 1).clamp(min=1)
        embedding_BE = self.embed(torch.cat([mean_BC, (variance_BC + 1e-9).sqrt()], dim=1)).relu()
        last_BE = self.hidden(embedding_BE).relu()
        return embedding_BE, functional.normalize(last_BE, dim=1) @ functional.normalize(self.directions, dim=1).T


def additive_margin_loss(cosines_BS: Tensor, speakers_B: Tensor, scale: float = 30.0, margin: float = 0.4) -> Tensor:
    """AM-softmax: cross-entropy of scaled cosines, the right one lowered by the margin."""
    speakers_B = speakers_B.to(cosines_BS.device)
    shift_BS = functional.one_hot(speakers_B, cosines_BS.shape[1]) * margin
    return functional.cross_entropy(scale * (cosines_BS - shift_BS), speakers_B)
