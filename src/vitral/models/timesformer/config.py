"""Settings of TimeSformer (arXiv 2102.05095), its sizes, and its cost.

Each of the five types of space-time attention is a list of steps. A step has its own
norm, queries, keys, values and residual. All but the last end in a further linear map
that starts at zero, so that a fresh step changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from vitral.layers.patch import patch_grid
from vitral.layers.position import Grid, TimeResize
from vitral.layers.space_time_attention import GROUP_AXES, STRIDE, Along, Extent, radii
from vitral.models.base import Size2d, require, require_off, to_2tuple
from vitral.models.vit import IN_ATTENTION, SIZES, ViTConfig

AttentionType = Literal["space", "joint", "divided", "local_global", "axial"]
StepKind = Along | Literal["clip", "local", "strided"]


class SpaceTimeStep(NamedTuple):
    """One attention of a block."""

    name: str
    """Prefix of its parameters' names: "temporal"; empty for the last step."""
    kind: StepKind
    """Axis along which it attends, or all tokens."""


STEPS: dict[AttentionType, tuple[SpaceTimeStep, ...]] = {
    "space": (SpaceTimeStep("", "space"),),
    "joint": (SpaceTimeStep("", "clip"),),
    "divided": (SpaceTimeStep("temporal", "time"), SpaceTimeStep("", "space")),
    "local_global": (SpaceTimeStep("local", "local"), SpaceTimeStep("", "strided")),
    "axial": (
        SpaceTimeStep("temporal", "time"),
        SpaceTimeStep("width", "width"),
        SpaceTimeStep("", "height"),
    ),
}
"""Steps of a block in order, as in the paper's figure 1."""


@dataclass(frozen=True, kw_only=True)
class TimeSformerConfig(ViTConfig):
    """A Vision Transformer whose blocks attend in space and time."""

    num_frames: int = 8
    """Frames of a clip: rows of the table of time positions. Clips of any other number
    are accepted at run time."""
    attention_type: AttentionType = "divided"
    """`space` (each frame alone), `joint` (all with all), `divided` (time, then space),
    `local_global` (near patches, then a coarse grid) or `axial` (time, width, height).
    """
    class_token_in: Literal["last_step", "every_step"] = "last_step"
    """Steps that class and register tokens take part in: a block's last, as in the
    released code and weights, or all, as in the paper's equations."""
    time_position: Literal["learned", "none"] = "learned"
    """A learned row per frame, which starts at zero; `space` has none."""
    time_resize: TimeResize = "linear"
    """Resizing of that table for another number of frames at run time; `nearest` is the
    released code's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        frames = "a TimeSformer, whose steps need whole frames"
        require_off(self, patch_drop_rate=frames, merge_rate=frames)
        require(
            self.num_frames >= 1,
            "`num_frames` must be at least 1, the frames of a clip: got "
            f"{self.num_frames}.",
        )
        require(
            self.k_bias and not self.mlp_norm and self.norm == "layer",
            "`k_bias=False`, `mlp_norm` and `norm=rms` are of BEiT, EVA-02 and AIMv2, "
            "and a TimeSformer has none of them: leave them out.",
        )
        require(
            self.position not in IN_ATTENTION and self.position_at == "stem",
            "TimeSformer adds its positions to the tokens, once, at the stem: got "
            f"`position={self.position}` and `position_at={self.position_at}`.",
        )

    @property
    def steps(self) -> tuple[SpaceTimeStep, ...]:
        """Steps of a block, in order."""
        return STEPS[self.attention_type]

    @property
    def has_time_positions(self) -> bool:
        return self.time_position == "learned" and self.attention_type != "space"

    def num_step_prefix_tokens(self, step: SpaceTimeStep) -> int:
        """Return how many prefix tokens take part in a step: all, or none."""
        inside = not step.name or self.class_token_in == "every_step"
        return self.num_prefix_tokens if inside else 0

    def macs(
        self, image_size: Size2d | None = None, num_frames: int | None = None
    ) -> int:
        """Return the multiply-accumulates of one clip, attention products included.

        A local step also counts the products with keys of its rows that it then hides.

        Args:
            num_frames: frames of the clip; None for the config's own.
        """
        size = self.image_hw if image_size is None else to_2tuple(image_size)
        frames = self.num_frames if num_frames is None else num_frames
        extent = Extent(frames, *patch_grid(size, self.patch_hw))
        patches = math.prod(extent)
        copies = frames if self.attention_type == "space" else 1
        tokens = patches + copies * self.num_prefix_tokens
        layers = 3 if self.mlp == "swiglu" else 2
        block = tokens * layers * self.embed_dim * self.mlp_dim
        for step in self.steps:
            block += self._step_macs(step, extent)
            if step.name:
                block += (
                    patches + self.num_step_prefix_tokens(step)
                ) * self.embed_dim**2
        stem = frames * self._stem_macs(size)
        return stem + self.depth * block + self._head_macs(patches)

    def _step_macs(self, step: SpaceTimeStep, extent: Extent) -> int:
        prefix, patches = self.num_step_prefix_tokens(step), math.prod(extent)
        tokens, kind = prefix + patches, step.kind
        dense = self.embed_dim * self.attention_dim
        if kind == "strided":
            keys = prefix + math.prod(-(-side // STRIDE) for side in extent)
            products = tokens * keys
            linear = 2 * tokens + 2 * keys
        elif kind == "local":
            row = extent.frames * extent.columns
            reach = radii(Grid(extent.rows, extent.columns))[0]
            near = sum(
                min(at + reach, extent.rows - 1) - max(at - reach, 0) + 1
                for at in range(extent.rows)
            )
            products = row * (near * row + extent.rows * prefix) + prefix * tokens
            linear = 4 * tokens
        else:
            groups = 1 if kind == "clip" else _groups(kind, extent)
            tokens = groups * prefix + patches
            products = tokens**2 // groups
            linear = 4 * tokens
        return linear * dense + 2 * products * self.attention_dim


def _groups(along: Along, extent: Extent) -> int:
    return math.prod(extent[axis] for axis in GROUP_AXES[along][0])


def keys_per_query(
    attention_type: AttentionType, frames: int, grid: Grid
) -> tuple[int, ...]:
    """Return how many keys a patch sees in each step, far from the border.

    The class token is included, as in the paper; the released code has one less in
    time.
    """
    extent = Extent(frames, *grid)
    rows, columns = radii(grid)
    counts: dict[StepKind, int] = {
        "clip": math.prod(extent),
        "local": frames * (2 * rows + 1) * (2 * columns + 1),
        "strided": math.prod(-(-side // STRIDE) for side in extent),
        "time": frames,
        "space": grid.rows * grid.columns,
        "width": grid.columns,
        "height": grid.rows,
    }
    return tuple(counts[step.kind] + 1 for step in STEPS[attention_type])


def settings(size: str, **changes: int) -> dict[str, Any]:
    """Return the settings of the name timesformer_<size>16."""
    base = {"patch_size": 16, "image_size": 224, "num_frames": 8, "act": "gelu"}
    return {**SIZES[size], **base, **changes}


NAMES: dict[str, dict[str, Any]] = {
    "timesformer_ti16": settings("ti"),
    "timesformer_s16": settings("s"),
    "timesformer_b16": settings("b"),
    "timesformer_b16_hr": settings("b", image_size=448, num_frames=16),
    "timesformer_b16_long": settings("b", num_frames=96),
    "timesformer_l16": settings("l"),
}
"""The paper's TimeSformer, -HR and -L (here `_long`), and other sizes of its ViT."""
