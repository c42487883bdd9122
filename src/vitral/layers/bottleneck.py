"""Bottleneck ResNets of GroupNorm and weight-standardised convolutions.

Pre-activation units (ResNet-v2) make BiT (arXiv 1912.11370), post-activation units the
backbone of the hybrid ViT (arXiv 2010.11929, section 3.1). Parameter names are timm's.
A backbone of width w has w channels after the stem, then 4w, 8w, 16w ...; strides are
4 after the stem and the first stage, then 8, 16 ...
"""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.layers.conv import ConvNumerics, MaxPool, StdConv2d
from vitral.layers.position import Grid


class Stem(nn.Module):
    """7 x 7 convolution and max-pool, each with stride 2.

    Args:
        norm: GroupNorm and ReLU between the two; pre-activation units have their own.
    """

    def __init__(
        self, in_chans: int, width: int, *, norm: bool, numerics: ConvNumerics
    ) -> None:
        super().__init__()
        self.conv = StdConv2d(in_chans, width, 7, stride=2, numerics=numerics)
        self.norm = numerics.norm(width) if norm else None
        self.pool = MaxPool(numerics.padding)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        x = self.conv(image.to(self.conv.weight.dtype))
        return self.pool(x if self.norm is None else F.relu(self.norm(x)))


class PreActivationUnit(nn.Module):
    """x + conv3(act(conv2(act(conv1(act(x)))))), act being GroupNorm and ReLU.

    The projection of the shortcut, in the first unit of a stage, also sees act(x).
    """

    def __init__(
        self, chans: int, inner: int, *, stride: int, project: bool, norms: ConvNumerics
    ) -> None:
        super().__init__()
        out = 4 * inner
        self.norm1 = norms.norm(chans)
        self.conv1 = StdConv2d(chans, inner, 1, numerics=norms)
        self.norm2 = norms.norm(inner)
        self.conv2 = StdConv2d(inner, inner, 3, stride=stride, numerics=norms)
        self.norm3 = norms.norm(inner)
        self.conv3 = StdConv2d(inner, out, 1, numerics=norms)
        self.downsample: nn.Sequential | None = None
        if project:
            conv = StdConv2d(chans, out, 1, stride=stride, numerics=norms)
            self.downsample = nn.Sequential(OrderedDict(conv=conv))

    def forward(
        self, x: Float[Tensor, "batch chans height width"]
    ) -> Float[Tensor, "batch out new_height new_width"]:
        active = F.relu(self.norm1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        y = self.conv1(active)
        y = self.conv2(F.relu(self.norm2(y)))
        return self.conv3(F.relu(self.norm3(y))) + shortcut


class PostActivationUnit(nn.Module):
    """relu(x + norm3(conv3(act2(conv2(act1(conv1(x))))))), as in ResNet-v1.

    norm3 starts at scale 0: a fresh unit is its shortcut.
    """

    def __init__(
        self, chans: int, inner: int, *, stride: int, project: bool, norms: ConvNumerics
    ) -> None:
        super().__init__()
        out = 4 * inner
        self.conv1 = StdConv2d(chans, inner, 1, numerics=norms)
        self.norm1 = norms.norm(inner)
        self.conv2 = StdConv2d(inner, inner, 3, stride=stride, numerics=norms)
        self.norm2 = norms.norm(inner)
        self.conv3 = StdConv2d(inner, out, 1, numerics=norms)
        self.norm3 = norms.norm(out)
        nn.init.zeros_(self.norm3.weight)
        self.downsample: nn.Sequential | None = None
        if project:
            conv = StdConv2d(chans, out, 1, stride=stride, numerics=norms)
            shortcut = OrderedDict[str, nn.Module](conv=conv, norm=norms.norm(out))
            self.downsample = nn.Sequential(shortcut)

    def forward(
        self, x: Float[Tensor, "batch chans height width"]
    ) -> Float[Tensor, "batch out new_height new_width"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + shortcut)


def stages(
    units: tuple[int, ...],
    width: int,
    unit: type[PreActivationUnit] | type[PostActivationUnit],
    numerics: ConvNumerics,
) -> nn.Sequential:
    """Build stages of `units[i]` units, on the stem's map of `width` channels.

    The first unit of a stage changes the width, and that of a later stage the stride.
    """
    result, chans = nn.Sequential(), width
    for stage, count in enumerate(units):
        inner, blocks = width * 2**stage, nn.Sequential()
        for index in range(count):
            first = index == 0
            stride = 2 if first and stage else 1
            blocks.append(
                unit(chans, inner, stride=stride, project=first, norms=numerics)
            )
            chans = 4 * inner
        result.append(nn.Sequential(OrderedDict(blocks=blocks)))
    return result


def total_stride(units: tuple[int, ...]) -> int:
    """Return the pixels between cells of the last map; no units: the stem's map."""
    return 4 * 2 ** max(len(units) - 1, 0)


def output_channels(units: tuple[int, ...], width: int) -> int:
    """Return the channels of the last map."""
    return total_stride(units) * width if units else width


def map_grid(image_size: tuple[int, int], stride: int) -> Grid:
    """Return the grid of the map at `stride`: sides are halved and rounded up."""
    return Grid(-(-image_size[0] // stride), -(-image_size[1] // stride))


def backbone_macs(
    image_size: tuple[int, int], in_chans: int, units: tuple[int, ...], width: int
) -> int:
    """Return the multiply-accumulates of the convolutions of stem and stages."""

    def cells(stride: int) -> int:
        grid = map_grid(image_size, stride)
        return grid.rows * grid.columns

    total, chans, old = cells(2) * 49 * in_chans * width, width, 4
    for stage, count in enumerate(units):
        new, inner = 4 * 2**stage, width * 2**stage
        out = 4 * inner
        inside = cells(new) * (9 * inner**2 + inner * out)
        total += cells(old) * chans * inner + cells(new) * chans * out + inside
        total += (count - 1) * (cells(new) * out * inner + inside)
        chans, old = out, new
    return total
