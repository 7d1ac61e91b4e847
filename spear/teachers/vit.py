"""The parts that vision transformers over spectrograms share, under the names of timm."""

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention of all places to all; queries, keys and values are one product.

    Args:
        dim: channels.
        num_heads: of them.
        bias: whether that product has one.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=bias), nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        dim, hidden: channels outside and inside.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.fc2(F.gelu(self.fc1(x_BTD)))
