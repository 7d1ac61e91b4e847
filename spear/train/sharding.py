"""FSDP2 for models that are too large for a copy on every rank: each rank keeps a part of every layer's matrices.

A layer is gathered when its forward or backward pass needs it, and given up again. Vectors and single numbers (of which
`fully_shard` refuses those without dimensions) and what lies outside the layers, 3 % of an XLarge, are kept whole on
all ranks; their gradients are averaged here, in one message a step. Checkpoints hold whole tensors under the same
names as those of a run without sharding.
"""

import torch
from torch import Tensor, nn

from spear import dist
from spear.models.spear import SpearModel


def shard(model: SpearModel, world: dist.World) -> None:
    """Shards the layers of a model over all ranks, in place; further passes and steps must be done by all together.

    Args:
        model: on its device, with weights that are equal on all ranks.
        world: this process among at least two.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in model.layers():
        small = {param for param in layer.parameters() if param.dim() < 2 or not param.requires_grad}
        fully_shard(layer, mesh=mesh, ignored_params=small)
    # The root shards nothing; it lets the layers gather ahead of their turn.
    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()))


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Averages over ranks the gradients of the parameters that are not sharded, as the layers do with theirs."""
    grads = [param.grad for param in model.parameters() if param.grad is not None and not dist.is_sharded(param)]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.sum_(flat).div_(torch.distributed.get_world_size())
    parts = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads)])


def load_whole(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads whole tensors; each rank takes the parts that it holds. The model need not be sharded."""
    state = model.state_dict()
    taken = dict(tensors)
    for name, value in state.items():
        if dist.is_sharded(value) and name in tensors:
            taken[name] = dist.as_part(dist.part_of(tensors[name], value).to(value.device), value)
    model.load_state_dict(taken)


def host_copies(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors in the host's memory, so that training may change the originals.

    Args:
        tensors: sharded or not; when one is, all ranks must call this together.
        keep: False takes part in the gathering and returns nothing.
    """
    copies = {}
    for name, value in tensors.items():
        value = dist.whole(value)
        if keep:
            copies[name] = value.detach().to("cpu", copy=True)
    return copies
