"""`spear train --health`: how large the output of every module is at the newest checkpoint, on an unchanging batch.

It reads and does not disturb: the run may be going on meanwhile.
"""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from spear import compat, dist, fs
from spear.models.spear import SpearModel
from spear.train import checkpoint, runs
from spear.train.config import TrainConfig
from spear.train.loop import Trainer
from spear.train.sharding import load_whole

# Of the layers' median: what is outside is worth a word.
WIDE = 10.0
_SHOWN = 8


@dataclass(frozen=True)
class Scale:
    """Of a module's output (the first tensor, if there are several), padding included.

    Attributes:
        name: of the module, in the order in which they ran.
        is_layer: whether it is one of the layers whose outputs are the hidden states.
        rms: root mean square of what is finite.
        largest: largest magnitude of what is finite.
        non_finite: how many values are not.
    """

    name: str
    is_layer: bool
    rms: float
    largest: float
    non_finite: int


@torch.no_grad()
def activation_scales(model: SpearModel, inputs: tuple, dtype: torch.dtype | None = None) -> list[Scale]:
    """Runs the model once, in evaluation mode.

    Args:
        model: its mode is restored.
        inputs: arguments of its forward pass.
        dtype: of autocast.
    """
    found: list[Scale] = []
    layers = set(model.layers())

    def look(name: str, is_layer: bool):
        def hook(_module, _inputs, output) -> None:
            while isinstance(output, tuple | list) and output:
                output = output[-1] if isinstance(output, list) else output[0]
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                values = output.detach().float()
                finite = torch.isfinite(values)
                count = int(finite.sum())
                values = torch.where(finite, values, 0.0)
                rms = float(values.square().sum() / max(count, 1)) ** 0.5
                found.append(Scale(name, is_layer, rms, float(values.abs().max()), values.numel() - count))

        return hook

    handles = [
        module.register_forward_hook(look(name, module in layers)) for name, module in model.named_modules() if name
    ]
    training = model.training
    model.eval()
    try:
        with compat.autocast(inputs[0].device.type, dtype):
            model(*inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def in_words(scales: list[Scale]) -> list[str]:
    """What is remarkable; nothing when all is well."""
    words = []
    broken = [scale for scale in scales if scale.non_finite]
    if broken:
        first = broken[0]
        words.append(
            f"{first.name} is the first whose output is not finite ({first.non_finite} values; {len(broken)} modules "
            "after it too): look at its weights and at the cuts in non_finite_steps.jsonl, or go back a checkpoint"
        )
    layers = [scale for scale in scales if scale.is_layer and not scale.non_finite]
    median = statistics.median(scale.rms for scale in layers) if layers else 0.0
    for scale in layers:
        if scale.rms > WIDE * median:
            words.append(f"{scale.name} is {scale.rms / median:.0f} times as large as the median layer: it may diverge")
        elif WIDE * scale.rms < median:
            words.append(
                f"{scale.name} has {scale.rms / median:.1g} of the median layer's size: it does next to nothing"
            )
    return words


def table(scales: list[Scale]) -> str:
    """The layers, then the other modules with the highest peaks, then the words."""
    layers = [scale for scale in scales if scale.is_layer]
    others = [scale for scale in scales if not scale.is_layer]
    others.sort(key=lambda scale: -scale.largest / max(scale.rms, 1e-30))
    width = max((len(scale.name) for scale in scales), default=0)
    lines = [f"  {'layer':{width}}       rms   largest"]
    lines += [f"  {scale.name:{width}}  {scale.rms:8.3g}  {scale.largest:8.3g}" for scale in layers]
    lines += [f"  {'other modules, highest peaks first':{width}}"]
    lines += [f"  {scale.name:{width}}  {scale.rms:8.3g}  {scale.largest:8.3g}" for scale in others[:_SHOWN]]
    return "\n".join([*lines, *(in_words(scales) or ["  nothing remarkable"])])


def report(config: TrainConfig, world: dist.World) -> str:
    """Looks at the newest checkpoint of a run (without one, at its initial weights) and writes all of it to exp_dir.

    Returns:
        lines for the terminal.

    Raises:
        SpearError: whatever would stop the run at its start.
    """
    trainer = Trainer(config, world)
    found = checkpoint.newest(config.exp_dir, runs.find(config.exp_dir))
    step = found[1]["step"] if found else 0
    if found:
        load_whole(trainer.model, checkpoint.read_tensors(found[0], "model"))
    scales = activation_scales(trainer.model, trainer.probe_inputs(), trainer.dtype)
    path = Path(config.exp_dir) / "health" / f"step-{step:08d}.json"
    if world.is_main:
        fs.write_json(path, {"step": step, "words": in_words(scales), "modules": [asdict(scale) for scale in scales]})
    return f"{len(scales)} modules at step {step}; all of them in {path}\n{table(scales)}"
