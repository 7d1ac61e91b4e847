"""What adapters of foreign models have in common: settings, fingerprint, long audio in windows.

Options of every adapter here: `dtype=float32|bfloat16` (bfloat16 for the matrix products only), `window_seconds` and
`overlap_seconds`: audio longer than a window is embedded in windows that overlap by so much on each side, and frames
are taken from the middle of each. Audio that fits a window is embedded whole, so short corpora never meet it. Adapters
that name their feed-forward modules have `part=ffn`: what that of a block adds to the residual stream, instead of the
stream; USAD (arXiv 2506.18843) regresses these.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spear import compat
from spear.errors import ConfigError
from spear.teachers.align import expected_frames

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Window(NamedTuple):
    """A window in frames: what is embedded, and the part of it that is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(num_frames: int, window_frames: int, overlap_frames: int) -> list[Window]:
    """Windows of at most `window_frames` whose kept parts cover every frame once.

    Each window but the first and last gives up `overlap_frames` on each side to its neighbours.
    """
    if num_frames <= window_frames:
        return [Window(0, num_frames, 0, num_frames)]
    windows, kept = [], 0
    while kept < num_frames:
        start = max(0, kept - overlap_frames)
        stop = min(num_frames, start + window_frames)
        keep_stop = num_frames if stop == num_frames else stop - overlap_frames
        windows.append(Window(start, stop, kept, keep_stop))
        kept = keep_stop
    return windows


class FrozenTeacher:
    """Base of the adapters: an adapter states the attributes of `Teacher` and how a padded batch becomes frames.

    Args:
        layer: which layer; each adapter says what its numbers mean.
        device: where it computes.
        dtype: float32, or bfloat16 for the matrix products.
        window_seconds: longest audio embedded in one piece.
        overlap_seconds: context on each side of a window's kept part.
        part: `ffn` for what the feed-forward module of a block adds to the residual stream (USAD's features); empty for
            the stream itself.

    Raises:
        ConfigError: an unknown dtype or part, or windows that are no longer than their overlaps.
    """

    name: str
    sample_rate: int = 16000
    frame_rate: float
    frame_rule: str
    dim: int
    batch_invariant: bool = True
    samples_per_frame: int = 320
    extra_samples: int = 0  # that a frame sees beyond its own
    min_samples: int = 1
    has_final_norm: bool = True  # whether the encoder's output is not that of its last block
    feed_forward: str = ""  # name of each block's feed-forward module
    _blocks: nn.ModuleList
    _tap: "LayerTap | EveryTap | None" = None  # None: frames are the encoder's output

    def __init__(
        self,
        layer: int = -1,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        window_seconds: float | str = 60.0,
        overlap_seconds: float | str = 2.0,
        part: str = "",
    ):
        if dtype not in DTYPES:
            raise ConfigError(f"dtype '{dtype}' of teacher '{self.name}'", "float32 or bfloat16", "correct the spec")
        if part not in ("", "ffn"):
            raise ConfigError(f"part '{part}' of teacher '{self.name}'", "ffn, or nothing", "correct the spec")
        self.part = part
        self.layer, self.device, self.dtype = int(layer), torch.device(device), dtype
        window, overlap = _number("window_seconds", window_seconds), _number("overlap_seconds", overlap_seconds)
        rate = self.sample_rate / self.samples_per_frame
        fits = 0 <= 2 * overlap < window < math.inf
        frames = (int(window * rate), int(overlap * rate)) if fits else (0, 0)
        if frames[0] <= 2 * frames[1]:  # the next window would not begin later
            raise ConfigError(
                f"window_seconds={window:g} with overlap_seconds={overlap:g} for teacher '{self.name}'",
                f"a window that is longer than two overlaps by a frame ({1 / rate:.3g} s) at least",
                "correct the spec",
            )
        self._window_frames, self._overlap_frames = frames
        self._weights_sha256 = ""

    def settings(self) -> dict:
        """Further settings that decide the frames."""
        return {"window_frames": self._window_frames, "overlap_frames": self._overlap_frames}

    def fingerprint(self) -> dict:
        """What decides the frames; see `Teacher.fingerprint`."""
        return {
            "teacher": self.name,
            "weights_sha256": self._weights_sha256,
            "layer": self.layer,
            "frame_rate_hz": float(self.frame_rate),
            "sample_rate_hz": self.sample_rate,
            "dim": self.dim,
            "frame_rule": self.frame_rule,
            "dtype": self.dtype,
            **({"part": self.part} if self.part else {}),
            **self.settings(),
        }

    def hear_whole(self) -> None:
        """From now on no utterance is cut into windows, unless the model itself hears no more."""
        self._window_frames = 1 << 40

    def watch_states(self, final_norm: bool = False) -> list[int]:
        """From now on a frame is every state of the encoder side by side: what enters block 1, and each block's output.

        Args:
            final_norm: the last state is the encoder's output instead, with the norm behind the last block where the
                model has one.

        Returns:
            Channels of the states, `dim` in all.

        Raises:
            ConfigError: the teacher was made for one layer, and the blocks above it are gone.
        """
        if self.layer != -1:
            raise ConfigError(f"layer {self.layer} of teacher '{self.name}'", "-1 for every state", "leave @LAYER out")
        self._tap = EveryTap(self._blocks, final_norm)
        widths = [self.dim] * (len(self._blocks) + 1)
        self.dim = sum(widths)
        return widths

    def _tap_layers(self, layers: Sequence[int], meaning: str) -> None:
        """From now on a frame is these layers side by side; blocks that none of them needs are dropped.

        Raises:
            ConfigError: there is no such layer, or it has no feed-forward module; says what the numbers mean.
        """
        for layer in layers:
            check_layer(layer, len(self._blocks), self.name, meaning)
            if self.part and layer < 1:
                raise ConfigError(
                    f"layer {layer} with part=ffn of teacher '{self.name}'",
                    f"1 to {len(self._blocks)}: a block with a feed-forward module",
                    "correct the spec",
                )
        if isinstance(self._tap, LayerTap):
            self._tap.remove()
        self._meaning, inside = meaning, self.feed_forward if self.part else ""
        self._tap = None if list(layers) == [-1] else LayerTap(self._blocks, layers, inside)

    def watch_layers(self, layers: Sequence[int]) -> list[int]:
        """From now on a frame is these layers side by side, from one pass: `spear.teachers.several.load_layers`.

        Returns:
            Channels of each, `dim` in all.

        Raises:
            ConfigError: there is no such layer, or it is above the one that the teacher was made for.
        """
        if self.layer != -1 in layers:
            raise ConfigError(f"layer -1 of teacher '{self.name}' at {self.layer}", "layers below", "make it with @-1")
        self._tap_layers(layers, self._meaning)
        widths = [self.dim] * len(layers)
        self.dim = sum(widths)
        return widths

    def _tapped(self, output_BTD: Tensor) -> Tensor:
        """The frames that were asked for, after a pass with this output."""
        return output_BTD if self._tap is None else self._tap.take(output_BTD)

    def prepare_wave(self, wave_S: Tensor) -> Tensor:
        """What happens to an utterance before it is cut into windows (normalisation)."""
        return wave_S

    def forward(self, waves_BS: Tensor, lengths: list[int], frames: list[int]) -> Tensor:
        """A padded batch, none of it longer than a window -> (B, at least max(frames), D)."""
        raise NotImplementedError

    def embed(self, waves_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio in [-1, 1] with lengths in samples -> float32 frames (B, T, D) and lengths in frames."""
        lengths = [int(length) for length in lengths_B.tolist()]
        frames = [expected_frames(length, self) for length in lengths]
        pieces: list[tuple[int, Window, Tensor]] = []
        for row, (length, count) in enumerate(zip(lengths, frames)):
            if count == 0:
                continue
            wave_S = self.prepare_wave(waves_BS[row, :length])
            for window in plan_windows(count, self._window_frames, self._overlap_frames):
                begin = window.start * self.samples_per_frame
                end = length if window.stop == count else window.stop * self.samples_per_frame + self.extra_samples
                pieces.append((row, window, wave_S[begin:end]))
        x_BTD = torch.zeros(len(lengths), max(frames, default=0), self.dim, device=self.device)
        if pieces:
            with torch.inference_mode(), compat.autocast(self.device.type, DTYPES[self.dtype]):
                y_PTD = self.forward(
                    *self._pad([piece for _, _, piece in pieces]), [w.stop - w.start for _, w, _ in pieces]
                )
            for (row, window, _), y_TD in zip(pieces, y_PTD):
                kept = y_TD[window.keep_start - window.start : window.keep_stop - window.start]
                x_BTD[row, window.keep_start : window.keep_stop] = kept.float()
        return x_BTD, torch.tensor(frames, device=lengths_B.device)

    def _pad(self, waves: list[Tensor]) -> tuple[Tensor, list[int]]:
        lengths = [len(wave) for wave in waves]
        padded = torch.zeros(len(waves), max(self.min_samples, *lengths), device=self.device)
        for row, wave in zip(padded, waves):
            row[: len(wave)] = wave
        return padded, lengths


def _number(name: str, value: float | str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"{name}={value}", "a number of seconds", "correct the teacher's spec") from error


def check_layer(layer: int, num_blocks: int, name: str, meaning: str) -> int:
    """The layer as a number.

    Raises:
        ConfigError: there is no such layer; says what the numbers mean.
    """
    if not -1 <= int(layer) <= num_blocks:
        raise ConfigError(
            f"layer {layer} of a '{name}' with {num_blocks} blocks",
            f"-1 to {num_blocks}: {meaning}",
            "correct the spec",
        )
    return int(layer)


class LayerTap:
    """Gives the residual stream after some blocks side by side, and drops the blocks after the last of them.

    Args:
        blocks: the model's list of blocks, which is shortened in place.
        layers: 0 (what enters the first) to the number of blocks; -1: the encoder's output, for which all are kept.
        inside: name of a module of each block whose output is given instead.
    """

    def __init__(self, blocks: nn.ModuleList, layers: Sequence[int], inside: str = ""):
        self._layers, self._found, self._handles = tuple(layers), {}, []
        if -1 not in layers:
            del blocks[max(1, *layers) :]
        for layer in {*layers} - {-1}:
            keep = functools.partial(self._found.__setitem__, layer)
            block = blocks[max(0, layer - 1)]
            watched = watch_output(block.get_submodule(inside), keep) if layer else watch_input(block, keep)
            self._handles.append(watched)

    def remove(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()

    def take(self, output_BTD: Tensor) -> Tensor:
        """What the last forward pass left."""
        found = {**self._found, -1: output_BTD}
        self._found.clear()
        return torch.cat([found[layer] for layer in self._layers], dim=2)


class EveryTap:
    """Gives all states side by side, (B, T, (blocks + 1) * D): what enters the first block, and every block's output.

    Args:
        blocks: the model's list of blocks.
        final_norm: the last state is the encoder's output instead of the last block's.
    """

    def __init__(self, blocks: nn.ModuleList, final_norm: bool):
        self._final_norm, self._num_states = final_norm, len(blocks) + 1
        self._states_BTSD: Tensor | None = None
        self._count = 0
        watch_input(blocks[0], self._add)
        for block in blocks:
            watch_output(block, self._add)

    def _add(self, state_BTD: Tensor) -> None:
        # Copied at once: to keep every state until the end would take the memory twice.
        if self._states_BTSD is None:
            batch, frames, dim = state_BTD.shape
            self._states_BTSD = state_BTD.new_empty(batch, frames, self._num_states, dim)
        self._states_BTSD[:, :, self._count] = state_BTD
        self._count += 1

    def take(self, output_BTD: Tensor) -> Tensor:
        """What the last forward pass left."""
        if self._final_norm:
            self._states_BTSD[:, :, -1] = output_BTD
        states_BTSD, self._states_BTSD, self._count = self._states_BTSD, None, 0
        return states_BTSD.flatten(2)


def watch_input(block: nn.Module, give: Callable[[Tensor], None]) -> RemovableHandle:
    """Gives away the residual stream that enters a block, at every pass."""
    # Blocks are called with the stream as first argument, by position or by name, as their authors like.
    first = next(iter(inspect.signature(block.forward).parameters))
    return block.register_forward_pre_hook(
        lambda _, arguments, keywords: give(arguments[0] if arguments else keywords[first]), with_kwargs=True
    )


def watch_output(block: nn.Module, give: Callable[[Tensor], None]) -> RemovableHandle:
    """Gives away what leaves a block, at every pass."""

    def hook(_, arguments, output) -> None:
        give(output[0] if isinstance(output, tuple) else output)

    return block.register_forward_hook(hook)


class PerUtterance(nn.Module):
    """Runs a module on each utterance without its padding, which it would let through to valid frames.

    Args:
        module: takes (1, ...) and gives (1, ...).
        input_axis, output_axis: of time, in what it takes and gives; outputs are padded with zeros.
    """

    def __init__(self, module: nn.Module, input_axis: int, output_axis: int):
        super().__init__()
        self.module, self.input_axis, self.output_axis = module, input_axis, output_axis
        self.lengths: list[int] = []  # set before each call of the model

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.module(row[None].narrow(self.input_axis, 0, n))[0] for row, n in zip(x, self.lengths)]
        axis = self.output_axis - 1
        longest = max(row.shape[axis] for row in rows)
        shape = list(rows[0].shape)
        shape[axis] = longest
        out = rows[0].new_zeros(len(rows), *shape)
        for place, row in zip(out, rows):
            place.narrow(axis, 0, row.shape[axis]).copy_(row)
        return out


def canonical_state(state_dict: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Weights under names that do not depend on library versions, without what inference never uses."""
    renamed = {}
    for name, value in state_dict:
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        if "masked_spec_embed" not in name:
            renamed[name] = value
    return renamed
