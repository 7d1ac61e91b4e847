"""Transducer losses, exact and pruned, forward and backward: peak memory and seconds, and what pruning leaves out.

    spear bench transducer
    spear bench transducer --quick true

Logits are tanh(am + lm) times a matrix, as a joiner makes them, for random am and lm. Memory is what one loss needs
beyond its inputs. Every loss is measured in turn in this process.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from spear import config, dist, log
from spear.bench import _memory
from spear.bench._report import environment, markdown_table, setting, tell
from spear.nn import transducer
from spear.seeds import torch_rng

_HEADER = ("loss", "nats an utterance", "above the exact one", "peak MB", "share of the exact one's", "seconds")


@dataclass
class TransducerBenchConfig:
    """Settings of `spear bench transducer`."""

    batch: int = setting(16, "utterances")
    frames: int = setting(500, "of each")
    units: int = setting(100, "of each")
    outputs: int = setting(500, "of the joiner, the blank included")
    ranges: str = setting("2,5,10,20", "states of a frame in the pruned loss")
    peaked: float = setting(3.0, "scale of the logits: how sure the model is of a path")
    device: str = setting("auto", "auto (a GPU where there is one), cpu or cuda")
    output: str = setting("", "Markdown file for the table; it is printed in any case")
    quick: bool = setting(False, "a tenth of the frames and a fifth of the units")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, measures, prints the table."""
    settings = config.parse(TransducerBenchConfig, argv, description=__doc__)
    log.setup()
    if settings.quick:
        settings.frames, settings.units = max(2, settings.frames // 10), max(1, settings.units // 5)
    device = dist.choose_device(settings.device).type
    before, inputs = environment(), _inputs(settings, device)
    full = _measure(lambda am, lm: _full(am, lm, inputs), inputs, device)
    rows = [("exact", full[0], 0.0, full[1], 1.0, full[2])]
    for num_states in map(int, settings.ranges.split(",")):
        loss, megabytes, seconds = _measure(lambda am, lm, n=num_states: _pruned(am, lm, inputs, n), inputs, device)
        share = megabytes / full[1] if full[1] else None
        rows.append((f"pruned to {num_states} states", loss, loss - full[0], megabytes, share, seconds))
    tell(markdown_table(_HEADER, rows), before, settings.output)
    return 0


def _inputs(settings: TransducerBenchConfig, device: str) -> dict[str, Tensor]:
    rng = torch_rng(0, "bench_transducer")
    batch, frames, units, outputs = settings.batch, settings.frames, settings.units, settings.outputs
    targets_BU = torch.randint(1, outputs, (batch, units), generator=rng)
    am_BTV = torch.randn(batch, frames, outputs, generator=rng)
    # A path at a constant pace is likely, as those of trained models are.
    frames_U = ((torch.arange(units) + 0.5) / units * frames).long()
    am_BTV[torch.arange(batch)[:, None], frames_U, targets_BU] += 2 * settings.peaked
    am_BTV[:, :, 0] += settings.peaked
    made = {
        "am": am_BTV,
        "lm": torch.randn(batch, units + 1, outputs, generator=rng),
        "joiner": settings.peaked * torch.eye(outputs),
        "targets": targets_BU,
        "frame_lens": torch.full((batch,), frames),
        "target_lens": torch.full((batch,), units),
    }
    return {name: value.to(device) for name, value in made.items()}


def _full(am_BTV: Tensor, lm_BUV: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits_BTUV = torch.tanh(am_BTV[:, :, None] + lm_BUV[:, None]) @ inputs["joiner"]
    lens = inputs["frame_lens"], inputs["target_lens"]
    loss_B = transducer.full_loss(logits_BTUV, inputs["targets"], *lens)
    return loss_B, loss_B


def _pruned(am_BTV: Tensor, lm_BUV: Tensor, inputs: dict[str, Tensor], num_states: int) -> tuple[Tensor, Tensor]:
    lens = inputs["frame_lens"], inputs["target_lens"]
    simple = transducer.simple_loss(am_BTV, lm_BUV, inputs["targets"], *lens, lm_only_scale=0.25)
    ranges_BTR = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, num_states)
    logits_BTRV = torch.tanh(am_BTV[:, :, None] + transducer.at_ranges(lm_BUV, ranges_BTR)) @ inputs["joiner"]
    loss_B = transducer.pruned_loss(logits_BTRV, ranges_BTR, inputs["targets"], *lens)
    return loss_B, loss_B + 0.5 * simple.loss_B


def _measure(function, inputs: dict[str, Tensor], device: str) -> tuple[float, float | None, float]:
    """The mean loss, the peak beyond the memory before in MB, and seconds; loss and gradients."""
    am_BTV, lm_BUV = (inputs[name].clone().requires_grad_() for name in ("am", "lm"))
    _memory.wait_for(device)
    before = _memory.resident_bytes(device)
    _memory.reset_peak(device)
    start = time.perf_counter()
    loss_B, total_B = function(am_BTV, lm_BUV)
    total_B.sum().backward()
    _memory.wait_for(device)
    seconds, peak = time.perf_counter() - start, _memory.peak_bytes(device)
    return float(loss_B.detach().mean()), None if peak is None else (peak - before) / 1e6, seconds
