"""Recordings of any length from a command line, in pieces and batches that fit a memory: what is read for inference.

A recording that is longer than a window is heard in windows that overlap, each of which gives up its edges to its
neighbours; what is kept covers the recording once. Pieces of similar lengths share a batch.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from spear import log
from spear.audio.load import load_audio, probe
from spear.errors import ConfigError, DataError, reasons
from spear.manifest.scan import READABLE, UNREADABLE, files_below

SAMPLE_RATE_HZ = 16000
GRID_SECONDS = 0.16
"""Windows begin at multiples of this, where the frames of the slowest stack of an encoder (6.25 Hz) begin."""
Answer = TypeVar("Answer")
_MIN_SAMPLES = 1600  # shorter pieces are padded with zeros, so that each has a frame


@dataclass(frozen=True)
class Recording:
    """A file that can be heard, or a stretch of it.

    Attributes:
        path: as it was named.
        duration_seconds: of what is heard.
        start_seconds, speed, channel, gain: see `spear.audio.load.load_audio`.
    """

    path: Path
    duration_seconds: float
    start_seconds: float = 0.0
    speed: float = 1.0
    channel: int | None = None
    gain: float = 1.0

    def read(self, piece: "Piece", sample_rate_hz: int) -> np.ndarray:
        """(samples,) float32 of a piece."""
        start = self.start_seconds + piece.start_seconds
        how = (self.speed, self.channel, self.gain)
        return load_audio(self.path, sample_rate_hz, start, piece.duration_seconds, *how)


@dataclass(frozen=True)
class Piece:
    """What an encoder hears at once: a stretch of a recording, and the part of it that counts.

    Attributes:
        recording: its place in the list of recordings.
        start_seconds, duration_seconds: in the recording.
        keep_start_seconds, keep_stop_seconds: in the recording; the last one of a recording is its end.
        is_last: of its recording.
    """

    recording: int
    start_seconds: float
    duration_seconds: float
    keep_start_seconds: float
    keep_stop_seconds: float
    is_last: bool

    def kept(self, num_frames: int, frame_rate_hz: float) -> slice:
        """The frames that count, of the `num_frames` that the piece has."""
        first = round((self.keep_start_seconds - self.start_seconds) * frame_rate_hz)
        last = round((self.keep_stop_seconds - self.start_seconds) * frame_rate_hz)
        return slice(first, num_frames if self.is_last else min(last, num_frames))


def find_recordings(paths: Sequence[str | Path]) -> tuple[list[Recording], list[dict]]:
    """The recordings that files and folders (with all below them) name, each once, and {path, reason} of the others.

    Raises:
        DataError: none of them can be heard.
    """
    named: dict[str, Path] = {}
    refused = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            names, bad = files_below(path)
            refused += [{"path": str(path / each["path"]), "reason": each["reason"]} for each in bad]
            inside = [path / name for name in names if Path(name).suffix.lower() in READABLE | UNREADABLE]
        for file in inside:
            named.setdefault(os.path.realpath(file), file)
    found = []
    for file in named.values():
        try:
            found.append(Recording(file, probe(file).duration_seconds))
        except DataError as error:
            refused.append({"path": str(file), "reason": error.found})
        except OSError as error:  # no right to read it
            refused.append({"path": str(file), "reason": error.strerror or str(error)})
    if not found:
        raise DataError(
            f"no recording that can be heard in {', '.join(map(str, paths))[:200]}{reasons(refused)}",
            "files of audio, or folders that hold some",
            "correct the paths, or convert the recordings (for example: ffmpeg -i IN OUT.flac)",
        )
    return found, refused


def cut_into_pieces(
    recordings: Sequence[Recording], window_seconds: float = 30.0, overlap_seconds: float = 1.0
) -> list[Piece]:
    """The pieces of all recordings, in order.

    Args:
        recordings: see `find_recordings`.
        window_seconds: longest piece; rounded down to the grid, see `GRID_SECONDS`.
        overlap_seconds: what a window gives up at each side that has a neighbour; rounded up to the grid.

    Raises:
        ConfigError: windows that are no longer than their overlaps, or have no end.
    """
    if not (math.isfinite(window_seconds) and math.isfinite(overlap_seconds)):
        raise ConfigError(
            f"windows of {window_seconds:g} s that overlap by {overlap_seconds:g} s",
            "numbers of seconds",
            "correct --window-seconds or --overlap-seconds (a window as long as the recordings hears them whole)",
        )
    window, overlap = int(window_seconds / GRID_SECONDS + 1e-6), -int(-overlap_seconds // GRID_SECONDS)
    if overlap < 0 or window <= 2 * overlap:
        raise ConfigError(
            f"windows of {window_seconds:g} s that overlap by {overlap_seconds:g} s",
            "windows longer than both overlaps, which are not negative",
            "raise --window-seconds",
        )
    pieces = []
    for number, recording in enumerate(recordings):
        seconds, kept = recording.duration_seconds, 0
        while True:
            start = max(0, kept - overlap)
            stop, is_last = start + window, (start + window) * GRID_SECONDS >= seconds
            keep_stop = seconds if is_last else (stop - overlap) * GRID_SECONDS
            duration = (seconds if is_last else stop * GRID_SECONDS) - start * GRID_SECONDS
            pieces.append(Piece(number, start * GRID_SECONDS, duration, kept * GRID_SECONDS, keep_stop, is_last))
            if is_last:
                break
            kept = stop - overlap
    return pieces


def batches_of(pieces: Sequence[Piece], batch_seconds: float = 120.0) -> list[list[Piece]]:
    """Pieces of similar lengths together, the longest first: what does not fit the memory fails at once.

    Args:
        pieces: see `cut_into_pieces`.
        batch_seconds: of a batch with its padding; a longer piece is alone.

    Raises:
        ConfigError: it is no number.
    """
    if math.isnan(batch_seconds):  # which would be the end of no batch
        raise ConfigError("batches of nan s", "a positive number", "correct --batch-seconds")
    batches: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.duration_seconds):
        if not batches or (len(batches[-1]) + 1) * batches[-1][0].duration_seconds > batch_seconds:
            batches.append([])
        batches[-1].append(piece)
    return batches


def read_batches(
    recordings: Sequence[Recording],
    batches: Sequence[Sequence[Piece]],
    refuse: Callable[[int, str], None],
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> Iterator[tuple[list[Piece], Tensor, Tensor]]:
    """Decodes the batches, the next one while the caller computes.

    Args:
        recordings, batches: see above.
        refuse: is told the recording and the reason when a piece cannot be decoded; the piece is left out.
        sample_rate_hz: wanted.

    Yields:
        the pieces, (B, samples) float32 zero padded, and (B,) lengths in samples; batches of which nothing is left are
        passed over.
    """

    def read(batch: Sequence[Piece]) -> tuple[list[Piece], list[np.ndarray], list[tuple[int, str]]]:
        pieces, waves, bad = [], [], []
        for piece in batch:
            try:
                samples = recordings[piece.recording].read(piece, sample_rate_hz)
            except (DataError, OSError) as error:
                bad.append((piece.recording, error.found if isinstance(error, DataError) else str(error)))
                continue
            pieces.append(piece)
            waves.append(samples)
        return pieces, waves, bad

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, batches[0]) if batches else None
        for number in range(len(batches)):
            pieces, waves, bad = ahead.result()
            if number + 1 < len(batches):
                ahead = pool.submit(read, batches[number + 1])
            for recording, reason in bad:
                refuse(recording, reason)
            if pieces:
                lengths_B = torch.tensor([max(_MIN_SAMPLES, len(wave)) for wave in waves])
                waves_BS = torch.zeros(len(waves), int(lengths_B.max()))
                for row_S, wave in zip(waves_BS, waves):
                    row_S[: len(wave)] = torch.from_numpy(wave)
                yield pieces, waves_BS, lengths_B


def by_recording(
    recordings: Sequence[Recording],
    pieces: Sequence[Piece],
    hear: Callable[[Sequence[Piece], Tensor, Tensor], Iterable[Answer]],
    refuse: Callable[[int, str], None],
    label: str,
    batch_seconds: float = 120.0,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
) -> dict[int, list[tuple[Piece, Answer]]]:
    """What a model says of the pieces of each recording, in the order of time.

    Args:
        recordings, pieces: see above.
        hear: from pieces, (B, samples) and (B,) lengths in samples to an answer for each piece.
        refuse: is told a recording and the reason, once, when a piece of it cannot be decoded; it is left out.
        label: what is being done, for lines of progress.
        batch_seconds: see `batches_of`.
        sample_rate_hz: wanted.
    """
    bad: set[int] = set()

    def leave_out(recording: int, reason: str) -> None:
        if recording not in bad:
            refuse(recording, reason)
        bad.add(recording)

    said: dict[int, list[tuple[Piece, Answer]]] = {}
    progress = log.Progress(len(pieces), label, "pieces")
    batches = batches_of(pieces, batch_seconds)
    for batch, waves_BS, lengths_B in read_batches(recordings, batches, leave_out, sample_rate_hz):
        for piece, answer in zip(batch, hear(batch, waves_BS, lengths_B)):
            said.setdefault(piece.recording, []).append((piece, answer))
        progress.update(len(batch))
    return {
        number: sorted(said[number], key=lambda each: each[0].start_seconds) for number in sorted(said.keys() - bad)
    }
