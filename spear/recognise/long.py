"""Transcripts of recordings of any length: windows that overlap, whose frames are put together before they are decoded.

Every window gives up its edges to its neighbours, so each frame is heard once, with what is around it; the decoder then
sees one sequence of frames, as if the recording had been heard at once. Words at seams are neither lost nor doubled.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spear.manifest.recordings import Recording, batches_of, cut_into_pieces, read_batches
from spear.recognise.decoding import Decoder
from spear.recognise.words import TimedWord, timed_words

WINDOW_SECONDS, OVERLAP_SECONDS, BATCH_SECONDS = 30.0, 2.0, 120.0
_GROUP_SECONDS = 3600.0  # of recordings whose frames are in memory together


def transcribe(
    encode: Callable[[Tensor, Tensor], Any],
    decoder: Decoder,
    frame_rate_hz: float,
    recordings: Sequence[Recording],
    refuse: Callable[[int, str], None],
    window_seconds: float = WINDOW_SECONDS,
    overlap_seconds: float = OVERLAP_SECONDS,
    batch_seconds: float = BATCH_SECONDS,
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
    start = 0
    while start < len(recordings):
        stop, seconds = start, 0.0
        while stop < len(recordings) and (stop == start or seconds < _GROUP_SECONDS):
            seconds += recordings[stop].duration_seconds
            stop += 1
        group, bad = recordings[start:stop], set()

        def leave_out(number: int, reason: str, first: int = start, bad: set = bad) -> None:
            if number not in bad:
                refuse(first + number, reason)
            bad.add(number)

        parts: dict[int, list[tuple[float, Tensor]]] = {}
        batches = batches_of(cut_into_pieces(group, window_seconds, overlap_seconds), batch_seconds)
        for batch, waves_BS, lengths_B in read_batches(group, batches, leave_out):
            encoded = encode(waves_BS, lengths_B)
            hidden_BTD = decoder.head.read(encoded).float()
            for piece, hidden_TD, count in zip(batch, hidden_BTD, encoded.lens_B.tolist()):
                kept_TD = hidden_TD[:count][piece.kept(count, frame_rate_hz)].cpu()
                parts.setdefault(piece.recording, []).append((piece.start_seconds, kept_TD))
        for number in range(len(group)):
            if number not in bad:
                yield start + number, _decode(decoder, parts.pop(number, []), frame_rate_hz)
        start = stop


def _decode(decoder: Decoder, parts: list[tuple[float, Tensor]], frame_rate_hz: float) -> list[TimedWord]:
    if not parts:
        return []
    hidden_TD = torch.cat([hidden for _, hidden in sorted(parts, key=lambda part: part[0])])
    if not len(hidden_TD):
        return []
    device = next(decoder.head.parameters()).device
    [found] = decoder(hidden_TD[None].to(device), torch.tensor([len(hidden_TD)], device=device))
    return timed_words(found, decoder.vocabulary, frame_rate_hz)
