"""Two-layer MLP of a block (arXiv 2010.11929, equation 3)."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers.init import xavier_uniform_

Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]
MlpKind = Literal["plain", "swiglu"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), OpenAI's approximation of GELU."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return x * (1.702 * x).sigmoid()


def activation(name: Activation) -> nn.Module:
    """Build the activation; `gelu_tanh` is the official code's, `gelu` that of timm."""
    if name == "quick_gelu":
        return QuickGELU()
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class Mlp(nn.Module):
    """Dense, GELU, dropout, Dense, dropout."""

    def __init__(
        self, dim: int, hidden_dim: int, *, act: Activation, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = activation(act)
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (self.fc1, self.fc2):
            xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(x)))))


class SwiGLU(nn.Module):
    """Gated MLP, silu(x A) * (x B), then a dense layer (arXiv 2002.05202).

    A and B are one matrix of twice the hidden width, as in DINOv2's largest model.

    Args:
        norm_eps: epsilon of a LayerNorm before the dense layer, as in EVA-02; None for
            none.
        bias: biases of both layers.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        act: Activation,
        drop: float = 0.0,
        norm_eps: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim, bias=bias)
        self.drop1 = nn.Dropout(drop)
        self.norm: nn.Module = nn.Identity()
        if norm_eps is not None:
            self.norm = nn.LayerNorm(hidden_dim, norm_eps)
        self.fc2 = nn.Linear(hidden_dim, dim, bias=bias)
        self.drop2 = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        xavier_uniform_(self.fc1.weight, num_matrices=2)
        xavier_uniform_(self.fc2.weight)
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.drop2(self.fc2(self.norm(self.drop1(F.silu(gate) * value))))
