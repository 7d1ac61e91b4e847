"""What a teacher is, and how one is named on a command line."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spear.errors import ConfigError


@runtime_checkable
class Teacher(Protocol):
    """A frozen model that turns audio into frames.

    Attributes:
        name: of the adapter in the registry.
        sample_rate: of the audio it takes, in Hz.
        frame_rate: of the frames it gives, in Hz.
        frame_rule: name in `spear.teachers.align.FRAME_RULES` of the number of frames from samples.
        dim: channels of a frame.
        layer: which layer the frames come from; each adapter says what its numbers mean (-1: the encoder's output).
        batch_invariant: whether an utterance's frames are the same (to 1e-4 of their scale) alone and in a padded
            batch. If not, extraction gives it utterances of equal length only.
        device: where it computes.
    """

    name: str
    sample_rate: int
    frame_rate: float
    frame_rule: str
    dim: int
    layer: int
    batch_invariant: bool
    device: torch.device

    def fingerprint(self) -> dict:
        """What decides the values: teacher, weights_sha256, layer, frame_rate_hz, sample_rate_hz, dim, frame_rule..."""
        ...

    def embed(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio in [-1, 1] with lengths in samples -> float32 frames (B, T, D) and lengths in frames."""
        ...


IDENTITY_KEYS = ("teacher", "weights_sha256", "layer", "frame_rate_hz", "sample_rate_hz", "dim", "frame_rule")
"""Entries of a fingerprint in which two teachers must agree to be the same teacher (the compute dtype is not one)."""


def weights_sha256(state_dict: dict[str, Tensor]) -> str:
    """Hash of names, shapes, dtypes and values: the same weights in another container give the same hash."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


_OPTIONS = r"(?P<options>(,\w+=[^,]*)*)"
_SPEC = re.compile(r"(?P<name>[\w.-]+)(:(?P<path>[^,]*?))?(@(?P<layer>-?\d+))?" + _OPTIONS)
# A path may hold commas, and even what looks like an option, when the layer ends it.
_SPEC_WITH_LAYER = re.compile(r"(?P<name>[\w.-]+):(?P<path>.*)@(?P<layer>-?\d+)" + _OPTIONS, re.DOTALL)


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as text: `NAME:PATH@LAYER,option=value,...`.

    `spear:exp/teacher_speech@-1,frame_rate_hz=25` is the output of our checkpoint in exp/teacher_speech at 25 Hz. The
    layer defaults to the adapter's own default; options are the adapter's (dtype=bfloat16, frame_rate_hz=25...).
    """

    name: str
    path: str = ""
    layer: int | None = None
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "TeacherSpec":
        """Reads the text form.

        Raises:
            ConfigError: it does not have this form.
        """
        match = _SPEC.fullmatch(text)
        if match is None or match["layer"] is None:
            match = _SPEC_WITH_LAYER.fullmatch(text) or match
        if match is None:
            raise ConfigError(
                f"teacher '{text}'",
                "NAME:PATH@LAYER,option=value, such as spear:exp/teacher_speech@-1,frame_rate_hz=25",
                "correct the text (a path with a comma needs its @LAYER)",
            )
        layer = match["layer"]
        options = dict(option.split("=", 1) for option in match["options"].split(",")[1:])
        return cls(match["name"], match["path"] or "", None if layer is None else int(layer), options)

    def __str__(self) -> str:
        path = f":{self.path}" if self.path else ""
        layer = "" if self.layer is None else f"@{self.layer}"
        return f"{self.name}{path}{layer}" + "".join(f",{key}={value}" for key, value in self.options.items())
