"""Tokens made elsewhere become a stream of ours, with a card and checksums like any other."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import spear
from spear.audio import FbankConfig
from spear.errors import CardError, DataError, SpearError
from spear.fs import sha256_json
from spear.log import get_logger
from spear.manifest.foreign import CutArray
from spear.manifest.item import SAMPLE_RATE_HZ
from spear.shards import ShardWriter, is_complete, read_index
from spear.teachers.align import expected_frames, resampled_samples
from spear.tokens.card import TokenCard
from spear.tokens.extract import MAX_FRAME_DIFFERENCE

logger = get_logger(__name__)
_CUTS_PER_SHARD = 10_000


@dataclass
class ImportReport:
    """What was imported: cuts and rows written, shards that were there, cuts left out with the reason."""

    cuts: int = 0
    rows: int = 0
    shards_before: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)

    def text(self, what: str, card: TokenCard) -> str:
        """In words: what was imported, and the first cuts that were left out."""
        row_bytes = card.num_codebooks * card.dtype.itemsize
        left_out = [f"\n  left out {cut}: {reason}" for cut, reason in itertools.islice(self.quarantined.items(), 10)]
        return (
            f"{what}, {self.rows} rows of {row_bytes} bytes; {len(self.quarantined)} cuts left out; "
            "now run spear verify-tokens" + "".join(left_out)
        )


def imported_card(stream: str, teacher: dict, quantizer: dict, domains: Iterable[str] = ()) -> TokenCard:
    """The card of an imported stream.

    Args:
        stream: its name.
        teacher: a fingerprint; `weights_sha256` may be "unknown".
        quantizer: content_sha256, num_codebooks and codebook_size.
        domains: of the cuts that have tokens.
    """
    return TokenCard(
        stream=stream,
        teacher=teacher,
        quantizer={key: quantizer[key] for key in ("content_sha256", "num_codebooks", "codebook_size")},
        frame_rate_hz=float(teacher["frame_rate_hz"]),
        sample_rate_hz=int(teacher["sample_rate_hz"]),
        fbank_sha256=FbankConfig().definition_hash(),
        domains=tuple(sorted(domains)),
        spear_version=spear.__version__,
    )


def import_tokens(arrays: Iterable[CutArray], card: TokenCard, directory: Path, name: str) -> ImportReport:
    """Writes foreign arrays as shards `imported-NAME-NNNNN`; what is already there is not read again.

    Args:
        arrays: what others made, of each cut.
        card: what they are.
        directory: of the stream.
        name: of where they come from.

    Raises:
        CardError: the directory holds another stream, or not one array of the first shard fits the card.
        DataError: not one of them can be used for another reason. (Nothing is left behind in either case.)
    """
    fresh = not (directory / "card.json").exists()
    if not fresh:
        TokenCard.load(directory).check_compatible(card, "this import", "choose another --output")
    card.save(directory)
    report, iterator = ImportReport(), iter(arrays)
    for number in itertools.count():
        group = list(itertools.islice(iterator, _CUTS_PER_SHARD))
        if not group:
            break
        shard = f"imported-{name}-{number:05d}"
        unit_sha256 = sha256_json([card.sha256, [[item.id, item.num_samples, *item.place] for item in group]])
        if is_complete(directory, shard, unit_sha256=unit_sha256):
            report.shards_before += 1
        else:
            error = _write_shard(directory, shard, unit_sha256, group, card)
            if error is not None and not report.cuts:  # the wrong quantizer, teacher or field: no need to read on
                names = [f"{shard}.json", f"{shard}.npy", *(["card.json"] if fresh and not number else [])]
                for path in names:
                    (directory / path).unlink(missing_ok=True)
                raise error
        index = read_index(directory, shard)
        report.cuts += len(index["ids"])
        report.rows += index["num_rows"]
        report.quarantined |= {entry["id"]: entry["reason"] for entry in index["quarantined"]}
    return report


def _write_shard(directory: Path, shard: str, unit_sha256: str, group: list, card: TokenCard) -> SpearError | None:
    """Writes a shard; returns what is wrong with the first of its arrays when none of them can be used."""
    extra = {"unit_sha256": unit_sha256, "quarantined": [], "trimmed": 0}
    first, taken = None, set()
    with ShardWriter(directory, shard, card.dtype, card.num_codebooks, extra) as writer:
        for item in group:
            try:
                if item.id in taken:
                    raise DataError("an id for the second time", "every id once", "remove the duplicate")
                writer.add(item.id, _rows(item, card))
                taken.add(item.id)
            except SpearError as error:
                reason = f"{error.found}; expected {error.expected}"
                logger.warning("left out %a: %s", item.id, reason)
                writer.extra["quarantined"].append({"id": item.id, "reason": reason})
                first = first or type(error)(
                    f"no array of {len(group)} cuts can be used: for cut {item.id!a}, {error.found}",
                    error.expected,
                    error.fix,
                )
        writer.extra["quarantined"].sort(key=lambda entry: entry["id"])
    return None if taken else first


def _rows(item: CutArray, card: TokenCard) -> np.ndarray:
    """A cut's tokens, (frames, num_codebooks) of the card's dtype, as they should be.

    Raises:
        CardError: they are not what the quantizer makes. DataError: they cannot be used for another reason.
    """
    shift, fix = item.frame_shift_seconds, "give the quantizer that these tokens were made with"
    if item.problem:
        raise DataError(item.problem, "tokens in a file", "correct the manifest")
    if shift is not None and abs(shift * card.frame_rate_hz - 1) > 0.01:
        found = f"a stated frame shift of {shift:g} s"
        raise CardError(found, f"{1 / card.frame_rate_hz:g} s, as the card has", "name the teacher that made them")
    try:
        array = np.asarray(item.load())
    except SpearError:
        raise
    except Exception as error:  # each storage of lhotse has errors of its own
        found = f"an array that cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise DataError(found, "an array in a file", "look whether the file is there") from error
    if array.ndim != 2 or array.shape[1] != card.num_codebooks or array.dtype.kind not in "iu":
        expected = f"(frames, {card.num_codebooks}) whole numbers, as the quantizer has {card.num_codebooks} codebooks"
        raise CardError(f"an array of shape {array.shape} and type {array.dtype}", expected, fix)
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < card.codebook_size:
        raise DataError(f"codes from {array.min()} to {array.max()}", f"0 to {card.codebook_size - 1}", fix)
    frames = expected_frames(resampled_samples(item.num_samples, card.sample_rate_hz), card.teacher)
    # More than a frame too few are of other audio, and so are rows that last longer than the audio does, unless the cut
    # was padded. (A teacher's last frames may lack: 2 s may be 100 rows of 0.02 s to one and 96 to another.)
    most = math.ceil(item.num_samples / SAMPLE_RATE_HZ * card.frame_rate_hz) + MAX_FRAME_DIFFERENCE
    if len(array) < frames - MAX_FRAME_DIFFERENCE or (len(array) > most and not item.padded):
        raise DataError(
            f"{len(array)} rows", f"{frames} for {item.num_samples} samples", "make the tokens of this audio"
        )
    return array[:frames].astype(card.dtype)
