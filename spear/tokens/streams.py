"""What is made of the audio in the one pass: token streams, or a sample of embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import spear
from spear import seal
from spear.audio import FbankConfig
from spear.errors import CardError, ConfigError, DataError
from spear.shards import shard_names
from spear.teachers import Teacher, TeacherSpec, load_teacher
from spear.tokens.card import TokenCard, check_teacher
from spear.tokens.features import FORMAT as EMBEDDINGS_FORMAT
from spear.tokens.features import FeatureCard

_ENCODE_FRAMES = 16384


@dataclass
class Stream:
    """A directory of shards that extraction fills.

    Attributes:
        name: of the stream.
        directory: of its shards and card.
        teacher: whose frames it is made of; streams of the same object share one forward pass.
        card: what card.json will hold.
        card_sha256: hash of what decides the content; part of every unit's hash.
        dtype, width: of the rows.
        domains: domains of the cuts that take part; empty means all.
        quantizer: encodes frames to tokens; None stores the frames themselves.
        search: refine_passes, beam and bfloat16 of the encoding, where they are not the quantizer's defaults.
    """

    name: str
    directory: Path
    teacher: Teacher
    card: dict[str, Any]
    card_sha256: str
    dtype: np.dtype
    width: int
    domains: tuple[str, ...] = ()
    quantizer: Any = field(default=None, repr=False)
    search: dict[str, int] = field(default_factory=dict)

    def takes(self, item) -> bool:
        """Whether the item has a part in this stream."""
        return not self.domains or item.domain in self.domains

    def rows(self, frames_MD: Tensor) -> np.ndarray:
        """(M, D) float32 frames -> (M, width) rows to be stored."""
        if self.quantizer is None:
            # Values beyond float16's range become infinite here, and the caller puts the item into quarantine.
            return frames_MD.to(torch.float16).cpu().numpy()
        codes = [self.quantizer.encode(part, **self.search) for part in frames_MD.split(_ENCODE_FRAMES)]
        return torch.cat([torch.as_tensor(code) for code in codes]).cpu().numpy().astype(self.dtype)

    def prepare(self, overwrite: bool) -> None:
        """Writes the card, or compares it with the one that is there.

        Raises:
            CardError: the directory holds something else and `overwrite` is false.
        """
        path = self.directory / "card.json"
        if path.exists() and not overwrite:
            self._compare(seal.read_json(path), path)
        elif not path.exists() and not overwrite and self.directory.is_dir() and shard_names(self.directory):
            raise CardError(f"shards without a card in {self.directory}", str(path), "--overwrite, or another --output")
        if not path.exists() or overwrite or seal.read_json(path) != self.card:
            seal.write_json(path, self.card)

    def _compare(self, old: dict, path: Path) -> None:
        fix = "--overwrite replaces what is there; another --output keeps it"
        if self.quantizer is not None:
            TokenCard.from_dict(old, str(path)).check_compatible(TokenCard.from_dict(self.card), "this command", fix)
            if sorted(old.get("domains", [])) != sorted(self.domains):
                raise CardError(
                    f"{path} with domains {old.get('domains')}", f"{list(self.domains)} (this command)", fix
                )
            return
        if not isinstance(old, dict) or old.get("format") != EMBEDDINGS_FORMAT:
            raise CardError(f"{path} is not a card of embeddings", f'"format": "{EMBEDDINGS_FORMAT}"', fix)
        check_teacher(old.get("teacher", {}), self.card["teacher"], str(path), "this command's teacher")


def token_stream(
    name: str,
    teacher: Teacher,
    quantizer,
    quantizer_from: str,
    directory: Path,
    domains: Sequence[str] = (),
    search: dict[str, int] | None = None,
) -> Stream:
    """A stream of tokens.

    Args:
        name: of the stream.
        teacher: loaded.
        quantizer: from `spear.quantize.load_quantizer`.
        quantizer_from: its path, for messages.
        directory: of the shards.
        domains: of the cuts that take part; empty means all.
        search: `refine_passes`, `beam` and `bfloat16` for encoding; None for the quantizer's defaults.

    Raises:
        CardError: the quantizer was trained on another teacher's frames, or of another dim.
    """
    quantizer_card = _as_dict(quantizer.card)
    check_teacher(quantizer_card.get("teacher") or {}, teacher.fingerprint(), quantizer_from, f"teacher of '{name}'")
    if quantizer_card["dim"] != teacher.dim:
        raise CardError(
            f"quantizer {quantizer_from} of dim {quantizer_card['dim']}", f"dim {teacher.dim}", "give its own teacher"
        )
    card = TokenCard(
        stream=name,
        teacher=teacher.fingerprint(),
        # Another search gives other tokens, so it is part of what they are.
        quantizer={
            **{key: quantizer_card[key] for key in ("content_sha256", "num_codebooks", "codebook_size")},
            **(search or {}),
        },
        frame_rate_hz=float(teacher.frame_rate),
        sample_rate_hz=int(teacher.sample_rate),
        fbank_sha256=FbankConfig().definition_hash(),
        domains=tuple(sorted(domains)),
        spear_version=spear.__version__,
    )
    if hasattr(quantizer, "to"):
        quantizer = quantizer.to(teacher.device)
    return Stream(
        name,
        Path(directory),
        teacher,
        card.to_dict(),
        card.sha256,
        card.dtype,
        card.num_codebooks,
        card.domains,
        quantizer,
        search or {},
    )


def embedding_stream(teacher: Teacher, directory: Path, max_frames: int, seed: int) -> Stream:
    """A stream of float16 frames, for the capped sample that trains a quantizer."""
    card = FeatureCard(teacher.fingerprint(), max_frames, seed)
    values = {**card.to_dict(), "spear_version": spear.__version__}
    name = f"embeddings of {teacher.name}"
    return Stream(name, Path(directory), teacher, values, card.sha256, np.dtype(np.float16), teacher.dim)


def parse_streams(
    texts: Sequence[str], domain_texts: Sequence[str] = (), quantizer_texts: Sequence[str] = ()
) -> list[tuple[str, str, str, tuple]]:
    """Texts of streams -> (name, teacher spec, quantizer, domains).

    Args:
        texts: `NAME=TEACHER_SPEC,QUANTIZER_DIR`, or `NAME=TEACHER_SPEC` where the quantizer is given apart.
        domain_texts: `NAME=domain,domain`.
        quantizer_texts: `NAME=QUANTIZER_DIR`, whose path may hold commas and equals signs.

    Raises:
        ConfigError: a text of another form, or a name given twice.
    """
    domains = dict(_pair(text, "NAME=DOMAIN,DOMAIN") for text in domain_texts)
    quantizers = dict(_pair(text, "NAME=QUANTIZER_DIR") for text in quantizer_texts)
    streams = []
    for text in texts:
        name, rest = _pair(text, "NAME=TEACHER_SPEC,QUANTIZER_DIR")
        apart = quantizers.pop(name, "")
        spec, _, quantizer = (rest, "", apart) if apart else rest.rpartition(",")
        if not spec or ("=" in quantizer and not apart):
            raise ConfigError(
                f"stream '{text}'",
                "NAME=TEACHER_SPEC,QUANTIZER_DIR, such as speech=spear:exp/teacher@-1,data/quantizer/speech",
                "put the quantizer's directory at the end, after a comma, or give --quantizer NAME=DIR",
            )
        TeacherSpec.parse(spec)
        if name in [stream[0] for stream in streams] or not name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"stream name '{name}'", "one stream of each name: letters, digits, - and _", "rename it")
        streams.append((name, spec, quantizer, tuple(filter(None, domains.pop(name, "").split(",")))))
    for kind, names in (("domains", domains), ("a quantizer", quantizers)):
        if names:
            raise ConfigError(f"{kind} for '{next(iter(names))}'", "the name of a --stream", "correct the name")
    return streams


def load_streams(
    parsed: Sequence[tuple[str, str, str, tuple]],
    output: Path,
    device: torch.device,
    search: dict[str, int] | None = None,
) -> list[Stream]:
    """Loads each teacher once (equal specs share it) and each quantizer; `search` is that of `token_stream`.

    Raises:
        CardError: a quantizer of another teacher.
    """
    from spear.quantize import load_quantizer

    teachers: dict[str, Teacher] = {}
    streams = []
    for name, spec, quantizer, domains in parsed:
        if spec not in teachers:
            teachers[spec] = load_teacher(spec, device=device)
        streams.append(
            token_stream(name, teachers[spec], load_quantizer(quantizer), quantizer, output / name, domains, search)
        )
    return streams


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ConfigError(f"'{text}'", form, "correct the argument")
    return name, rest


def _as_dict(card) -> dict:
    if isinstance(card, dict):
        return card
    if hasattr(card, "to_dict"):
        return card.to_dict()
    names = ("num_codebooks", "codebook_size", "dim", "content_sha256", "teacher")
    missing = [name for name in names if not hasattr(card, name)]
    if missing:
        raise DataError(f"a quantizer card without {missing[0]}", "a complete card", "train the quantizer again")
    return {name: getattr(card, name) for name in names}
