"""Token arrays in lhotse's terms: a reader for our shards, arrays of foreign cuts, and cuts that carry our tokens.

Importing this module registers the storage type "spear_tokens", after which `cut.load_custom(FIELD)` reads our shards.
"""

import copy
import functools
import glob
import io
import math
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from lhotse import CutSet
from lhotse.array import Array
from lhotse.audio.backend import audio_backend
from lhotse.features.io import FeaturesReader, NumpyFilesWriter, register_reader
from lhotse.shar import SharWriter

from spear import fs
from spear.errors import DataError, require
from spear.log import get_logger
from spear.manifest import foreign
from spear.manifest.foreign import CutArray
from spear.manifest.item import SAMPLE_RATE_HZ, to_item
from spear.names import file_name, id_problem
from spear.shards import ShardStore

logger = get_logger(__name__)
STORAGE_TYPE = "spear_tokens"
_MAX_MEMBER_BYTES = 1 << 28
_OF_ARRAYS = {"array", "storage_type"}  # keys that tell an array's JSON


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
        """(T, N) tokens of a cut, uint8 or (labels of many classes) uint16, or some rows of them."""
        return _store(self._directory).read(key)[left_offset_frames:right_offset_frames]


def read_arrays(source: str | Path, field: str) -> Iterator[CutArray]:
    """The cuts of a JSONL (.gz) file or of a Shar directory that have an array of this name.

    The array is in a file of a format that holds arrays alone (see `spear.manifest.foreign`); HDF5 needs h5py, which
    lhotse then asks for. Lines that are no cuts are left out with a warning.

    Raises:
        DataError: neither is there, or no cut has it; names the fields that there are.
    """
    source = Path(source)
    if source.is_dir():
        rows = _shar_rows(source, field)
    elif source.is_file():
        rows = ((row, None) for row in fs.iter_jsonl(source))
    else:
        raise DataError(
            f"nothing at {source}", "lhotse cuts (JSONL or JSONL.gz), or a Shar directory", "correct --cuts"
        )
    found, others = False, set()
    for number, (row, packed) in enumerate(rows, 1):
        try:
            cut, padded = _cut_with_arrays(row)
        except DataError as error:
            logger.warning("%s: left out %s: %s", source, foreign.name_of(row, number), foreign.reason_of(error))
            continue
        custom = cut.custom or {}
        if field in custom or packed is not None:
            found = True
            yield _cut_array(cut, padded, custom.get(field), packed)
        else:
            others |= {key for key, value in custom.items() if isinstance(value, dict) and value.keys() & _OF_ARRAYS}
    if not found:
        raise DataError(f"no array '{field}' in {source}", ", ".join(sorted(others)) or "one", "correct --field")


def _cut_with_arrays(row: Any) -> tuple[foreign.Cut, bool]:
    """A cut, and whether it is padded: lhotse then mixes it with silence."""
    tracks = row.get("tracks") if isinstance(row, dict) else None
    if isinstance(tracks, list):
        cuts = [track.get("cut") for track in tracks if isinstance(track, dict) and not track.get("offset")]
        cuts = [cut for cut in cuts if isinstance(cut, dict) and cut.get("type") != "PaddingCut"]
        padding = [t for t in tracks if isinstance(t, dict) and isinstance(t.get("cut"), dict)]
        padding = [track for track in padding if track["cut"].get("type") == "PaddingCut"]
        if len(cuts) == 1 and len(padding) == len(tracks) - 1:
            return foreign.convert({**cuts[0], "id": row.get("id")}, foreign.Cut, "a padded cut"), True
    return foreign.convert(row, foreign.Cut, "a cut"), False


def _cut_array(cut: foreign.Cut, padded: bool, value: Any, packed: Callable[[], np.ndarray] | None) -> CutArray:
    """What is known about the array of a cut before it is read; `packed` reads one that is in Shar."""
    made = functools.partial(CutArray, cut.id, round(cut.duration * SAMPLE_RATE_HZ), padded=padded)
    try:
        if isinstance(value, dict) and "array" in value:
            temporal = foreign.convert(value, foreign.TemporalRecord, "an array")
            array, shift = temporal.array, temporal.frame_shift
        else:
            temporal, shift = None, None
            array = foreign.convert(value, foreign.ArrayRecord, "an array")
        if packed is None and (problem := foreign.storage_problem(array.storage_type, array.storage_path)):
            raise DataError(problem, "an array in a file", "store it as one (numpy_files)")
        if problem := foreign.text_problem(cut.id) or ("" if cut.id else "a cut without an id"):
            raise DataError(problem, "an id in UTF-8", "correct the cut")
        if temporal is not None:
            _check_span(cut, temporal, padded)
    except DataError as error:
        return made(_nothing, problem=error.found)
    place = (array.storage_path, array.storage_key, array.shape, shift)
    return made(functools.partial(_load, cut, array, temporal, packed), frame_shift_seconds=shift, place=place)


def _nothing() -> np.ndarray:
    return np.zeros((0, 0), dtype=np.uint8)


def _check_span(cut: foreign.Cut, array: foreign.TemporalRecord, padded: bool) -> None:
    """The rows of an array lie in the recording, one row more or less; and begin where the cut begins, or before.

    Raises:
        DataError: they do not.
    """
    rows = array.array.shape[0] if array.array.shape else 0
    end = array.start + rows * array.frame_shift
    last = max(cut.start + cut.duration, cut.recording.duration or 0.0 if cut.recording else 0.0)
    if not padded and end > last + 1.5 * array.frame_shift:
        raise DataError(
            f"{rows} rows of {array.frame_shift:g} s from {array.start:g} s on, in audio that ends at {last:g} s",
            f"at most {math.ceil((last - array.start) / array.frame_shift)} rows",
            "make the tokens of this audio",
        )
    if array.temporal_dim != 0 or array.start > cut.start + array.frame_shift / 2:
        raise DataError(
            f"an array over dimension {array.temporal_dim} from {array.start:g} s on, of a cut at {cut.start:g} s",
            "rows over time that begin with the cut, or before it",
            "make the tokens of this cut",
        )


def _load(
    cut: foreign.Cut,
    array: foreign.ArrayRecord,
    temporal: foreign.TemporalRecord | None,
    packed: Callable[[], np.ndarray] | None,
) -> np.ndarray:
    """Reads an array, and takes of it what the cut has."""
    values = Array.from_dict(msgspec.structs.asdict(array)).load() if packed is None else packed()
    if list(values.shape) != list(array.shape):
        raise DataError(
            f"an array of shape {values.shape}", f"{tuple(array.shape)}, as the manifest says", "write it again"
        )
    if temporal is None or packed is not None:  # Shar holds what belongs to the cut
        return values
    first = round((cut.start - temporal.start) / temporal.frame_shift)
    if first == 0 and abs(temporal.frame_shift * len(values) - cut.duration) < 1.5 * temporal.frame_shift:
        return values
    # Half a frame more than nothing is a frame, as lhotse counts.
    return values[first : first + math.floor(cut.duration / temporal.frame_shift + 0.5 + 1e-6)]


# Shar: cuts in JSONL, and beside them a tar file for each field with an array and its JSON for every cut -------------


def _shar_rows(directory: Path, field: str) -> Iterator[tuple[Any, Callable[[], np.ndarray] | None]]:
    """The cuts of a Shar directory, each with a function that gives its array; None where it has none.

    Nothing that stands in the tar files is a path to follow.

    Raises:
        DataError: no cuts in the directory, or tar files that do not belong to them.
    """
    parts = sorted(path for path in directory.glob("cuts.*") if ".jsonl" in path.suffixes)
    if not parts:
        raise DataError(f"{directory} without cuts.*.jsonl(.gz)", "a directory of lhotse Shar", "correct the path")
    for part in parts:
        number = part.name.split(".")[1]
        tars = sorted(directory.glob(f"{glob.escape(field)}.{glob.escape(number)}.tar*"))
        if not tars:  # another field, or arrays that the cuts name
            yield from ((row, None) for row in fs.iter_jsonl(part))
            continue
        try:
            with tarfile.open(tars[0], "r:gz" if tars[0].suffix == ".gz" else "r:") as tar:
                members = iter(tar)
                for row in fs.iter_jsonl(part):
                    yield _shar_row(row, field, tar, members, tars[0])
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{tars[0]} cannot be read ({error})", "a tar file of lhotse Shar", "copy it again"
            ) from error


def _shar_row(row: dict, field: str, tar: tarfile.TarFile, members: Iterator, path: Path) -> tuple[Any, Any]:
    data, meta = next(members, None), next(members, None)
    if data is None or meta is None or data.name.rpartition(".")[0] != row.get("id"):
        name = "its end" if data is None or meta is None else data.name
        raise DataError(
            f"{path} with {name[:80]} where cut {str(row.get('id'))[:80]} stands in the cuts",
            "an array for each cut, in their order",
            "copy the directory again",
        )
    if data.name.endswith(".nodata"):
        return row, None
    if max(data.size, meta.size) > _MAX_MEMBER_BYTES:
        raise DataError(f"{data.name[:80]} in {path} of {data.size} bytes", "an array of tokens", "copy it again")
    content = [handle.read() if (handle := tar.extractfile(member)) else b"" for member in (data, meta)]
    array = fs.parse_json(content[1].decode(errors="replace"), f"{meta.name} in {path}")
    custom = row.get("custom") if isinstance(row.get("custom"), dict) else {}
    row = {**row, "custom": {**custom, field: _without_place(array)}}
    return row, functools.partial(_packed, data.name, content[0])


def _without_place(array: Any) -> Any:
    """An array's JSON as an `ArrayRecord` takes it: in Shar, its place is the tar file, whatever is stated."""
    place = {"storage_type": "shar", "storage_path": "", "storage_key": ""}
    if isinstance(array, dict) and isinstance(array.get("array"), dict):
        return {**array, "array": {**array["array"], **place}}
    return {**array, **place} if isinstance(array, dict) else array


def _packed(name: str, content: bytes) -> np.ndarray:
    if not name.endswith(".npy"):
        raise DataError(f"{name.rpartition('.')[2]}, which holds no whole numbers", "npy", "write the tokens as npy")
    return np.load(io.BytesIO(content), allow_pickle=False)


# Our tokens in lhotse's cuts -----------------------------------------------------------------------------------------


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
        number of cuts written by file; cuts without any of the tokens are left out, and (with a warning) those that
        cannot be used.

    Raises:
        MissingPackageError: h5py is not installed.
        DataError: no cut has any of the tokens.
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
    if not sum(counts.values()):
        raise DataError(
            f"no cut of {', '.join(map(str, cuts)) or 'no file'} with tokens of {', '.join(fields) or 'no stream'}",
            "cuts that tokens were extracted for",
            "correct --cuts, --tokens or --fields",
        )
    return counts


def _write_shar(directory: Path, rows: Iterable[dict], fields: Iterable[str], with_audio: bool) -> int:
    """Writes a directory of Shar beside its place and moves its files there when all are whole; returns the cuts."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        shar_fields = dict.fromkeys(fields, "numpy") | ({"recording": "flac"} if with_audio else {})
        # lhotse's other readers of audio start programs with the file's name in a shell.
        with audio_backend("LibsndfileBackend"):
            with SharWriter(temporary, fields=shar_fields, warn_unused_fields=False) as writer:
                count = sum(_write_to_shar(writer, row) for row in rows if _fits_tar(row["id"]))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, directory / file.name)
    return count


def _write_to_shar(writer: SharWriter, row: dict) -> bool:
    """Writes a cut to tar files; one whose audio cannot be read is left out. Its tokens have been read before."""
    try:
        for cut in _lhotse_cuts([row]):
            writer.write(cut)  # reads the audio before it writes anything
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the disk that is written to; errors of reading have none
            raise
        reason = str(error).strip().split("\n")[0][:200]
        logger.warning("left out %a: audio that lhotse cannot read (%s: %s)", row["id"], type(error).__name__, reason)
        return False
    return True


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
    for number, cut in enumerate(fs.iter_jsonl(path), 1):
        problem = _export_problem(cut, root)
        if problem:
            logger.warning("%s: left out %a: %s", path, foreign.name_of(cut, number), problem)
            continue
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
                shape = list(store.read(cut["id"]).shape)
                array = {"array": {**place, "storage_key": cut["id"], "shape": shape}, **where}
            added[field] = array
        if added:
            for source in cut["recording"]["sources"]:
                source["source"] = str(root / source["source"])
            yield {**cut, "custom": {**(cut.get("custom") or {}), **added}}


def _export_problem(cut: Any, root: Path) -> str:
    """Why a cut is not given to lhotse, and so to whoever reads the result; empty where it is."""
    try:
        item = to_item(cut, root)
    except DataError as error:
        return foreign.reason_of(error)
    return id_problem(item.id, separators="") or foreign.forbidden(cut) or _lhotse_problem(cut)


def _lhotse_problem(cut: dict) -> str:
    """Why lhotse cannot make its objects of a cut that holds nothing forbidden; empty where it can."""
    try:
        _lhotse_cuts([copy.deepcopy(cut)])
    except Exception as error:  # it checks nothing, so that anything may be raised from within
        return f"what lhotse cannot read ({type(error).__name__}: {str(error)[:100]})"
    return ""


def _lhotse_cuts(rows: Iterable[dict]) -> CutSet:
    return CutSet.from_dicts(rows)
