"""Token arrays in lhotse's terms: a reader for our shards, arrays of foreign cuts, and cuts that carry our tokens.

Importing this module registers the storage type "spear_tokens", after which `cut.load_custom(FIELD)` reads our shards.
"""

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse import CutSet
from lhotse.array import Array, TemporalArray
from lhotse.features.io import FeaturesReader, NumpyFilesWriter, register_reader

from spear import fs
from spear.errors import DataError, require
from spear.log import get_logger
from spear.manifest.item import SAMPLE_RATE_HZ
from spear.names import file_name, id_problem
from spear.shards import ShardStore

STORAGE_TYPE = "spear_tokens"
logger = get_logger(__name__)


@functools.lru_cache(maxsize=16)
def _store(directory: str) -> ShardStore:
    return ShardStore(directory)


@register_reader
class SpearTokensReader(FeaturesReader):
    """Reads our token shards where a lhotse manifest says so: the path is a stream's directory, the key a cut's id."""

    name = STORAGE_TYPE

    def __init__(self, storage_path: str | Path, *args, **kwargs):
        super().__init__()
        self._directory = str(storage_path)

    def read(self, key: str, left_offset_frames: int = 0, right_offset_frames: int | None = None) -> np.ndarray:
        """(T, N) uint8 tokens of a cut, or some rows of them."""
        return _store(self._directory).read(key)[left_offset_frames:right_offset_frames]


class CutArray(NamedTuple):
    """A cut's array in a foreign manifest: `load` reads it, and raises what lhotse raises."""

    id: str
    num_samples: int
    domain: str
    load: Any


def open_cuts(source: str | Path) -> CutSet:
    """Cuts of a JSONL (.gz) file or of a Shar directory, one after the other.

    Raises:
        DataError: neither is there.
    """
    source = Path(source)
    if source.is_dir():
        if not list(source.glob("cuts.*")):
            raise DataError(f"{source} without cuts.*.jsonl(.gz)", "a directory of lhotse Shar", "correct the path")
        return CutSet.from_shar(in_dir=source)
    if not source.is_file():
        raise DataError(
            f"nothing at {source}", "lhotse cuts (JSONL or JSONL.gz), or a Shar directory", "correct --cuts"
        )
    return CutSet.from_jsonl_lazy(source)


def read_arrays(source: str | Path, field: str) -> Iterator[CutArray]:
    """The cuts that have an array of this name; HDF5 needs h5py, which lhotse then asks for.

    Raises:
        DataError: no cut has it; names the fields that there are.
    """
    found, others = False, set()
    for cut in open_cuts(source):
        custom = cut.custom or {}
        if field in custom:
            found = True
            num_samples = round(cut.duration * SAMPLE_RATE_HZ)
            yield CutArray(cut.id, num_samples, custom.get("domain", ""), functools.partial(cut.load_custom, field))
        else:
            others |= {key for key, value in custom.items() if isinstance(value, (Array, TemporalArray))}
    if not found:
        raise DataError(f"no array '{field}' in {source}", ", ".join(sorted(others)) or "one", "correct --field")


def write_cuts(
    cuts: Sequence[Path], fields: dict[str, tuple[Path, float]], output: Path, form: str, with_audio: bool
) -> dict[str, int]:
    """Cuts files as lhotse cuts whose custom fields hold tokens.

    Args:
        cuts: files of stage 1; each gives a file (or Shar directory) of its name.
        fields: stream directory and frame rate in Hz by the field's name.
        output: directory of the result.
        form: "pointers" into our shards, "numpy" (a file for each array), "hdf5" (one for each field; needs h5py), or
            "shar" (tokens, and audio if wanted, in tar files).
        with_audio: put FLAC audio into Shar.

    Returns:
        number of cuts written by file; cuts without any of the tokens are left out.

    Raises:
        MissingPackageError: h5py is not installed.
    """
    stores = {field: (directory, ShardStore(directory), rate) for field, (directory, rate) in fields.items()}
    counts = {}
    for path in cuts:
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        writers = {field: _writer(form, output, f"{name}-{field}") for field in fields}
        rows = _with_tokens(path, stores, writers)
        if form == "shar":
            counts[name] = _write_shar(output / name, rows, fields, with_audio)
        else:
            counts[name] = fs.write_jsonl(output / f"{name}.jsonl", rows)
        for writer in writers.values():
            if hasattr(writer, "close"):  # that of HDF5
                writer.close()
    return counts


def _write_shar(directory: Path, rows: Iterable[dict], fields: Iterable[str], with_audio: bool) -> int:
    """Writes a directory of Shar beside its place and moves its files there when all are whole; returns the cuts."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        shar_fields = dict.fromkeys(fields, "numpy") | ({"recording": "flac"} if with_audio else {})
        chosen = CutSet.from_dicts(row for row in rows if _fits_tar(row["id"]))
        written = chosen.to_shar(temporary, fields=shar_fields, warn_unused_fields=False)
        count = sum(1 for piece in written["cuts"] for _ in CutSet.from_jsonl_lazy(piece))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, directory / file.name)
    return count


def _fits_tar(cut_id: str) -> bool:
    """Whether an id may name a member of a tar file, as lhotse's readers of Shar demand; others are left out."""
    reason = id_problem(cut_id, separators="\\") or ("an absolute path" if cut_id.startswith("/") else "")
    if reason:
        logger.warning("left out %a: %s, which cannot be in a tar file", cut_id, reason)
    return not reason


def _writer(form: str, output: Path, name: str):
    if form == "numpy":
        return NumpyFilesWriter(output / "arrays" / name)
    if form == "hdf5":
        require("h5py", "h5py>=3", "the format hdf5")
        from lhotse.features.io import NumpyHdf5Writer

        output.mkdir(parents=True, exist_ok=True)
        return NumpyHdf5Writer(output / name)
    return None


def _with_tokens(path: Path, stores: dict, writers: dict) -> Iterable[dict]:
    root = path.absolute().parent.parent
    for cut in fs.read_jsonl(path):
        added = {}
        for field, (directory, store, rate) in stores.items():
            if cut["id"] not in store:
                continue
            where = {"temporal_dim": 0, "frame_shift": 1 / rate, "start": cut["start"]}
            if writers[field] is not None:
                # The key is part of a path; the id stays in the cut.
                key = file_name(cut["id"])
                array = writers[field].store_array(key, store.read(cut["id"]), **where).to_dict()
            else:
                place = {"storage_type": STORAGE_TYPE, "storage_path": str(Path(directory).absolute())}
                shape = [store.rows(cut["id"]), store.width]
                array = {"array": {**place, "storage_key": cut["id"], "shape": shape}, **where}
            added[field] = array
        if added:
            for source in cut["recording"]["sources"]:
                source["source"] = str(root / source["source"])
            yield {**cut, "custom": {**(cut.get("custom") or {}), **added}}
