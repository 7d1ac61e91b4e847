"""Any torch optimiser's state as named tensors and JSON, for checkpoints in safetensors."""

from torch import Tensor
from torch.optim import Optimizer

from spear import dist
from spear.errors import CheckpointError
from spear.optim.scaled_adam import named_parameters


def optimizer_tensors(optimizer: Optimizer, keep: bool = True) -> tuple[dict[str, Tensor], dict]:
    """The optimiser's state, apart: tensors by name on CPU, and everything else fit for JSON.

    Tensor names are ``state/<parameter name>/<key>`` and ``group/<number>/<key>/<inner key>``. Tensors are whole: when
    parameters are sharded, all ranks must call this together.

    Args:
        optimizer: whose state.
        keep: False takes part in the gathering of sharded tensors and returns none.
    """
    saved = optimizer.state_dict()
    names = [name for name, _ in named_parameters(optimizer)]
    tensors: dict[str, Tensor] = {}
    numbers: dict = {"names": names, "state": {}, "param_groups": []}
    for position, entries in saved["state"].items():
        numbers["state"][names[position]] = _split(entries, f"state/{names[position]}", tensors, keep)
    for number, group in enumerate(saved["param_groups"]):
        numbers["param_groups"].append(_split(group, f"group/{number}", tensors, keep))
    return tensors, numbers


def load_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict) -> None:
    """The reverse of `optimizer_tensors`; `numbers` may have been through JSON.

    Raises:
        CheckpointError: the parameters are not those of this optimiser; the message names the first difference.
    """
    names = [name for name, _ in named_parameters(optimizer)]
    if names != numbers["names"]:
        differing = [pair for pair in zip(numbers["names"], names) if pair[0] != pair[1]]
        found, expected = differing[0] if differing else (f"{len(numbers['names'])} parameters", f"{len(names)}")
        raise CheckpointError(
            f"optimiser state that has {found}",
            f"{expected} in its place",
            "resume with the configuration that the checkpoint was written with",
        )
    state = {names.index(name): _join(entries, f"state/{name}", tensors) for name, entries in numbers["state"].items()}
    groups = [_join(group, f"group/{number}", tensors) for number, group in enumerate(numbers["param_groups"])]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _split(entries: dict, prefix: str, tensors: dict[str, Tensor], keep: bool) -> dict:
    """Moves tensors into `tensors`; what remains has None in their places."""
    rest: dict = {}
    for key, value in entries.items():
        if isinstance(value, Tensor):
            value = dist.whole(value)
            if keep:
                tensors[f"{prefix}/{key}"] = value.detach().cpu().contiguous()
            rest[key] = None
        elif isinstance(value, dict):
            rest[key] = _split(value, f"{prefix}/{key}", tensors, keep)
        else:
            rest[key] = value
    return rest


def _join(entries: dict, prefix: str, tensors: dict[str, Tensor]) -> dict:
    joined: dict = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            joined[key] = _join(value, f"{prefix}/{key}", tensors)
        else:
            joined[key] = tensors.get(f"{prefix}/{key}", value)
    return joined
