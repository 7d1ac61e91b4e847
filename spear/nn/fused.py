"""Elementwise arithmetic of a GPU in one kernel where eager torch has many: CUDA source, compiled by torch's jiterator.

An activation in eager torch is six to nine kernels, most of them in float32 where the tensors are bfloat16; a training
step of a small encoder has thousands, and waits for their launches. A kernel here reads every value once, computes in
float32 (in double precision on double tensors) and writes once. Tensors broadcast as usual.
"""

import functools

import torch
from torch import Tensor

from spear import compat

_SWOOSH = "T z = x - shift; T value = (z > T(20) ? z : ::log1p(::exp(z))) - T(0.08) * x - offset;"
_SLOPE = "T slope = T(1) / (T(1) + ::exp(shift - x)) - T(0.08);"
# Name: (tensors, numbers, outputs, body). A body returns the value, or assigns each output.
KERNELS: dict[str, tuple[str, str, str, str]] = {
    "swoosh": ("x", "shift offset", "", f"{_SWOOSH} return value;"),
    "swoosh_times": ("x gain", "shift offset", "", f"{_SWOOSH} return value * gain;"),
    "swoosh_slope": ("x grad", "shift", "", f"{_SLOPE} return grad * slope;"),
    "swoosh_slope_times": ("x grad gain", "shift", "", f"{_SLOPE} return grad * gain * slope;"),
    "limit": (
        "parameter grad",
        "low high",
        "",
        "return (parameter < low && grad > T(0)) || (parameter > high && grad < T(0)) ? -grad : grad;",
    ),
    "penalty_coefficients": (
        "mean second_moment",
        "low high rms_low rms_high strength",
        "a b",
        """
        T tiny = T(1e-20), least = T(1e-6) * second_moment + tiny;
        T variance = second_moment - mean * mean;
        variance = variance < least ? least : variance;
        T bounded = second_moment < tiny ? tiny : second_moment;
        T deviation = ::sqrt(variance), rms = ::sqrt(bounded), ratio = mean / deviation, cubed = deviation * variance;
        T ratio_slope = T(ratio > high) - T(ratio < low), log_rms_slope = T(rms > rms_high) - T(rms < rms_low);
        T start = ratio_slope * second_moment / cubed;
        T change = log_rms_slope / bounded - ratio_slope * mean / cubed;
        T at_mean = start + change * mean;
        T norm = ::sqrt(at_mean * at_mean + change * change * variance);
        T scale = norm > T(0) ? strength / (norm < tiny ? tiny : norm) : T(0);
        a = start * scale; b = change * scale;
        """,
    ),
    "balance": (
        "x grad a b",
        "",
        "",
        "T p = a + x * b; p = p > T(1) ? T(1) : (p < T(-1) ? T(-1) : p); return grad + ::fabs(grad) * p;",
    ),
    "bypass_gradients": (
        "original changed scale grad",
        "",
        "for_original for_changed product",
        "for_changed = grad * scale; for_original = grad - for_changed; product = grad * (changed - original);",
    ),
    "whitening_metric": (
        "trace trace_of_square",
        "channels",
        "",
        "T mean = trace / channels; return trace_of_square / channels / (mean * mean + T(1e-20));",
    ),
    "add_scaled": (
        "grad penalty size norm",
        "strength",
        "",
        "return grad + penalty * (strength * size / (norm + T(1e-20)));",
    ),
    "norm_gain": ("distance log_scale", "root", "", "return ::exp(log_scale) * root / distance;"),
    "norm_gradient": ("x grad bias gain pull", "", "", "return grad * gain - pull * (x - bias);"),
}


def source(name: str) -> str:
    """The CUDA function of a kernel, for one element."""
    tensors, numbers, outputs, body = KERNELS[name]
    arguments = [f"T {word}" for word in (tensors + " " + numbers).split()] + [f"T& {word}" for word in outputs.split()]
    kind = "void" if outputs else "T"
    return f"template <typename T> {kind} spear_{name}({', '.join(arguments)}) {{ {' '.join(body.split())} }}"


@functools.cache
def _kernel(name: str):
    _, numbers, outputs, _ = KERNELS[name]
    return compat.elementwise_kernel(source(name), len(outputs.split()) or 1, dict.fromkeys(numbers.split(), 0.0))


def swoosh(x: Tensor, constants: tuple[float, float], gain: Tensor | None = None) -> Tensor:
    """See `spear.nn.activations.swoosh`."""
    numbers = {"shift": constants[0], "offset": constants[1]}
    return _kernel("swoosh")(x, **numbers) if gain is None else _kernel("swoosh_times")(x, gain, **numbers)


def swoosh_gradient(x: Tensor, grad: Tensor, constants: tuple[float, float], gain: Tensor | None = None) -> Tensor:
    """See `spear.nn.activations.swoosh_gradient`."""
    if gain is None:
        return _kernel("swoosh_slope")(x, grad, shift=constants[0])
    return _kernel("swoosh_slope_times")(x, grad, gain, shift=constants[0])


def limit_gradient(parameter: Tensor, grad: Tensor, low: float, high: float) -> Tensor:
    """See `spear.nn.gradient.limit_parameter`."""
    return _kernel("limit")(parameter, grad, low=float(low), high=float(high))


def penalty_coefficients(
    mean_C: Tensor, second_moment_C: Tensor, mean_bounds, rms_bounds, strength: float
) -> tuple[Tensor, Tensor]:
    """A balancer's (a_C, b_C) float32 from moments in double precision, times its strength (`spear.nn.balancer`)."""
    numbers = {"low": mean_bounds[0], "high": mean_bounds[1], "rms_low": rms_bounds[0], "rms_high": rms_bounds[1]}
    a, b = _kernel("penalty_coefficients")(mean_C, second_moment_C, **numbers, strength=strength)
    return a.float(), b.float()


def balance(x: Tensor, grad: Tensor, a_C: Tensor, b_C: Tensor) -> Tensor:
    """grad + |grad| * (a + b x), the bracket within +-1, in the precision of grad."""
    return _kernel("balance")(x, grad, a_C, b_C).to(grad.dtype)


def bypass_gradients(original: Tensor, new: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs of original + (new - original) * scale, and what adds up to that of the scale."""
    return tuple(_kernel("bypass_gradients")(original, new, scale, grad))


def whitening_metric(trace: Tensor, trace_of_square: Tensor, num_channels: int) -> Tensor:
    """See `spear.nn.whiten`."""
    return _kernel("whitening_metric")(trace, trace_of_square, channels=float(num_channels))


def add_scaled(grad: Tensor, penalty: Tensor, strength: float) -> Tensor:
    """grad plus the penalty with a norm of `strength` times grad's, in the precision of grad."""
    size, norm = (torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in (grad, penalty))
    return _kernel("add_scaled")(grad, penalty, size, norm, strength=strength).to(grad.dtype)


def norm_gain(distance: Tensor, log_scale: Tensor, num_channels: int) -> Tensor:
    """exp(log_scale) / (distance / sqrt(channels)) of `spear.nn.norm`."""
    return _kernel("norm_gain")(distance, log_scale, root=num_channels**0.5)


def norm_gradient(x: Tensor, grad: Tensor, bias: Tensor, gain: Tensor, pull: Tensor) -> Tensor:
    """grad * gain - pull * (x - bias), in the precision of grad."""
    return _kernel("norm_gradient")(x, grad, bias, gain, pull).to(grad.dtype)
