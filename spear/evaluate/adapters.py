"""Other people's encoders as upstreams: teachers of the registry, and any callable that returns hidden states.

- `teacher:NAME:PATH` gives the input to the first block and the output of every block of a teacher: 13 states of a Base
  model, 25 of a Large one; with `@LAYER` that layer alone. `teacher:wavlm:/models/wavlm-large`, `teacher:dasheng:...`.
  All states are the residual stream, without the norm that large models have behind the last block; with
  `,final_norm=true` the last state is the encoder's output, with that norm, as s3prl counts.
- `python:MODULE:FACTORY` calls `FACTORY()` (or takes the object of that name). What it gives must have `sample_rate`
  and be callable as `encoder(waves_BS, lengths_B)`, audio in [-1, 1] and lengths in samples; it returns a list of
  hidden states (B, T, D), or such a list and the numbers of valid frames (B,), or something with `hidden_states` (and
  `lengths`). It may have `name`, `stride_samples` (measured where it does not) and `fingerprint()`.
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
from spear.teachers.frozen import watch_input, watch_output

_USUAL_RATES_HZ = (10.0, 12.5, 20.0, 25.0, 31.25, 40.0, 50.0, 62.5, 75.0, 86.1328125, 100.0)
_STATES = "input of the first block and output of every block"


class TeacherUpstream:
    """A teacher of the registry, all layers or one.

    Args:
        spec: `NAME:PATH@LAYER,option=value`, see `TeacherSpec`; and `final_norm=true`, see the module's docstring.

    Raises:
        ConfigError: final_norm that is neither true nor false, or with a layer.
    """

    kind = "checkpoint"

    def __init__(self, spec: str, name: str, device: str = "cpu"):
        parsed = TeacherSpec.parse(spec)
        options = dict(parsed.options)
        norm = options.pop("final_norm", "")
        if norm not in ("", "true", "false") or (norm and parsed.layer is not None):
            raise ConfigError(
                f"final_norm={norm} of upstream '{spec}'",
                "true or false, for all layers of a teacher",
                "correct the specification (the encoder's output alone is @-1)",
            )
        self.name, self._final_norm = name, norm == "true"
        # Whatever layer a teacher takes by itself, all blocks are wanted here: -1 is the encoder's output.
        layer = -1 if parsed.layer is None else parsed.layer
        self.teacher = load_teacher(parsed.name, parsed.path, layer, device, **options)
        if "window_seconds" not in options and hasattr(self.teacher, "hear_whole"):
            self.teacher.hear_whole()
        self.sample_rate = self.teacher.sample_rate
        self._fingerprint = {"kind": "teacher", **self.teacher.fingerprint()}
        self._widths: list[int] = []
        self._found: list[Tensor] = []
        if parsed.layer is not None:
            self._fingerprint["states"] = "one"
        else:
            self._watch_states()
        self.stride_samples = round(self.sample_rate / self.teacher.frame_rate)
        states, _ = self.extract(torch.zeros(1, self.sample_rate), torch.tensor([self.sample_rate]))
        self.num_layers = self._fingerprint["num_states"] = len(states)

    def _watch_states(self) -> None:
        norm = "applied to the last state" if self._final_norm else "not applied"
        if hasattr(self.teacher, "watch_states"):
            self._widths = self.teacher.watch_states(self._final_norm)
            self._fingerprint["frame_rate_hz"] = float(self.teacher.frame_rate)
        else:
            self._watch_longest_list()
        if not getattr(self.teacher, "has_final_norm", True):
            norm = "none behind the last block"
        self._fingerprint |= {"states": _STATES, "final_norm": norm}

    def _watch_longest_list(self) -> None:
        """For teachers of others: every block of the list that holds most of the parameters."""
        models = [value for value in vars(self.teacher).values() if isinstance(value, nn.Module)]
        lists = [m for model in models for m in model.modules() if isinstance(m, nn.ModuleList)]
        blocks = max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=None)
        if blocks is not None and len(blocks) > 1:
            watch_input(blocks[0], self._found.append)
            for block in blocks:
                watch_output(block, self._found.append)

    def fingerprint(self) -> dict:
        """The teacher's own, which layers are states, and whether a final norm belongs to the last one."""
        return dict(self._fingerprint)

    @torch.no_grad()
    def extract(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """[(B, T, D)] in float32 and frame counts."""
        self._found.clear()
        embedded_BTD, lens_B = self.teacher.embed(waves_BS.to(self.teacher.device), lengths_B)
        if self._widths:
            return list(embedded_BTD.split(self._widths, dim=2)), lens_B.cpu()
        frames = embedded_BTD.shape[1]
        states = [state[:, :frames].float() for state in self._found] or [embedded_BTD.float()]
        self._found.clear()
        if self._final_norm:
            states[-1] = embedded_BTD.float()
        if any(state.shape[:2] != embedded_BTD.shape[:2] for state in states):
            raise DataError(
                f"blocks of {self.name} with states of shape {tuple(states[0].shape)}",
                f"(batch, time, channels) with {len(embedded_BTD)} rows and at least {frames} frames",
                "name one layer: teacher:NAME:PATH@LAYER",
            )
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
        noise_BS = torch.randn(1, 5 * rate, generator=torch_rng(0, "upstream-identity")) * 0.1
        states, lens_B = self.extract(noise_BS[:, :rate], torch.tensor([rate]))
        self.num_layers = len(states)
        self.stride_samples = int(getattr(encoder, "stride_samples", 0)) or self._measured(noise_BS, int(lens_B[0]))
        self._probe = fs.sha256_bytes(b"".join(state.contiguous().numpy().tobytes() for state in states))

    def _measured(self, noise_BS: Tensor, frames: int) -> int:
        """The stride of an encoder that does not tell it, from how many frames further seconds add.

        The frames of one second are too few for it: what the first one spans is not a stride.
        """
        _, lens_B = self.extract(noise_BS, torch.tensor([noise_BS.shape[1]]))
        more = int(lens_B[0]) - frames
        measured = (noise_BS.shape[1] - self.sample_rate) / more if more > 0 else self.sample_rate / frames
        usual = min((round(self.sample_rate / rate) for rate in _USUAL_RATES_HZ), key=lambda s: abs(s - measured))
        return usual if abs(usual - measured) < 0.02 * usual else round(measured)

    def fingerprint(self) -> dict:
        """The encoder's own where it has one, and the hash of its states for one second of noise."""
        own = self.encoder.fingerprint() if hasattr(self.encoder, "fingerprint") else {}
        kind = {"kind": "python", "type": type(self.encoder).__name__}
        states = {"states": "as the encoder returns them", "num_states": self.num_layers}
        return {**kind, **states, "stride_samples": self.stride_samples, "probe_sha256": self._probe, **own}

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
