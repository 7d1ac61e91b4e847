"""Other people's encoders as upstreams: teachers of the registry, and any callable that returns hidden states.

- `teacher:NAME:PATH` gives the input to the first block and the output of every block of a teacher, as SUPERB counts;
  with `@LAYER` that layer alone. `teacher:wavlm:/models/wavlm-large`, `teacher:dasheng:...`, `teacher:usad:...`.
- `python:MODULE:FACTORY` calls `FACTORY()` (or takes the object of that name). What it gives must have `sample_rate`
  and be callable as `encoder(waves_BS, lengths_B)`, audio in [-1, 1] and lengths in samples; it returns a list of
  hidden states (B, T, D), or such a list and the numbers of valid frames (B,), or something with `hidden_states` (and
  `lengths`). It may have `name`, `stride_samples` and `fingerprint()`.
"""

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from spear import fs, weights
from spear.errors import ConfigError, DataError, SpearError
from spear.seeds import torch_rng
from spear.teachers import load_teacher
from spear.teachers.base import TeacherSpec

_WHOLE_SECONDS = 3600  # windows of teachers: an utterance is embedded in one piece


class TeacherUpstream:
    """A teacher of the registry, all layers or one.

    Args:
        spec: `NAME:PATH@LAYER,option=value`, see `TeacherSpec`.
    """

    kind = "checkpoint"

    def __init__(self, spec: str, name: str, device: str = "cpu"):
        parsed = TeacherSpec.parse(spec)
        self.name, self._captured = name, []
        self.teacher = load_teacher(parsed.name, parsed.path, parsed.layer, device, **parsed.options)
        if hasattr(self.teacher, "_window_frames"):
            self.teacher._window_frames = _WHOLE_SECONDS * self.teacher.sample_rate
        self.sample_rate = self.teacher.sample_rate
        self.stride_samples = round(self.sample_rate / self.teacher.frame_rate)
        self._layers = "one" if parsed.layer is not None else self._tap_blocks()
        states, _ = self.extract(torch.zeros(1, self.sample_rate), torch.tensor([self.sample_rate]))
        self.num_layers = len(states)

    def _tap_blocks(self) -> str:
        """Watches every block of the list that holds most of the parameters; says what the states are."""
        models = [value for value in vars(self.teacher).values() if isinstance(value, nn.Module)]
        lists = [m for model in models for m in model.modules() if isinstance(m, nn.ModuleList)]
        blocks = max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=None)
        if blocks is None or len(blocks) < 2:
            return "one"
        blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        self._first = next(iter(inspect.signature(blocks[0].forward).parameters))
        for block in blocks:
            block.register_forward_hook(self._after)
        return "input of the first block and output of every block"

    def _before(self, block, arguments, keywords) -> None:
        self._captured.append(arguments[0] if arguments else keywords[self._first])

    def _after(self, block, arguments, output) -> None:
        self._captured.append(output[0] if isinstance(output, tuple) else output)

    def fingerprint(self) -> dict:
        """The teacher's own, and which layers are taken."""
        return {"kind": "teacher", "layers": self._layers, **self.teacher.fingerprint()}

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T, D)] in float32 and frame counts."""
        self._captured.clear()
        embedded_BTD, lens_B = self.teacher.embed(waves_BS.to(self.teacher.device), lengths_B)
        frames = embedded_BTD.shape[1]
        states = [state[:, :frames].float() for state in self._captured] or [embedded_BTD.float()]
        if any(state.shape[:2] != embedded_BTD.shape[:2] for state in states):
            raise DataError(
                f"blocks of {self.name} with states of shape {tuple(states[0].shape)}",
                f"(batch, time, channels) with {len(embedded_BTD)} rows and at least {frames} frames",
                "name one layer: teacher:NAME:PATH@LAYER",
            )
        self._captured.clear()
        return states, lens_B.cpu()


class CallableUpstream:
    """Anything with `sample_rate` and a call that returns hidden states; see the module's docstring."""

    kind = "checkpoint"

    def __init__(self, encoder: Any, name: str):
        rate = getattr(encoder, "sample_rate", None)
        if not callable(encoder) or not isinstance(rate, int) or rate <= 0:
            raise ConfigError(
                f"{type(encoder).__name__} '{name}' with sample_rate {rate}",
                "a callable with a whole `sample_rate` in Hz",
                "see spear/evaluate/adapters.py for what an encoder has to offer",
            )
        self.encoder, self.name, self.sample_rate = encoder, name, rate
        if isinstance(encoder, nn.Module):
            encoder.eval().requires_grad_(False)
        # The identity of an encoder that does not tell its own: what it makes of one second of noise.
        noise_BS = torch.randn(1, rate, generator=torch_rng(0, "upstream-identity")) * 0.1
        states, lens_B = self.extract(noise_BS, torch.tensor([rate]))
        self.num_layers = len(states)
        self.stride_samples = int(getattr(encoder, "stride_samples", 0)) or round(rate / int(lens_B[0]))
        self._probe = fs.sha256_bytes(b"".join(state.contiguous().numpy().tobytes() for state in states))

    def fingerprint(self) -> dict:
        """The encoder's own where it has one, and the hash of its states for one second of noise."""
        own = self.encoder.fingerprint() if hasattr(self.encoder, "fingerprint") else {}
        return {"kind": "python", "type": type(self.encoder).__name__, "probe_sha256": self._probe, **own}

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T, D)] in float32 and frame counts."""
        try:
            output = self.encoder(waves_BS, lengths_B)
        except Exception as error:  # the user's own code
            raise DataError(
                f"encoder {self.name} failed on {len(waves_BS)} recordings: {type(error).__name__}: "
                f"{weights.shown(str(error))}",
                "hidden states",
                "correct the encoder; SPEAR_TRACEBACK=1 shows where it failed",
            ) from error
        if isinstance(output, dict):
            output = output["hidden_states"], output.get("lengths")
        elif hasattr(output, "hidden_states"):
            output = output.hidden_states, getattr(output, "lengths", None)
        elif not (isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], list | tuple)):
            output = output, None
        states, lens_B = output
        states = [state.detach().float().cpu() for state in states]
        if not states or any(state.dim() != 3 or len(state) != len(waves_BS) for state in states):
            raise DataError(
                f"hidden states of {self.name} of shapes {[tuple(state.shape) for state in states][:3]}",
                f"(batch = {len(waves_BS)}, time, channels) for every layer",
                "correct the encoder",
            )
        frames = min(state.shape[1] for state in states)
        if lens_B is None:  # in proportion, as frames of one stride are
            lens_B = (lengths_B * frames / waves_BS.shape[1]).round()
        return [state[:, :frames] for state in states], torch.as_tensor(lens_B).cpu().long().clamp(1, frames)


def load_callable(spec: str, name: str) -> CallableUpstream:
    """The upstream of `MODULE:FACTORY`.

    Raises:
        ConfigError: no such module or name in it, or one that fails.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"upstream 'python:{spec}' ({error})", "python:MODULE:FACTORY", "put the module's folder on PYTHONPATH"
        ) from error
    except Exception as error:  # the module is the user's own code, which may raise anything
        raise _failed(spec, "importing the module", error) from error
    try:
        return CallableUpstream(found() if inspect.isclass(found) or not hasattr(found, "sample_rate") else found, name)
    except SpearError:
        raise
    except Exception as error:
        raise _failed(spec, "making the encoder and trying it", error) from error


def _failed(spec: str, doing: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"upstream 'python:{spec}': {doing} failed: {type(error).__name__}: {weights.shown(str(error))}",
        "FACTORY() to give an encoder with sample_rate that takes (waves_BS, lengths_B)",
        "correct the module; SPEAR_TRACEBACK=1 shows where it failed",
    )
