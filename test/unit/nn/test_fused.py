"""The kernels for GPUs, compiled for the CPU by a C++ compiler: they compute what eager torch does."""

import ctypes
import math
import shutil
import subprocess

import pytest
import torch

from spear.nn import balancer, fused, norm, whiten
from spear.nn.activations import SWOOSH_L, SWOOSH_R, swoosh, swoosh_gradient
from spear.nn.gradient import limit_parameter
from spear.seeds import torch_rng

COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

C_TYPES = {torch.float32: ("float", ctypes.c_float), torch.float64: ("double", ctypes.c_double)}


def program(name: str) -> str:
    """A kernel as C functions over n elements."""
    tensors, numbers, outputs, _ = (part.split() for part in fused.KERNELS[name])
    lines = ["#include <math.h>", fused.source(name)]
    for kind in ("float", "double"):
        outs = outputs or ["result"]
        arguments = [f"const {kind}* {word}" for word in tensors] + [f"{kind} {word}" for word in numbers]
        arguments += [f"{kind}* {word}" for word in outs]
        call = ", ".join([f"{word}[i]" for word in tensors] + numbers + [f"{word}[i]" for word in outputs])
        body = f"spear_{name}<{kind}>({call});" if outputs else f"result[i] = spear_{name}<{kind}>({call});"
        lines.append(
            f'extern "C" void {name}_{kind}(long n, {", ".join(arguments)}) {{ for (long i = 0; i < n; i++) {body} }}'
        )
    return "\n".join(lines)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    libraries = {}
    for name in fused.KERNELS:
        source, built = folder / f"{name}.cpp", folder / f"{name}.so"
        source.write_text(program(name))
        subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
        libraries[name] = ctypes.CDLL(str(built))
    return libraries


@pytest.fixture(autouse=True)
def kernels_on_the_cpu(library, monkeypatch):
    """As the jiterator: broadcasts, computes in float32 or float64, and rounds to the tensors' common type."""

    def kernel(name):
        def run(*tensors, **numbers):
            names, outputs = fused.KERNELS[name][1].split(), fused.KERNELS[name][2].split()
            assert set(numbers) == set(names) and len(tensors) == len(fused.KERNELS[name][0].split())
            common = tensors[0].dtype
            for tensor in tensors[1:]:
                common = torch.promote_types(common, tensor.dtype)
            inside = torch.float64 if common == torch.float64 else torch.float32
            inputs = [t.to(inside).contiguous() for t in torch.broadcast_tensors(*tensors)]
            results = [torch.empty_like(inputs[0]) for _ in outputs or [""]]
            kind, number = C_TYPES[inside]
            getattr(library[name], f"{name}_{kind}")(
                ctypes.c_long(inputs[0].numel()),
                *(ctypes.c_void_p(t.data_ptr()) for t in inputs),
                *(number(numbers[word]) for word in names),
                *(ctypes.c_void_p(t.data_ptr()) for t in results),
            )
            results = [t.to(common) for t in results]
            return results if outputs else results[0]

        return run

    monkeypatch.setattr(fused, "_kernel", kernel)


def normal(*shape, scale=1.0, seed=0, dtype=torch.float32):
    return (scale * torch.randn(shape, generator=torch_rng(seed, "fused"))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_gain", [False, True])
@pytest.mark.parametrize("constants", [SWOOSH_L, SWOOSH_R])
def test_swoosh_and_its_gradient(constants, with_gain, dtype):
    x, grad = normal(3, 50, 16, scale=8.0, dtype=dtype), normal(3, 50, 16, seed=1, dtype=dtype)
    x[0, :4, 0] = torch.tensor([-90.0, 19.0, 30.0, 90.0], dtype=dtype)
    gain = (normal(3, 1, 16, seed=2) > 0).to(dtype) / 0.9 if with_gain else None
    for found, expected in (
        (fused.swoosh(x, constants, gain), swoosh(x, constants, gain)),
        (fused.swoosh_gradient(x, grad, constants, gain), swoosh_gradient(x, grad, constants, gain)),
    ):
        assert found.dtype == dtype
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}[dtype]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=tolerance)


def test_limits_of_parameters():
    parameter, grad = normal(200, scale=2.0).requires_grad_(), normal(200, seed=1)
    limit_parameter(parameter, -1.5, 1.0).backward(grad)
    found = fused.limit_gradient(parameter.detach(), grad, -1.5, 1.0)
    assert torch.equal(found, parameter.grad) and not torch.equal(found, grad)


@pytest.mark.parametrize(
    "bounds", [((-0.5, 0.5), (0.3, 2.0)), ((-0.05, 0.05), (1.0, 1.1)), ((-9.4, 9.4), (0.0, 100.0))]
)
def test_penalties_of_balancers(bounds):
    x = normal(4, 90, 24) * torch.linspace(0.0, 3.0, 24) + torch.linspace(-2.0, 2.0, 24)
    x[..., 5], x[..., 6] = 0.25, 0.0  # channels that do not vary
    grad = normal(4, 90, 24, seed=1)
    expected = balancer._penalty_coefficients(x.flatten(0, 1), *bounds, 0.04)
    flat = x.flatten(0, 1)
    moments = flat.mean(0).double(), flat.square().mean(0).double()
    found = fused.penalty_coefficients(*moments, *bounds, 0.04)
    if expected is None:
        assert not found[0].any() and not found[1].any()
        return
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)
    whole = torch.nn.Parameter(x.clone())
    module = balancer.Balancer(grad_scale=0.04, probability=1.0).train()
    balancer._BalancerFunction.apply(whole, *bounds, module.grad_scale, slice(None)).backward(grad)
    torch.testing.assert_close(fused.balance(x, grad, *found), whole.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12,), (2, 1, 12)])
def test_bypasses(shape):
    tensors = [normal(2, 30, 12, seed=seed).requires_grad_() for seed in (0, 1)] + [normal(*shape).requires_grad_()]
    grad = normal(2, 30, 12, seed=2)
    torch.lerp(*tensors).backward(grad)
    *found, product = fused.bypass_gradients(*(tensor.detach() for tensor in tensors), grad)
    for ours, tensor in zip([*found, product.sum_to_size(shape)], tensors):
        torch.testing.assert_close(ours, tensor.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_groups", [1, 4])
def test_whiteners(num_groups):
    x = normal(3, 200, 16) @ normal(16, 16, seed=1)
    grad = normal(3, 200, 16, seed=2)
    scatter = whiten._covariance(x.flatten(0, 1).unflatten(-1, (num_groups, -1)))[1]
    metric = fused.whitening_metric(*whiten._traces(scatter), 16)
    torch.testing.assert_close(metric, whiten.whitening_metric(x.flatten(0, 1), num_groups))
    leaf = x.clone().requires_grad_()
    whiten._WhitenFunction.apply(leaf, num_groups, 0.0, 0.5).backward(grad)
    penalty = leaf.grad - grad
    torch.testing.assert_close(fused.add_scaled(grad, 7 * penalty, 0.5), leaf.grad, atol=1e-5, rtol=1e-5)


def test_norms():
    x, grad = normal(2, 30, 12), normal(2, 30, 12, seed=1)
    module = norm.BiasNorm(12).eval()
    with torch.no_grad():
        module.bias.copy_(normal(12, scale=0.3, seed=2))
        module.log_scale.fill_(0.4)
    whole = x.clone().requires_grad_()
    module(whole).backward(grad)
    distance = torch.linalg.vector_norm(x - module.bias, dim=-1, keepdim=True)
    gain = fused.norm_gain(distance, module.log_scale, 12)
    torch.testing.assert_close(x * gain, module(x))
    assert float(gain[0, 0].detach()) == pytest.approx(
        math.exp(0.4) * 12**0.5 / float(distance[0, 0].detach()), rel=1e-5
    )
    pull = (grad * x).sum(-1, keepdim=True) * gain / distance.square()
    torch.testing.assert_close(fused.norm_gradient(x, grad, module.bias, gain, pull), whole.grad)
