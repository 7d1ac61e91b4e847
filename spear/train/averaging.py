"""The averaged model: a running mean of parameters, from which the mean over any later window follows.

After n updates the running mean is m_n = (1/n) sum of theta_i, so the mean over updates a+1..n is
(n m_n - a m_a) / (n - a): two checkpoints are enough to average a window, as in icefall.
"""

import torch
from torch import Tensor, nn

from spear import dist


class RunningAverage:
    """Running mean of a module's floating-point state, in float32; sharded where the module is.

    Args:
        module: whose parameters and buffers are averaged.
    """

    def __init__(self, module: nn.Module):
        self.count = 0
        self.mean = {name: value.detach().float().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the module's present state."""
        self.count += 1
        state = module.state_dict()
        means = [dist.local(value) for value in self.mean.values()]
        torch._foreach_lerp_(means, [dist.local(state[name].detach()).float() for name in self.mean], 1.0 / self.count)

    def load(self, mean: dict[str, Tensor], count: int) -> None:
        """Takes over a saved mean of whole tensors."""
        self.count = count
        for name, value in self.mean.items():
            dist.local(value).copy_(dist.part_of(mean[name], value))


def window_mean(
    later: dict[str, Tensor], later_count: int, earlier: dict[str, Tensor], earlier_count: int
) -> dict[str, Tensor]:
    """Mean over the updates between two saved running means, computed in float64.

    Raises:
        ValueError: the window is empty.
    """
    window = later_count - earlier_count
    if window <= 0:
        raise ValueError(f"no update between counts {earlier_count} and {later_count}")
    return {
        name: ((later[name].double() * later_count - earlier[name].double() * earlier_count) / window).float()
        for name in later
    }
