"""Interface of every model family: settings, forward pass in parts, freezing.

A family is one module of this package with a `FAMILY`. Other packages use the names
below and no family's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.position import Grid
from vitral.models.bounds import check_bounds
from vitral.models.features import Features, Images, PatchMask, Tokens

Size2d = int | tuple[int, int]

HEADS = ("head", "head_dist")
"""Prefixes of the parameters that give logits, which a linear probe trains."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """Settings of every family."""

    image_size: Size2d = 224
    """Pixels, (height, width) or one number: the grid that the positions are made for.
    Images of any other size are accepted at run time."""
    in_chans: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Width of the head; 0 leaves the head out."""
    head_bias: float = 0.0
    """First value of the head's bias; -10 for sigmoid pre-training on many classes."""

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return to_2tuple(self.image_size)

    @property
    def num_frames(self) -> int:
        """Frames of a clip; 0 for a model that takes images."""
        return 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: [channels, height, width], before it the frames."""
        frames = (self.num_frames,) if self.num_frames else ()
        return (*frames, self.in_chans, *self.image_hw)

    @property
    def num_patches(self) -> int:
        """Patches of one input, those of all frames."""
        return self.grid.rows * self.grid.columns * max(1, self.num_frames)

    def describe_input(self) -> str:
        """Return the size of one input, such as `8 frames of 224 x 224 pixels`."""
        frames = f"{self.num_frames} frames of " if self.num_frames else ""
        return f"{frames}{self.image_hw[0]} x {self.image_hw[1]} pixels"

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Rows and columns of the patches (or features) of an image of `image_hw`."""

    @property
    @abstractmethod
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""

    @property
    @abstractmethod
    def pooled_dim(self) -> int:
        """Width of the input of the head, or of the layer before it."""

    @property
    @abstractmethod
    def num_blocks(self) -> int:
        """Number of consecutive parts that can be frozen or get a learning rate."""

    @abstractmethod
    def macs(self, image_size: Size2d | None = None) -> int:
        """Return the multiply-accumulates of one image, attention products included."""


class VisionModel(nn.Module, ABC):
    """A classifier in parts: embed, forward_blocks, forward_norm, forward_pool, head.

    `model(images)` gives logits; `forward_head(forward_features(images))` the same.
    Inputs are images [batch, channels, height, width], or clips
    [batch, frames, channels, height, width] where `config.num_frames` is not 0.
    """

    config: ModelConfig
    head: nn.Module
    num_frozen_blocks: int | None
    fixed: ClassVar[bool] = False
    """True if its function cannot be changed, as of an exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.num_frozen_blocks = None

    @abstractmethod
    def embed(self, image: Images, patch_mask: PatchMask | None = None) -> Tokens:
        """Compute the tokens that enter the first block from pixels."""

    @abstractmethod
    def forward_blocks(
        self, tokens: Tokens, first: int = 0, last: int | None = None
    ) -> Tokens:
        """Apply the blocks from `first` up to, not including, `last`."""

    @abstractmethod
    def forward_norm(self, tokens: Tokens) -> Features:
        """Apply the final norm, and arrange the tokens in the image's geometry."""

    @abstractmethod
    def forward_pool(self, features: Features) -> Float[Tensor, "batch dim"]:
        """Return the input of the head: one vector per image."""

    @abstractmethod
    def reset_head(self, num_classes: int) -> None:
        """Replace the head: zero weights, so that every class starts equal."""

    @abstractmethod
    def layer_index(self, name: str) -> int:
        """Return a parameter's depth: 0 stem, 1 ... num_blocks, then the rest."""

    def forward_features(
        self, image: Images, patch_mask: PatchMask | None = None
    ) -> Features:
        """Return class token and patches after the final norm."""
        return self.forward_norm(self.forward_blocks(self.embed(image, patch_mask)))

    def forward_head(self, features: Features) -> Float[Tensor, "batch classes"]:
        """Return the logits of the features."""
        return self.head(self.forward_pool(features))

    def forward_tokens(
        self, tokens: Tokens, first: int = 0
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits of the tokens that enter block `first`."""
        return self.forward_head(self.forward_norm(self.forward_blocks(tokens, first)))

    def forward(
        self, image: Images, patch_mask: PatchMask | None = None
    ) -> Float[Tensor, "batch classes"]:
        return self.forward_tokens(self.embed(image, patch_mask))

    def freeze(self, num_blocks: int) -> None:
        """Freeze the stem and the first `num_blocks` blocks.

        With all blocks frozen only the head is trained: a linear probe.

        Raises:
            ConfigError: the model has fewer blocks.
        """
        depth = self.config.num_blocks
        if not 0 <= num_blocks <= depth:
            raise ConfigError(
                f"`freeze` must lie between 0 (the stem) and {depth} (all blocks): got "
                f"{num_blocks}."
            )
        self.num_frozen_blocks = num_blocks
        for name, parameter in self.named_parameters():
            frozen = self.layer_index(name) <= num_blocks
            if num_blocks == depth and name.split(".")[0] not in HEADS:
                frozen = True
            parameter.requires_grad_(not frozen)
        self.train(self.training)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models."""

    title: str
    """Name in messages: "A Vision Transformer"."""
    source: str
    """arXiv number of its publication."""
    config: type[ModelConfig]
    model: Callable[[Any], VisionModel]
    """Builds the model of a config, with fresh weights."""
    sizes: Mapping[str, Mapping[str, Any]]
    """Listed names, with the settings of each."""
    size_fields: tuple[str, ...]
    """Settings that distinguish two models of the family in size."""
    parse_name: Callable[[str], dict[str, Any] | None] = lambda name: None
    """Parses other names of these models to settings: timm's, Hugging Face's, own
    patterns."""
    name_for: Callable[[Any], str] | None = None
    """Returns the name of a config, where `sizes` does not list all names."""
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    """Current names of the config's fields, by the names of older files."""

    def rename_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` under their current names; a value under an old name wins."""
        renamed = self.renamed_fields
        current = {name: fields[name] for name in fields if name not in renamed}
        return current | {
            new: fields[old] for old, new in renamed.items() if old in fields
        }

    def resolve_name(self, name: str) -> dict[str, Any] | None:
        """Return the settings of `name`; None if it is not of this family."""
        return dict(self.sizes[name]) if name in self.sizes else self.parse_name(name)

    def get_name(self, config: ModelConfig) -> str:
        """Return the name of a model of these sizes, of any image size, or ""."""
        if self.name_for is not None:
            return self.name_for(config)
        return find_size(config, self.sizes)


def find_size(config: ModelConfig, sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first of `sizes` that a config has, at any image size, or ""."""
    for name, settings in sizes.items():
        fields = settings.keys() - {"image_size"}
        if all(_pair(getattr(config, key)) == _pair(settings[key]) for key in fields):
            return name
    return ""


def _pair(setting: Any) -> tuple[Any, ...]:
    # (16, 16) equals 16.
    return setting if isinstance(setting, tuple) else (setting, setting)


def to_2tuple(size: Size2d) -> tuple[int, int]:
    """Return (height, width) of a size that may be one number."""
    return size if isinstance(size, tuple) else (size, size)


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Return the number of parameters; with `trainable` those that get a gradient."""
    return sum(
        p.numel() for p in module.parameters() if p.requires_grad or not trainable
    )


def require_input(config: ModelConfig, image: Tensor) -> None:
    """Refuse anything but a batch of images, or of clips, of the model's channels."""
    shape = list(image.shape)
    if config.num_frames:
        require(
            image.ndim == 5,
            "The model takes clips [batch, frames, channels, height, width]: got "
            f"{shape}. Images become clips of one frame by `images[:, None]`.",
        )
        require(
            shape[1] > 0,
            f"A clip must have at least one frame: got {shape}, which has none.",
        )
    else:
        require(
            image.ndim == 4,
            f"The model takes images [batch, channels, height, width]: got {shape}. "
            "The frames of clips become images by `clips.flatten(0, 1)`; a model for "
            "clips is `timesformer_b16`.",
        )
    require(
        shape[-3] == config.in_chans,
        f"The model takes images of {config.in_chans} channels: got {shape[-3]}. "
        "Convert the images, or build with `in_chans`.",
    )


def require_off(config: ModelConfig, **conflicts: str) -> None:
    """Refuse settings other than 0, by name; `conflicts` say what they break."""
    for name, conflict in conflicts.items():
        value = getattr(config, name)
        require(
            value == 0,
            f"`{name}` cannot be used with {conflict}: set it to 0, got {value}.",
        )


def require(holds: bool, message: str) -> None:
    """Raise ConfigError with `message` unless the condition holds."""
    if not holds:
        raise ConfigError(message)
