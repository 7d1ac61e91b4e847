"""Differences between torch versions live here and nowhere else (supported: 2.6 and later)."""

import contextlib
import inspect

import torch
from torch.nn.parallel import DistributedDataParallel

# Matrix products with a result in a wider precision: from 2.8 on, and on GPUs only.
_MM_WIDENS = "dtype" in torch.ops.aten.mm.overloads()


def autocast(device_type: str, dtype: torch.dtype | None):
    """`torch.autocast` for a device; a null context when `dtype` is None or float32."""
    if dtype is None or dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.amp.autocast(device_type, dtype=dtype)


def disabled_autocast(device_type: str):
    """A context in which autocast is off, for parts that need float32."""
    return torch.amp.autocast(device_type, enabled=False)


@contextlib.contextmanager
def parameters_only():
    """Layers made in the block get parameters on the meta device and draw no numbers for them.

    Drawing what nobody reads took a third of the time in which a model is loaded.
    """
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    drawing = {kind: kind.reset_parameters for kind in kinds}
    try:
        for kind in kinds:
            kind.reset_parameters = lambda self: None
        with torch.device("meta"):
            yield
    finally:
        for kind, function in drawing.items():
            kind.reset_parameters = function


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The precision in which a matrix product with x is computed here: that of autocast, or that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def elementwise_kernel(source: str, num_outputs: int, numbers: dict[str, float]):
    """A function of CUDA tensors, computed element by element by a C++ function template; compiled when first called.

    Args:
        source: `template <typename T> T name(T tensor, ..., T number, ...) { ... }`, void with references to outputs
            where there are several.
        num_outputs: of them.
        numbers: defaults of the arguments that are no tensors.
    """
    if num_outputs > 1:
        return torch.cuda.jiterator._create_multi_output_jit_fn(source, num_outputs, **numbers)
    return torch.cuda.jiterator._create_jit_fn(source, **numbers)


def product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """a @ b of matrices in a wider precision than theirs: the sums' own where that costs nothing, else rounded."""
    if a.is_cuda and a.dtype != dtype and _MM_WIDENS:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def allow_tf32(device: torch.device, dtype: torch.dtype) -> None:
    """Lets float32 products round their inputs to ten bits, on a GPU that computes in bfloat16 (eight) otherwise."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        torch.set_float32_matmul_precision("high")


def distributed_data_parallel(module: torch.nn.Module, device: torch.device) -> DistributedDataParallel:
    """DDP around a module without buffers that change: none are sent round before each forward pass."""
    # `broadcast_buffers` is deprecated from torch 2.13 on in favour of `forward_sync_buffers`.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, **{name: False})
