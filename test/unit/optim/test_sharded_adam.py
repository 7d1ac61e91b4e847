"""ScaledAdam and AdamW on two ranks that hold parts of each matrix: the values of one process with whole tensors."""

import os

import pytest
import torch
import torch.distributed as torch_dist
from torch import nn

from spear import dist
from spear.optim import (
    AdamW,
    ScaledAdam,
    load_optimizer_tensors,
    optimizer_tensors,
    parameter_groups,
    without_decay,
)

# Rows that divide and that do not, fewer rows than ranks, stacks, a large tensor, and what is not sharded.
SHAPES = {"a": (6, 3), "b": (6, 3), "c": (5, 4), "d": (5, 4), "e": (1, 7), "f": (200, 180), "g": (9,), "h": ()}
STEPS = 13
NAMES = ("scaled_adam", "adamw")


def whole_values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def gradient(name: str, step: int) -> torch.Tensor | None:
    """The last one is large enough to be clipped, one is not finite, and one tensor has none at times."""
    generator = torch.Generator().manual_seed(100 * step + list(SHAPES).index(name))
    value = torch.randn(SHAPES[name], generator=generator) * (1.0 if step < STEPS - 1 else 40.0)
    if step == 5 and name == "f":
        value[199, 0] = torch.nan  # in the last rank's part
    return None if name == "d" and step % 3 == 1 else value


def module_of(values: dict[str, torch.Tensor], mesh=None) -> nn.Module:
    """Parameters with these values, matrices sharded over the mesh if there is one."""
    from torch.distributed.tensor import Shard, distribute_tensor

    module = nn.Module()
    for name, value in values.items():
        sharded = mesh is not None and value.dim() > 1
        module.register_parameter(name, nn.Parameter(distribute_tensor(value, mesh, [Shard(0)]) if sharded else value))
    return module


def run(module: nn.Module, optimizer: ScaledAdam | AdamW, steps: range) -> None:
    for step in steps:
        for name, param in module.named_parameters():
            grad = gradient(name, step)
            if grad is not None and dist.is_sharded(param):
                grad = dist.as_part(dist.part_of(grad, param).clone(), param)
            param.grad = grad
        optimizer.step()


def new_optimizer(module: nn.Module, name: str) -> ScaledAdam | AdamW:
    groups = parameter_groups(module, 0.045)
    if name == "adamw":
        return AdamW(without_decay(groups), weight_decay=0.1, clipping_update_period=4)
    return ScaledAdam(groups, clipping_update_period=4)


def on_rank(rank: int, port: int, folder: str) -> None:
    """What `halves` does, for both."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.start("cpu")
    for name in NAMES:
        halves(name, f"{folder}/{name}.pt" if rank == 0 else "")
    dist.stop()


def halves(name: str, path: str) -> None:
    """Half of the steps, a state that goes through a whole copy, and the rest; rank 0 writes what became of it."""
    mesh = torch_dist.init_device_mesh("cpu", (2,))
    module = module_of(whole_values(), mesh)
    optimizer = new_optimizer(module, name)
    run(module, optimizer, range(0, 6))
    tensors, numbers = optimizer_tensors(optimizer)
    again = module_of({name: dist.whole(param).detach().clone() for name, param in module.named_parameters()}, mesh)
    other = new_optimizer(again, name)
    load_optimizer_tensors(other, tensors, numbers)
    run(again, other, range(6, STEPS))
    values = {name: dist.whole(param).detach() for name, param in again.named_parameters()}
    state = optimizer_tensors(other, keep=bool(path))[0]
    if path:
        torch.save({"values": values, "state": state, "clipping": vars(other.clipping["default"])}, path)


def test_two_ranks_with_parts_make_the_steps_of_one_with_all(tmp_path, free_port):
    torch.multiprocessing.spawn(on_rank, (free_port(), str(tmp_path)), nprocs=2)
    for name in NAMES:
        check(name, torch.load(tmp_path / f"{name}.pt"))


def check(name: str, found: dict) -> None:
    """Compares with one process that has all."""
    module = module_of(whole_values())
    optimizer = new_optimizer(module, name)
    run(module, optimizer, range(STEPS))
    state, _ = optimizer_tensors(optimizer)
    assert found["state"].keys() == state.keys()
    for name, tensor in {**module.state_dict(), **state}.items():
        other = found["values"].get(name, found["state"].get(name))
        torch.testing.assert_close(other, tensor, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    statistics = optimizer.clipping["default"]
    assert statistics.num_nonfinite == 1 and statistics.fraction_clipped > 0
    assert found["clipping"] == pytest.approx(vars(statistics), rel=1e-5)
