"""Weight-standardised convolution and pooling, with the two paddings of ResNets.

Weight standardisation is arXiv 1903.10520. The position of its epsilon differs between
the released codes of BiT (arXiv 1912.11370) and of the hybrid ViT (arXiv 2010.11929).
Every layer here with stride 2 halves a side, rounded up.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers.init import lecun_normal_

EpsAt = Literal["variance", "deviation"]
Padding = Literal["fixed", "same"]


@dataclass(frozen=True, kw_only=True)
class ConvNumerics:
    """Choices in which the released ResNets differ, the same for all layers."""

    std_eps: float
    """Epsilon of weight standardisation."""
    std_eps_at: EpsAt
    """Its place: (w - mean) / sqrt(variance + eps), or / (deviation + eps)."""
    group_norm_eps: float
    """Epsilon of every GroupNorm."""
    num_groups: int
    """Groups of every GroupNorm."""
    padding: Padding
    """`fixed` pads both sides alike, `same` as TensorFlow's SAME."""

    def norm(self, channels: int) -> nn.GroupNorm:
        """Build a GroupNorm with these settings."""
        return nn.GroupNorm(self.num_groups, channels, eps=self.group_norm_eps)


def standardize(
    weight: Float[Tensor, "out in height width"],
    eps: float,
    eps_at: EpsAt,
) -> Float[Tensor, "out in height width"]:
    """Give each output channel mean 0 and (population) deviation 1.

    Weights of reduced precision are standardised in float32 and rounded once.
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    rows = wide.flatten(1)
    if eps_at == "variance":
        # A LayerNorm of each row does the same in one kernel.
        out = F.layer_norm(rows, rows.shape[1:], eps=eps)
    else:
        variance, mean = torch.var_mean(rows, dim=1, correction=0, keepdim=True)
        # The slope of a root is infinite at 0, where a constant filter would get NaN.
        deviation = variance.clamp_min(torch.finfo(wide.dtype).tiny).sqrt()
        out = (rows - mean) / (deviation + eps)
    return out.view_as(weight).to(weight.dtype)


def compute_padding(
    side: int, kernel: int, stride: int, padding: Padding
) -> tuple[int, int]:
    """Return the cells added before and after a side of `side` cells.

    `fixed` ignores the side. `same` adds the fewest that give ceil(side / stride)
    outputs, the odd one after.
    """
    if padding == "fixed":
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class StdConv2d(nn.Module):
    """A convolution without bias whose weight is standardised in every pass."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: int,
        *,
        stride: int = 1,
        numerics: ConvNumerics,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.numerics = kernel, stride, numerics
        self.weight = nn.Parameter(torch.empty(out_chans, in_chans, kernel, kernel))
        lecun_normal_(self.weight, fan_in=in_chans * kernel**2)

    def forward(
        self, x: Float[Tensor, "batch in height width"]
    ) -> Float[Tensor, "batch out new_height new_width"]:
        numerics = self.numerics
        weight = standardize(self.weight, numerics.std_eps, numerics.std_eps_at)
        height, width = (
            compute_padding(side, self.kernel, self.stride, numerics.padding)
            for side in x.shape[2:]
        )
        if height[0] == height[1] and width[0] == width[1]:
            return F.conv2d(
                x, weight, stride=self.stride, padding=(height[0], width[0])
            )
        return F.conv2d(F.pad(x, (*width, *height)), weight, stride=self.stride)


class MaxPool(nn.Module):
    """3 x 3 maximum with stride 2.

    With `fixed` padding the border is zeros that can win, as in BiT; with `same` it is
    minus infinity.
    """

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.padding: Padding = padding

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels new_height new_width"]:
        height, width = (
            compute_padding(side, 3, 2, self.padding) for side in x.shape[2:]
        )
        border = 0.0 if self.padding == "fixed" else -torch.inf
        if border == 0.0 and torch.compiler.is_exporting():
            # ONNX Runtime merges a border of zeros into the pooling, where a border
            # never wins. This number is not zero, and too small to matter.
            border = torch.finfo(torch.float32).tiny
        return F.max_pool2d(F.pad(x, (*width, *height), value=border), 3, stride=2)
