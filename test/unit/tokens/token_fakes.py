"""A teacher and a quantizer small enough to check by eye, and cuts of generated audio."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spear.audio import save_audio
from spear.seeds import numpy_rng
from spear.teachers.align import register_frame_rule
from spear.tokens.streams import token_stream

register_frame_rule("blocks-50hz", lambda num_samples: num_samples // 320)
register_frame_rule("blocks-25hz", lambda num_samples: num_samples // 640)


class BlockTeacher:
    """Frames are projections of consecutive blocks of samples; `leak` lets the padded batch shine through."""

    name, sample_rate, dim = "blocks", 16000, 6

    def __init__(self, frame_rate=50, leak=False, extra_frames=0, layer=0):
        self.frame_rate, self.layer, self.leak, self.extra_frames = frame_rate, layer, leak, extra_frames
        self.batch_invariant, self.device = not leak, torch.device("cpu")
        self.frame_rule = f"blocks-{frame_rate}hz"
        self.batches: list[torch.Tensor] = []
        self.projection = torch.from_numpy(
            numpy_rng(layer, "block_teacher").standard_normal((16000 // frame_rate, self.dim)).astype(np.float32)
        )

    def fingerprint(self):
        return {
            "teacher": self.name,
            "weights_sha256": "0" * 64,
            "layer": self.layer,
            "frame_rate_hz": float(self.frame_rate),
            "sample_rate_hz": self.sample_rate,
            "dim": self.dim,
            "frame_rule": self.frame_rule,
        }

    def embed(self, waves_BS, lengths_B):
        self.batches.append(lengths_B.clone())
        block = 16000 // self.frame_rate
        frames = waves_BS.shape[1] // block
        # One row at a time: a matrix product of another shape may round differently.
        x_BTD = torch.stack([wave[: frames * block].view(frames, block) @ self.projection for wave in waves_BS])
        if self.leak:
            x_BTD = x_BTD + waves_BS.mean()
        x_BTD = torch.nn.functional.pad(x_BTD, (0, 0, 0, self.extra_frames), value=1.0)
        return x_BTD, lengths_B // block + self.extra_frames


class SignQuantizer:
    """Codes from rounded values, two codebooks of 256."""

    def __init__(self, teacher, content="a" * 64):
        self.card = {
            "content_sha256": content,
            "num_codebooks": 2,
            "codebook_size": 256,
            "dim": teacher.dim,
            "teacher": teacher.fingerprint(),
        }

    def encode(self, embeddings, refine_passes=5):
        return ((embeddings[..., :2] * 8).round() + 128).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Cut:
    """The fields of `spear.manifest.Item` that extraction uses."""

    id: str
    path: Path
    duration_seconds: float
    num_samples: int
    domain: str = "speech"
    start_seconds: float = 0.0
    speed: float = 1.0
    channel: int | None = None
    gain: float = 1.0


def make_cuts(directory: Path, count: int, seed: int = 0) -> list[Cut]:
    """Cuts of 0.1 to 1.5 s of noise; every fourth is general audio."""
    cuts = []
    for number in range(count):
        generator = numpy_rng(seed, "test_cut", number)
        samples = int(generator.integers(1600, 24000))
        path = directory / f"{number:03d}.wav"
        save_audio(path, generator.uniform(-0.5, 0.5, samples).astype(np.float32), 16000)
        domain = "audio" if number % 4 == 3 else "speech"
        cuts.append(Cut(f"cut-{number:03d}", path, samples / 16000, samples, domain))
    return cuts


def make_streams(output: Path, leak: bool = False):
    """Two streams of one teacher, and one of another at half the rate for general audio only."""
    fast, slow = BlockTeacher(50, leak), BlockTeacher(25, layer=1)
    return [
        token_stream("speech", fast, SignQuantizer(fast), "q1", output / "speech"),
        token_stream("speech2", fast, SignQuantizer(fast, "b" * 64), "q2", output / "speech2"),
        token_stream("audio", slow, SignQuantizer(slow), "q3", output / "audio", ["audio"]),
    ]


def write_cuts(path: Path, cuts: list[Cut]) -> Path:
    """A cuts file as lhotse writes it."""
    lines = []
    for cut in cuts:
        recording = {
            "id": cut.id,
            "sources": [{"type": "file", "channels": [0], "source": str(cut.path)}],
            "sampling_rate": 16000,
            "num_samples": cut.num_samples,
            "duration": cut.duration_seconds,
            "channel_ids": [0],
        }
        values = {"id": cut.id, "start": cut.start_seconds, "duration": cut.duration_seconds, "channel": 0}
        kind = "speech" if cut.domain == "speech" else "event"
        values |= {"supervisions": [], "recording": recording, "custom": {"kind": kind}, "type": "MonoCut"}
        lines.append(json.dumps(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
