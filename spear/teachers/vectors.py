"""One vector for each recording: the mean of an encoder's frames, kept in a file that says which encoder made it.

An .npz has `paths` (N,), `vectors` (N, D) float32, `seconds` (N,), `frame_counts` (N,), `states` (N, 2: bytes and time
of change in ns), `card` (JSON: the encoder, its layer, the windows), and where frames are wanted `frames`, all of them
one below the other: those of recording n begin at `frame_counts[:n].sum()`. `numpy.load` reads it as it is. A .parquet
has a row for each recording (columns path, seconds, vector, frames) and the card in the metadata of its schema.
"""

import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

import spear
from spear import errors, fs
from spear.errors import CardError, ConfigError, DataError
from spear.manifest.recordings import Piece, Recording, by_recording, cut_into_pieces
from spear.teachers.base import IDENTITY_KEYS, Teacher

SUFFIXES = (".npz", ".parquet")
_ARRAYS = {"paths": 1, "vectors": 2, "seconds": 1, "frame_counts": 1, "states": 2}
_NO_ARRAYS = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, tokenize.TokenError)
_NO_ARRAYS += (zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise for damaged archives, encrypted ones and headers that promise any size."""


@dataclass
class Vectors:
    """Recordings and what an encoder makes of them.

    Attributes:
        paths: (N,) texts, as they were named.
        vectors_ND: (N, D) float32, means over the frames of each.
        seconds: (N,) of audio.
        frame_counts: (N,) frames of each.
        states: (N, 2) int64: bytes, and time of change in ns.
        card: what made them.
        frames: (T, D) of each recording, or None.
    """

    paths: np.ndarray
    vectors_ND: np.ndarray
    seconds: np.ndarray
    frame_counts: np.ndarray
    states: np.ndarray
    card: dict
    frames: list[np.ndarray] | None = None

    def chosen(self, rows: Sequence[int]) -> "Vectors":
        """Some of the recordings, without frames."""
        arrays = (self.paths, self.vectors_ND, self.seconds, self.frame_counts, self.states)
        return Vectors(*(array[list(rows)] for array in arrays), self.card)

    def joined(self, other: "Vectors") -> "Vectors":
        """These recordings and those of another, which the same encoder made; without frames."""
        names = ("paths", "vectors_ND", "seconds", "frame_counts", "states")
        return Vectors(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names), self.card)


def embed_recordings(
    teacher: Teacher,
    recordings: Sequence[Recording],
    refuse: Callable[[int, str], None],
    window_seconds: float = 30.0,
    overlap_seconds: float = 1.0,
    batch_seconds: float = 120.0,
    with_frames: bool = False,
) -> Vectors:
    """Runs an encoder over recordings of any length.

    A vector does not depend on what else is embedded, but for the rounding of float32; that of a recording longer than
    a window depends on the windows.

    Args:
        teacher: the encoder, one whose frames do not depend on the batch.
        recordings: see `spear.manifest.recordings`.
        refuse: is told the recording and the reason when one cannot be decoded; it is left out.
        window_seconds, overlap_seconds: see `spear.manifest.recordings.cut_into_pieces`.
        batch_seconds: of a batch with its padding.
        with_frames: keep the frames too; they stay in memory.

    Raises:
        ConfigError: windows that are no longer than their overlaps.
    """
    pieces = cut_into_pieces(recordings, window_seconds, overlap_seconds)
    # From before they are read: what changes meanwhile is then another file than the one that was embedded.
    states = [fs.state_of(recording.path) for recording in recordings]

    def hear(batch: Sequence[Piece], waves_BS: Tensor, lengths_B: Tensor) -> Iterator[tuple]:
        x_BTD, lens_B = teacher.embed(waves_BS.to(teacher.device), lengths_B)
        for piece, x_TD, count in zip(batch, x_BTD.cpu().numpy(), lens_B.tolist()):
            kept_TD = x_TD[:count][piece.kept(count, teacher.frame_rate)]
            yield kept_TD.sum(0, dtype=np.float64), len(kept_TD), kept_TD.copy() if with_frames else None

    found = by_recording(recordings, pieces, hear, refuse, "embedding", batch_seconds, teacher.sample_rate)
    parts = {number: [answer for _, answer in answers] for number, answers in found.items()}
    counts = {number: sum(count for _, count, _ in answers) for number, answers in parts.items()}
    good = [number for number, count in counts.items() if count]
    means = [sum(total_D for total_D, _, _ in parts[number]) / counts[number] for number in good]
    windows = {"window_seconds": window_seconds, "overlap_seconds": overlap_seconds}
    return Vectors(
        paths=np.array([str(recordings[number].path) for number in good], dtype=np.str_),
        vectors_ND=np.array(means, dtype=np.float32).reshape(-1, teacher.dim),
        seconds=np.array([recordings[number].duration_seconds for number in good]),
        frame_counts=np.array([counts[number] for number in good], dtype=np.int64),
        states=np.array([states[number] for number in good], dtype=np.int64).reshape(-1, 2),
        card={**teacher.fingerprint(), **windows, "spear_version": spear.__version__},
        frames=[np.concatenate([x_TD for *_, x_TD in parts[n]]) for n in good] if with_frames else None,
    )


def check_output(path: str | Path) -> None:
    """Refuses, before anything is computed, a file that could not be written.

    Raises:
        ConfigError: another suffix than .npz and .parquet, a folder of that name, or no folder that it could be in.
        MissingPackageError: parquet without pyarrow.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"the output {path}", f"a name that ends in {' or '.join(SUFFIXES)}", "correct --output")
    parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if Path(path).is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"the output {path}", "a file in a folder that may be written to", "correct --output")
    if suffix == ".parquet":
        errors.require("pyarrow", "pyarrow", f"writing {Path(path).name}")


def save_vectors(vectors: Vectors, path: str | Path) -> None:
    """Writes an .npz or .parquet, whole or not at all; see the module's docstring.

    Raises:
        ConfigError, MissingPackageError: see `check_output`.
    """
    check_output(path)
    card = fs.json_text(vectors.card, indent=None)
    if Path(path).suffix.lower() == ".parquet":
        _save_parquet(vectors, card, Path(path))
        return
    arrays = {"paths": vectors.paths, "vectors": vectors.vectors_ND, "seconds": vectors.seconds}
    arrays |= {"frame_counts": vectors.frame_counts, "states": vectors.states, "card": np.array(card)}
    if vectors.frames is not None:
        arrays["frames"] = np.concatenate(vectors.frames)
    with fs.atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **arrays)


def _save_parquet(vectors: Vectors, card: str, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = [str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in vectors.paths]
    columns = {"path": texts, "seconds": vectors.seconds, "vector": list(vectors.vectors_ND)}
    if vectors.frames is not None:
        columns["frames"] = [list(x_TD) for x_TD in vectors.frames]
    table = pyarrow.table(columns).replace_schema_metadata({"card": card})
    with fs.atomic(path) as temporary:
        parquet.write_table(table, temporary)


def load_vectors(path: str | Path) -> Vectors:
    """Reads an .npz that `save_vectors` wrote; frames are left where they are. Nothing in it is executed.

    Raises:
        DataError: it is none, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {path}", "an .npz of spear embed-files", "correct the path")
    try:
        with open(path, "rb") as handle, np.lib.npyio.NpzFile(handle, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in (*_ARRAYS, "card")}
    except _NO_ARRAYS as error:
        raise _foreign(path, str(error)) from error
    card = fs.parse_json(str(arrays.pop("card")), f"the card of {path}")
    lengths = {len(array) if array.ndim == _ARRAYS[name] else -1 for name, array in arrays.items()}
    if len(lengths) != 1 or -1 in lengths or not isinstance(card, dict):
        raise _foreign(path, "arrays of different lengths")
    if arrays["paths"].dtype.kind != "U" or any(arrays[name].dtype.kind not in "iuf" for name in [*_ARRAYS][1:]):
        raise _foreign(path, "arrays of other types")
    vectors_ND = arrays["vectors"]
    if card.get("dim", vectors_ND.shape[1]) != vectors_ND.shape[1]:
        raise _foreign(path, f"vectors of {vectors_ND.shape[1]} numbers, and of {card['dim']} by its card")
    if not np.isfinite(vectors_ND).all():
        raise _foreign(path, "vectors that are not finite")
    return Vectors(arrays["paths"], vectors_ND, arrays["seconds"], arrays["frame_counts"], arrays["states"], card)


def _foreign(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: {reason[:200]}", "an .npz of spear embed-files", "write it again with spear embed-files")


def check_same_encoder(card: dict, teacher: Teacher, path: str | Path) -> None:
    """Refuses vectors of another encoder or layer.

    Raises:
        CardError: says in what they differ.
    """
    own = teacher.fingerprint()
    differing = [key for key in IDENTITY_KEYS if card.get(key) != own[key]]
    if differing:
        raise CardError(
            f"{path} with vectors of " + ", ".join(f"{key} {card.get(key)}" for key in differing),
            ", ".join(f"{key} {own[key]}" for key in differing) + ", as the encoder given has",
            "name the encoder and layer that made them, or embed the recordings again",
        )


def nearest(query_D: np.ndarray, vectors_ND: np.ndarray, top: int) -> list[tuple[int, float]]:
    """The rows with the largest cosine to a vector, best first, with the cosine."""
    norms_N = np.linalg.norm(vectors_ND, axis=1) * np.linalg.norm(query_D)
    cosines_N = vectors_ND @ query_D / np.maximum(norms_N, 1e-12)
    order = np.argsort(-cosines_N, kind="stable")[:top]
    return [(int(row), float(cosines_N[row])) for row in order]
