"""Transcripts of recordings of any length: windows that overlap, whose frames are put together before they are decoded.

Every window gives up its edges to its neighbours, so each frame is heard once, with what is around it; the decoder then
sees one sequence of frames, as if the recording had been heard at once. Words at seams are neither lost nor doubled.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spear.manifest.recordings import Piece, Recording, by_recording, cut_into_pieces
from spear.recognise.decoding import Decoder
from spear.recognise.words import TimedWord, timed_words

_GROUP_SECONDS = 3600.0  # of recordings whose frames are in memory together


def transcribe(
    encode: Callable[[Tensor, Tensor], Any],
    decoder: Decoder,
    frame_rate_hz: float,
    recordings: Sequence[Recording],
    refuse: Callable[[int, str], None],
    window_seconds: float = 30.0,
    overlap_seconds: float = 2.0,
    batch_seconds: float = 120.0,
) -> Iterator[tuple[int, list[TimedWord]]]:
    """The words of every recording.

    Args:
        encode: from (B, samples) at 16 kHz and (B,) lengths to `spear.models.heads.Encoded`.
        decoder: of the model's head.
        frame_rate_hz: of what the decoder reads.
        recordings: see `spear.manifest.recordings`.
        refuse: is told the recording and the reason when one cannot be decoded; it is left out.
        window_seconds, overlap_seconds: see `spear.manifest.recordings.cut_into_pieces`.
        batch_seconds: of a batch with its padding.

    Yields:
        the recording's number and its words, in order.

    Raises:
        ConfigError: windows that are no longer than their overlaps.
    """

    def hear(batch: Sequence[Piece], waves_BS: Tensor, lengths_B: Tensor) -> Iterator[Tensor]:
        encoded = encode(waves_BS, lengths_B)
        hidden_BTD = decoder.head.read(encoded).float()
        for piece, hidden_TD, count in zip(batch, hidden_BTD, encoded.lens_B.tolist()):
            yield hidden_TD[:count][piece.kept(count, frame_rate_hz)].cpu()

    start = 0
    while start < len(recordings):
        stop, seconds = start, 0.0
        while stop < len(recordings) and (stop == start or seconds < _GROUP_SECONDS):
            seconds += recordings[stop].duration_seconds
            stop += 1

        def leave_out(number: int, reason: str, first: int = start) -> None:
            refuse(first + number, reason)

        group = recordings[start:stop]
        pieces = cut_into_pieces(group, window_seconds, overlap_seconds)
        found = by_recording(group, pieces, hear, leave_out, "transcribing", batch_seconds)
        for number in list(found):
            yield start + number, _decode(decoder, [hidden_TD for _, hidden_TD in found.pop(number)], frame_rate_hz)
        start = stop


def _decode(decoder: Decoder, parts: list[Tensor], frame_rate_hz: float) -> list[TimedWord]:
    hidden_TD = torch.cat(parts)
    if not len(hidden_TD):
        return []
    device = next(decoder.head.parameters()).device
    [found] = decoder(hidden_TD[None].to(device), torch.tensor([len(hidden_TD)], device=device))
    return timed_words(found, decoder.vocabulary, frame_rate_hz)
