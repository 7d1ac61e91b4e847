"""Frozen encoders behind one protocol: filterbank, untrained encoder, checkpoint.

All three go through the same cache, the same heads and the same learning rates; the layer set is every hidden state
that the upstream gives. Specifications, as used by `--upstream` (each may be preceded by `NAME=`):

- `fbank`: 128 log-mel energies at 100 Hz, one layer;
- `fbank-superb`: the filterbank of SUPERB's board: 80 log-mel energies at 100 Hz with first and second differences,
  every channel with mean 0 and variance 1 over the utterance, one layer of 240 channels;
- `random:CHECKPOINT`: the architecture of the checkpoint with fresh weights from a seed, same filterbank; untrained
  encoders differ a good deal among themselves, so `random@SEED:CHECKPOINT` gives further ones;
- `CHECKPOINT`: whatever `spear.load_model` reads;
- `teacher:NAME:PATH` and `python:MODULE:FACTORY`: see `spear.evaluate.adapters`.
"""

import hashlib
import re
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from spear import fs
from spear.audio import Fbank, FbankConfig
from spear.compat import autocast
from spear.errors import CheckpointError
from spear.seeds import seed_global

MIN_SAMPLES = 1600
"""Shorter utterances are zero-padded to this (0.1 s at 16 kHz), so that every utterance has at least one frame."""


_RANDOM = re.compile(r"random(@(?P<seed>\d+))?:")


@runtime_checkable
class Upstream(Protocol):
    """What can be evaluated.

    Attributes:
        name: label in tables and file names.
        kind: `fbank`, `random` or `checkpoint`.
        sample_rate: of the audio that `extract` takes, in Hz.
        num_layers: hidden states for each utterance.
        stride_samples: between frames.
    """

    name: str
    kind: str
    sample_rate: int
    num_layers: int
    stride_samples: int

    def fingerprint(self) -> dict:
        """Everything that determines the features, weights hash included; its hash is the cache key."""

    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """Hidden states [(B, T, D_layer)] and the number of valid frames (B,)."""


def upstream_hash(upstream: Upstream) -> str:
    """SHA-256 of the fingerprint."""
    return fs.sha256_json(upstream.fingerprint())


class FbankUpstream:
    """The filterbank itself: the floor that any encoder has to beat."""

    stride_samples = 160
    rounded_samples = 80
    """The filterbank counts frames rounded: so many samples of the last one may be beyond the audio."""

    def __init__(self, name: str = "fbank", device: str = "cpu", config: FbankConfig | None = None):
        self.name, self.kind, self.num_layers = name, "fbank", 1
        self.config = config or FbankConfig()
        self.sample_rate = self.config.sample_rate_hz
        self.device = torch.device(device)
        self._fbank = Fbank(self.config).to(self.device).eval()

    def fingerprint(self) -> dict:
        """The definition of the features."""
        return {"kind": self.kind, "definition": self.config.definition()}

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T100, 128)] and frame counts."""
        features_BTF, lens_B = self._fbank(waves_BS.to(self.device), lengths_B)
        return [features_BTF], lens_B.cpu()


class SuperbFbankUpstream(FbankUpstream):
    """SUPERB's own floor, as s3prl computes it with torchaudio's Kaldi filterbank (`fbank` of its baselines).

    Frames lie wholly inside the utterance (the first of n samples starts at 0, and there are 1 + (n - 400) // 160).
    """

    rounded_samples = 0

    def __init__(self, name: str = "fbank-superb", device: str = "cpu"):
        super().__init__(name, device, FbankConfig(num_mel_bins=80, high_hz=0.0))

    def fingerprint(self) -> dict:
        """The definition of the features."""
        further = {
            "edges": "kaldi snip_edges true",
            "normalisation": "mean 0 and variance 1 of an utterance",
            "differences": "first and second, over 5 frames, replicated ends",
        }
        return {"kind": self.kind, "definition": {**self.config.definition(), **further}}

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T100, 240)] and frame counts."""
        window, shift = self.config.window_samples, self.config.shift_samples
        # `Fbank` centres frame t on the middle of [160 t, 160 t + 160). With so many samples before the utterance its
        # frame t + 1 spans [160 t, 160 t + 400) of it.
        ahead = shift - (window - shift) // 2
        waves_BS = torch.nn.functional.pad(waves_BS.to(self.device), (ahead, 0))
        features_BTF, _ = self._fbank(waves_BS, lengths_B + ahead)
        lens_B = ((lengths_B.cpu() - window) // shift + 1).clamp(min=0)
        features = [x_TF[1 : 1 + count] for x_TF, count in zip(features_BTF, lens_B.tolist())]
        rows = [_normalised(_with_differences(x_TF)) if len(x_TF) else x_TF.repeat(1, 3) for x_TF in features]
        return [torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)], lens_B


def _with_differences(x_TF: Tensor) -> Tensor:
    """Values with first and second differences, (T, 3 F): regression over two frames on each side."""
    parts, times_T = [x_TF], torch.arange(len(x_TF), device=x_TF.device)
    for _ in range(2):
        after, before = ([(times_T + sign * n).clamp(0, len(x_TF) - 1) for n in (1, 2)] for sign in (1, -1))
        last_TF = parts[-1]
        parts.append(sum(n * (last_TF[a] - last_TF[b]) for n, a, b in zip((1, 2), after, before)) / 10)
    return torch.cat(parts, dim=1)


def _normalised(x_TF: Tensor) -> Tensor:
    return (x_TF - x_TF.mean(dim=0)) / (x_TF.std(dim=0, correction=min(1, len(x_TF) - 1)) + 1e-10)


class SpearUpstream:
    """An encoder of ours, trained or not: the input to the first layer and all hidden states, at 50 Hz as a rule.

    Args:
        model: a `spear.SpearModel`.
        kind: `checkpoint` or `random`.
        details: further facts for the fingerprint (the seed of random weights).
    """

    sample_rate = 16000
    rounded_samples = FbankUpstream.rounded_samples

    def __init__(self, model: torch.nn.Module, name: str, kind: str, device: str = "cpu", details: dict | None = None):
        self.name, self.kind, self.details = name, kind, dict(details or {})
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.stride_samples = model_stride(model)
        self.dtype = _fast_dtype(self.device)
        self._weights = weights_hash(self.model)
        states, _ = self.extract(torch.zeros(1, 16000), torch.tensor([16000]))
        self.num_layers = len(states)
        self._states = "input of the first layer and output of every layer" if self._input else "output of every layer"

    def fingerprint(self) -> dict:
        """Weights, which layers are states (the last one behind the encoder's final norm, if any); the precision."""
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        weights = {"weights_sha256": self._weights, "num_states": self.num_layers, "states": self._states}
        return {"kind": self.kind, "precision": precision, **weights, **self.details}

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T50, D)] in float32 and frame counts."""
        with autocast(self.device.type, self.dtype):
            output = self.model(waves_BS.to(self.device), lengths_B.to(self.device))
        # As SUPERB counts: the input to the first layer (where the encoder gives it), and every layer's output.
        first = getattr(output, "embed_out", None)
        self._input = first is not None
        states = [state.float() for state in (first, *output.hidden_states) if state is not None]
        frames = states[0].shape[1]
        # With output downsampling encoder_out has fewer frames than the hidden states.
        lens_B = getattr(output, "hidden_lens", None)
        lens_B = (output.encoder_out_lens if lens_B is None else lens_B).cpu()
        return states, lens_B.clamp(max=frames)


_FILTERBANKS = {"fbank": FbankUpstream, "fbank-superb": SuperbFbankUpstream}


def model_stride(model: torch.nn.Module) -> int:
    """Samples between the hidden states of an encoder of ours."""
    return round(16000 / getattr(getattr(model, "config", None), "hidden_rate_hz", 50))


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def _fast_dtype(device: torch.device) -> torch.dtype | None:
    from spear import env

    return torch.bfloat16 if env.fast_bf16(device) else None


def default_name(spec: str) -> str:
    """The label of a specification without `NAME=`: `fbank`, `random`, or the run's directory name."""
    kind = spec.partition(":")[0]
    if kind in _FILTERBANKS or _RANDOM.match(spec):
        return kind
    if kind in ("teacher", "python"):
        return re.sub(r"[^\w.+-]+", "_", spec.partition(":")[2]).strip("_")
    parts = [part for part in Path(spec).parts if part not in ("/", ".", "..")]
    # exp/student/final is the run "student": what the checkpoint is called inside its run says nothing.
    generic = re.compile(r"(final|best|latest|averaged?|(step|epoch|checkpoint)[-_]?\d*)(\..*)?$")
    while len(parts) > 1 and generic.match(parts[-1]):
        parts.pop()
    return re.sub(r"[^\w.+-]+", "_", parts[-1] if parts else "checkpoint")


def load_upstream(spec: str, device: str = "cpu", seed: int = 0) -> Upstream:
    """Makes the upstream of a specification (see the module's docstring).

    Args:
        seed: of the weights of `random:`.

    Raises:
        CheckpointError: no such checkpoint.
    """
    name, equals, rest = spec.partition("=")
    if equals and re.fullmatch(r"[\w.+-]+", name) and not Path(spec).exists():  # a folder may be called a=b
        spec = rest
    else:
        name = default_name(spec)
    if spec in _FILTERBANKS:
        return _FILTERBANKS[spec](name, device)
    if spec.startswith(("teacher:", "python:")):
        from spear.evaluate import adapters

        foreign, _, rest = spec.partition(":")
        return (
            adapters.TeacherUpstream(rest, name, device) if foreign == "teacher" else adapters.load_callable(rest, name)
        )
    random = _RANDOM.match(spec)
    seed = int(random["seed"] or seed) if random else seed
    path = Path(spec[random.end() :] if random else spec)
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint at {path.absolute()} (upstream '{spec}')",
            "fbank, fbank-superb, random:CHECKPOINT or CHECKPOINT, where CHECKPOINT is a file or directory",
            "train an encoder first, or correct --upstream",
        )
    import spear

    model = spear.load_model(path)
    if not random:
        return SpearUpstream(model, name, "checkpoint", device)
    with torch.random.fork_rng():
        seed_global(seed, "random-upstream")
        fresh = spear.SpearModel(model.config)
    return SpearUpstream(fresh, name, "random", device, {"seed": seed})
