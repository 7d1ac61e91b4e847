"""ScaledAdam's arithmetic on stacks of tensors of one shape (Zipformer, arXiv 2310.11230, section 3.5).

A model has hundreds of small tensors but few shapes; one operation on a stack costs as much as one on a single small
tensor. Every quantity that belongs to a tensor (root-mean-square, counters, size gradients) is a vector over the stack.
Nothing here makes the host wait for a GPU.

Of tensors that are sharded over ranks, each rank stacks its own parts. What belongs to a whole tensor is then a sum
over ranks; those of all tensors travel together, once a step.

Shapes: n = tensors in the stack, ``*`` = the shape of each, or of this rank's part of it.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import Parameter

from spear import dist

_ALONE_NUMEL_CPU = 32768  # from this size on, copying into a stack costs more than it saves; measured
_BUCKET_NUMEL_CPU = 1 << 17  # a stack and its state fit into the processor's cache
_BUCKET_NUMEL_GPU = 1 << 24  # bounds the memory of the copies


@dataclass(frozen=True)
class Settings:
    """What `ScaledAdam` was made with; see there."""

    beta1: float
    beta2: float
    eps: float
    scalar_lr_scale: float
    param_min_rms: float
    param_max_rms: float
    scalar_max: float
    size_update_period: int


@dataclass
class State:
    """Of n tensors: all of it is float32, on the parameters' device, and all of it is saved."""

    exp_avg_sq: Tensor  # (n, *) moving average of squared gradients
    delta: Tensor  # (n, *) the last change: momentum
    rms: Tensor  # (n,) root-mean-square of the parameter, at the last size update
    size_grads: Tensor  # (n, period) gradients with respect to the log of the size, since the last size update
    size_exp_avg_sq: Tensor  # (n,)
    count: Tensor  # (n,) steps since the first gradient that was not zero
    size_count: Tensor  # (n,) size updates since then

    ELEMENTWISE = ("exp_avg_sq", "delta")  # sharded as the parameters are; the rest is equal on all ranks

    def items(self) -> list[tuple[str, Tensor]]:
        """(name, stacked tensor) pairs."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    @staticmethod
    def initial(values: Tensor, period: int) -> "State":
        """Of parameters with these (n, *) values that have not been updated yet."""
        n, device = len(values), values.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device)

        return State(
            torch.zeros_like(values, memory_format=torch.contiguous_format),
            torch.zeros_like(values, memory_format=torch.contiguous_format),
            _rms(values),
            zeros(n, period),
            zeros(n),
            zeros(n),
            zeros(n),
        )


class Bucket:
    """Parameters of one shape, with their stacked state."""

    def __init__(self, params: list[Parameter], indexes: list[int], settings: Settings, state: State | None = None):
        self.params, self.indexes, self.settings = params, indexes, settings
        self.is_sharded, self.numel = dist.is_sharded(params[0]), params[0].numel()
        self.is_scalar = self.numel == 1
        self.state = state or State.initial(self._values(), settings.size_update_period)
        self._deltas = list(self.state.delta.unbind(0))
        self._rows: list[int] = []
        self._grads: Tensor | None = None  # between `gradient_norms` and `update`, on CPU or sharded
        self._sums: Tensor | None = None  # (n, 3) of `take_sums`, sharded

    def _values(self) -> Tensor:
        return _stack([dist.local(param) for param in self.params])

    def local_numel(self) -> int:
        """Elements of each tensor on this rank."""
        return dist.local(self.params[0]).numel()

    def norm_weights(self) -> Tensor:
        """(n,) by which gradient norms are multiplied: what a change of relative size 1 does to the loss."""
        return torch.ones_like(self.state.rms) if self.is_scalar else self.state.rms

    def gradient_norms(self) -> Tensor:
        """(n,) float32 norms of the gradients at hand; zero where there is none. Call it before each `update`.

        Of sharded parameters they are those of this rank's parts, and `take_sums` gives the others.
        """
        grads = [None if param.grad is None else dist.local(param.grad) for param in self.params]
        self._rows = [row for row, grad in enumerate(grads) if grad is not None]
        if len(self._rows) < len(grads):
            norms = torch.zeros_like(self.state.rms)
            for row in self._rows:
                norms[row] = torch.linalg.vector_norm(grads[row].float())
            return norms
        if grads[0].is_cuda and not self.is_sharded:
            return torch.stack(torch._foreach_norm(grads)).float()
        self._grads = _stack(grads)
        return torch.linalg.vector_norm(_flat(self._grads), dim=1)

    def partial_sums(self, norms: Tensor, step: int) -> Tensor:
        """(n, 3) float64 sums over this rank's parts: squared gradients, values times gradients, squared values.

        Args:
            norms: (n,) from `gradient_norms`.
            step: number of steps before this one; the last column is zero where nobody will look at it.
        """
        sums = torch.zeros(len(self.params), 3, dtype=torch.float64, device=norms.device)
        sums[:, 0] = norms.double().square()
        values, grads = self._values(), self._grads
        if grads is None:
            pairs = zip(self.params, values)
            grads = _stack([torch.zeros_like(v) if p.grad is None else dist.local(p.grad) for p, v in pairs])
        sums[:, 1] = _flat(values * grads).sum(dim=1)
        if self._updates_size(step):
            sums[:, 2] = torch.linalg.vector_norm(_flat(values), dim=1).double().square()
        return sums

    def take_sums(self, sums: Tensor) -> Tensor:
        """Takes `partial_sums` added up over ranks; returns the (n,) norms of the whole gradients."""
        self._sums = sums
        return sums[:, 0].sqrt().float()

    def _updates_size(self, step: int) -> bool:
        return step % self.settings.size_update_period == self.settings.size_update_period - 1

    def is_complete(self) -> bool:
        """Whether every tensor has a gradient in this step."""
        return len(self._rows) == len(self.params)

    def update(
        self,
        lr: float,
        step: int,
        norms: Tensor,
        factor: float | Tensor,
        finite: bool | Tensor,
        correction: tuple[Tensor, Tensor],
    ) -> None:
        """One step for all tensors of the bucket that have a gradient; the others keep parameter and state.

        Args:
            lr: learning rate.
            step: number of steps before this one.
            norms: (n,) from `gradient_norms`.
            factor: multiplies the gradients (clipping).
            finite: where false, gradients count as zero.
            correction: two (n,) from `Counters.advance`; not looked at where a gradient is missing.
        """
        if not self.is_complete():
            if self._rows:
                self._update_rows(self._rows, lr, step, norms, factor, finite)
            return
        stacked = self._grads if self._grads is not None else _stack([param.grad for param in self.params])
        self._grads = None
        params = [dist.local(param) for param in self.params]
        grads, owned = _clipped(stacked, len(self.params) > 1, factor, finite)
        state, settings = self.state, self.settings
        state.delta.mul_(settings.beta1)
        if self.is_scalar:
            scale = torch.full_like(state.rms, settings.scalar_lr_scale)
        else:
            self._update_size(grads, lr, step, factor, finite)
            scale = state.rms.clamp(settings.param_min_rms, settings.param_max_rms)
        # Adam with the step proportional to the parameter's size. The bias correction is a number for each tensor.
        root, eps = correction
        state.exp_avg_sq.mul_(settings.beta2).addcmul_(grads, grads, value=1 - settings.beta2)
        denominator = state.exp_avg_sq.sqrt().add_(_column(eps, grads))
        direction = torch.div(grads, denominator, out=grads if owned else denominator)
        step_size = scale * root * (-lr * (1 - settings.beta1))
        state.delta.addcmul_(direction, _column(step_size, grads))
        torch._foreach_add_(params, self._deltas)
        if self.is_scalar:
            torch._foreach_clamp_min_(params, -settings.scalar_max)
            torch._foreach_clamp_max_(params, settings.scalar_max)

    def _update_size(self, grads: Tensor, lr: float, step: int, factor: float | Tensor, finite: bool | Tensor) -> None:
        """Learns the parameter's size, as if it were a factor exp(s): d loss / d s = sum(parameter * gradient).

        The gradient is gathered at every step, and used at the last step of every period.
        """
        state, settings = self.state, self.settings
        period = settings.size_update_period
        values = self._values()
        if self._sums is None:
            state.size_grads[:, step % period] = _flat(values * grads).sum(dim=1)
        else:
            state.size_grads[:, step % period] = _clipped(self._sums[:, 1].float(), False, factor, finite)[0]
        if not self._updates_size(step):
            return
        state.rms.copy_(_rms(values) if self._sums is None else (self._sums[:, 2] / self.numel).sqrt())
        size_lr, beta2 = lr * settings.scalar_lr_scale, settings.beta2**period
        state.size_exp_avg_sq.mul_(beta2).add_(state.size_grads.square().mean(dim=1), alpha=1 - beta2)
        state.size_count.add_(((state.size_grads != 0).any(dim=1) | (state.size_count > 0)).to(state.size_count.dtype))
        correction = (1 - beta2**state.size_count).sqrt_()
        change = -size_lr * correction * state.size_grads.sum(dim=1) / (state.size_exp_avg_sq.sqrt() + settings.eps)
        # A parameter that is too small grows; none grows beyond the maximum.
        change = torch.where(state.rms < settings.param_min_rms, size_lr * period, change)
        change = torch.minimum(change, (settings.param_max_rms - state.rms) / state.rms)
        state.delta.addcmul_(values, _column(change, values), value=1 - settings.beta1)

    def _update_rows(
        self, rows: list[int], lr: float, step: int, norms: Tensor, factor: float | Tensor, finite: bool | Tensor
    ) -> None:
        chosen = torch.tensor(rows, device=norms.device)  # rare: parameters that this step did not use
        part_state = State(*(tensor[chosen] for _, tensor in self.state.items()))
        part = Bucket([self.params[row] for row in rows], [], self.settings, part_state)
        part.gradient_norms()
        part._sums = None if self._sums is None else self._sums[chosen]
        counters = Counters([part], self.settings)
        part.update(lr, step, norms[chosen], factor, finite, *counters.advance(norms[chosen]))
        for (_, whole), (_, changed) in zip(self.state.items(), part_state.items()):
            whole[chosen] = changed


class Counters:
    """The step counters of many buckets in one vector, so that the bias correction is computed once and not for each.

    Args:
        buckets: their `state.count` becomes a part of the vector.
        settings: of the optimiser.
    """

    def __init__(self, buckets: list[Bucket], settings: Settings):
        self.buckets, self.settings = buckets, settings
        self.count = torch.cat([bucket.state.count for bucket in buckets])
        self._sizes = [len(bucket.params) for bucket in buckets]
        for bucket, part in zip(buckets, self.count.split(self._sizes)):
            bucket.state.count = part
        self._is_scalar = self._spread([bucket.is_scalar for bucket in buckets])

    def _spread(self, flags: list[bool]) -> Tensor:
        """A flag for each bucket -> one for each tensor."""
        each = [flag for flag, size in zip(flags, self._sizes) for _ in range(size)]
        return torch.tensor(each, device=self.count.device)

    def advance(self, norms: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Counts a step of the complete buckets.

        Args:
            norms: those of all buckets in one vector, from `gradient_norms`.

        Returns:
            for each bucket the (n,) roots of the bias correction of squared gradients, and eps times these.
        """
        count, beta2 = self.count, self.settings.beta2
        counts = (norms > 0) | (count > 0)
        complete = [bucket.is_complete() for bucket in self.buckets]
        if not all(complete):
            counts &= self._spread(complete)
        count.add_(counts.to(count.dtype))
        correction = (1 - beta2**count).clamp_(min=1 - beta2)
        # Less than 1 % is not corrected in tensors of more than one number, as in the published optimiser.
        root = torch.where((correction < 0.99) | self._is_scalar, correction, 1.0).sqrt_()
        return list(zip(root.split(self._sizes), (self.settings.eps * root).split(self._sizes)))


@torch.no_grad()
def make_buckets(params: list[Parameter], settings: Settings) -> list[Bucket]:
    """Groups parameters by shape, in an order that depends on nothing but the list."""
    by_shape: dict[tuple, list[int]] = {}
    for index, param in enumerate(params):
        numel = max(1, param.numel())
        alone = param.device.type == "cpu" and numel >= _ALONE_NUMEL_CPU
        kind = (tuple(param.shape), param.dtype, index if alone else None, dist.is_sharded(param))
        by_shape.setdefault(kind, []).append(index)
    buckets = []
    for indexes in by_shape.values():
        limit = _BUCKET_NUMEL_CPU if params[indexes[0]].device.type == "cpu" else _BUCKET_NUMEL_GPU
        size = max(1, limit // max(1, params[indexes[0]].numel()))
        for start in range(0, len(indexes), size):
            part = indexes[start : start + size]
            buckets.append(Bucket([params[index] for index in part], part, settings))
    sharded = [bucket for bucket in buckets if bucket.is_sharded]
    squares = _summed([bucket.state.rms.double().square() * bucket.local_numel() for bucket in sharded])
    for bucket, of_bucket in zip(sharded, squares):
        bucket.state.rms.copy_((of_bucket / bucket.numel).sqrt())
    return buckets


def gradient_norms(buckets: list[Bucket], step: int) -> list[Tensor]:
    """Norms of the gradients of all tensors of each bucket, over all ranks that hold parts of them."""
    norms = [bucket.gradient_norms() for bucket in buckets]
    sharded = [number for number, bucket in enumerate(buckets) if bucket.is_sharded]
    sums = _summed([buckets[number].partial_sums(norms[number], step) for number in sharded])
    for number, of_bucket in zip(sharded, sums):
        norms[number] = buckets[number].take_sums(of_bucket)
    return norms


def _summed(parts: list[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor added up over ranks; all of them in one message."""
    return dist.sum_(torch.cat(parts)).split([len(part) for part in parts]) if parts else ()


def _stack(tensors: list[Tensor]) -> Tensor:
    """(n, *) float32; a view where there is nothing to copy."""
    return (tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)).float()


def _clipped(grads: Tensor, owned: bool, factor: float | Tensor, finite: bool | Tensor) -> tuple[Tensor, bool]:
    """Stacked gradients after clipping, and whether they may be overwritten (p.grad itself never is)."""
    if isinstance(factor, Tensor):
        return torch.where(finite, grads * factor, 0.0), True
    if not finite:
        return torch.zeros_like(grads), True
    if factor == 1.0:
        return grads, owned
    return (grads.mul_(factor) if owned else grads * factor), True


def _flat(stack: Tensor) -> Tensor:
    """(n, *) -> (n, elements); there may be none, on a rank that has no part."""
    return stack.flatten(1) if stack.dim() > 1 else stack[:, None]


def _rms(values: Tensor) -> Tensor:
    flat = _flat(values)
    return torch.linalg.vector_norm(flat, dim=1) / max(1, flat.shape[1]) ** 0.5


def _column(vector: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, ...), to broadcast over a stack."""
    return vector.view(-1, *[1] * (like.dim() - 1))
