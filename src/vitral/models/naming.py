"""From a name to a model: ours, or timm's and Hugging Face's for the same thing."""

import dataclasses
import difflib
import re
from typing import Any, NamedTuple

from vitral import configs
from vitral.errors import ConfigError
from vitral.models.vit import ViT
from vitral.models.vit_config import PATCH_SIZES, SIZES, Size2d, ViTConfig

OUR_NAME = re.compile(rf"vit_({'|'.join(SIZES)})(\d+)")
FOREIGN_SIZES = {
    "tiny": "ti",
    "small": "s",
    "medium": "m",
    "base": "b",
    "large": "l",
    "so400m": "so400m",
    "huge": "h",
    "giant": "giant",
    "gigantic": "gigantic",
}
"""The word that timm and Hugging Face use for each of our sizes."""
TIMM_NAME = re.compile(
    rf"vit_({'|'.join(FOREIGN_SIZES)})_patch(\d+)"
    r"(_reg4)?(?:_(\d+)|_(dinov2))?(?:\.[\w.]+)?"
)
HUGGING_FACE_NAME = re.compile(
    rf"(?:google|facebook)/(?:dino-)?vit-?({'|'.join(FOREIGN_SIZES)})"
    r"-patch(\d+)(?:-(\d+))?(?:-in21k)?"
)


class Named(NamedTuple):
    """A model name as understood: our name, and what else the name says."""

    name: str
    changes: dict[str, Any]


def names() -> list[str]:
    """The name of every model, sizes by patches."""
    return [f"vit_{size}{patch}" for size in SIZES for patch in PATCH_SIZES]


def resolve(name: str) -> Named:
    """Our name of a model, and the settings that a foreign name implies.

    Raises:
        ConfigError: nobody's name; the nearest ones are in the message.
    """
    if OUR_NAME.fullmatch(name):
        return Named(name, {})
    if match := TIMM_NAME.fullmatch(name):
        size, patch, registers, pixels, dinov2 = match.groups()
        changes: dict[str, Any] = {"act": "gelu", "image_size": int(pixels or 224)}
        if dinov2:
            changes |= {"image_size": 518, "init_values": 1e-5}
        if registers:
            changes |= {"reg_tokens": 4, "no_embed_class": True}
        return Named(f"vit_{FOREIGN_SIZES[size]}{patch}", changes)
    if match := HUGGING_FACE_NAME.fullmatch(name):
        size, patch, pixels = match.groups()
        changes = {"act": "gelu", "norm_eps": 1e-12, "image_size": int(pixels or 224)}
        return Named(f"vit_{FOREIGN_SIZES[size]}{patch}", changes)
    near = difflib.get_close_matches(name, names(), n=3, cutoff=0.3)
    raise ConfigError(
        f"Unknown model `{name}`. The nearest names are {', '.join(near)}; "
        "`vitral models` lists all."
        if near
        else f"Unknown model `{name}`; `vitral models` lists all."
    )


def config(name: str, changes: dict[str, Any] | None = None) -> ViTConfig:
    """The settings of a named model, with `changes` to its fields on top."""
    named = resolve(name)
    match = OUR_NAME.fullmatch(named.name)
    assert match is not None
    fields = {**SIZES[match[1]], "patch_size": int(match[2]), **named.changes}
    if "image_size" not in {**named.changes, **(changes or {})}:
        # 224 where the patch divides it, else the nearest size below that it does.
        fields["image_size"] = max(224 // int(match[2]), 1) * int(match[2])
    fields |= changes or {}
    known = {field.name for field in dataclasses.fields(ViTConfig)}
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"A Vision Transformer has no setting `{field}`. Did you mean "
                f"`{near[0]}`?"
            )
    return configs.from_plain(ViTConfig, fields, f"The model `{name}`")


def name_of(config: ViTConfig) -> str:
    """The name of a model's size and patch; empty if it has none."""
    rows, columns = config.patch_hw
    for size, numbers in SIZES.items():
        same = all(getattr(config, field) == n for field, n in numbers.items())
        if same and rows == columns:
            return f"vit_{size}{rows}"
    return ""


def create(
    name: str,
    num_classes: int = 1000,
    image_size: Size2d | None = None,
    **config_changes: Any,
) -> ViT:
    """A model with fresh weights, initialised as in the paper's released code.

    Args:
        name: `vit_` + size + patch, such as `vit_b16`; see `names()`.
        image_size: pixels, (height, width) or one number; None for the name's own.
        config_changes: fields of ViTConfig; an unknown one is an error.
    """
    changes = {"num_classes": num_classes, **config_changes}
    if image_size is not None:
        changes["image_size"] = image_size
    return ViT(config(name, changes))
