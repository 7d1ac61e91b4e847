"""Feed-forward module: linear, SwooshL, dropout shared over time, linear (Zipformer, 3.5)."""

from torch import Tensor, nn

from spear.nn.balancer import Balancer
from spear.nn.linear import Linear, SwooshLinear, small
from spear.nn.schedule import ScheduledFloat, schedule, shared_dropout_mask
from spear.nn.whiten import Whiten, whitening_limit


class FeedForward(nn.Module):
    """Args: `dim` channels, `hidden` width inside, `dropout` probability (a schedule)."""

    def __init__(self, dim: int, hidden: int, dropout: float | ScheduledFloat):
        super().__init__()
        self.in_proj = Linear(dim, hidden)
        self.hidden_balancer = Balancer(0.3, 1.0, 0.75, 5.0)
        self.dropout = schedule(dropout)
        self.out_proj = small(SwooshLinear("l", hidden, dim), 0.1)
        self.out_whiten = Whiten(whitening_limit(7.5))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = self.hidden_balancer(self.in_proj(x_BTD))
        mask = shared_dropout_mask(hidden, float(self.dropout)) if self.training else None
        return self.out_whiten(self.out_proj(hidden, mask))
