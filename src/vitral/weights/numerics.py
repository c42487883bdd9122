"""Constants that no file records: activation, epsilon, resizing, pixel statistics."""

from typing import Literal

from vitral.data import Preprocess
from vitral.layers.mlp import Activation
from vitral.layers.position import ResizeMethod
from vitral.models import ViTConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
ACTIVATIONS: dict[Activation, str] = {
    "gelu": "the exact GELU",
    "gelu_tanh": "the tanh form of GELU",
    "quick_gelu": "QuickGELU",
}
RESIZES: dict[ResizeMethod, str] = {
    "official": "the official code's bilinear zoom",
    "bilinear": "bilinear interpolation",
    "bicubic": "bicubic interpolation",
    "bicubic_antialias": "bicubic interpolation with a low-pass",
    "nearest": "the nearest row of the table",
    "nearest_flat": "the nearest row of the table as one long list",
    "geometric": "the geometric zoom of BEiT's authors",
}


def differences(
    config: ViTConfig,
    whose: str,
    *,
    act: Activation | None = "gelu",
    norm_eps: float | None = 1e-6,
    resize: ResizeMethod | None = None,
) -> list[str]:
    """Return a note for every constant in which a model differs from the loading code.

    Args:
        whose: the code, as a sentence calls it: "torchvision".
        act: its activation; None where its files record it. The others likewise.
    """
    notes = []
    if act not in (None, config.act) and config.mlp == "plain":
        notes.append(
            f"{whose} computes {ACTIVATIONS[act]}, this model "
            f"{ACTIVATIONS[config.act]}: logits differ slightly there"
        )
    if norm_eps not in (None, config.norm_eps):
        notes.append(
            f"{whose} has an epsilon of {norm_eps:g} in its LayerNorms, this model "
            f"{config.norm_eps:g}: logits differ slightly there"
        )
    if config.merge_rate:
        notes.append(
            f"{whose} merges no tokens, this model {config.merge_rate} in each block: "
            "logits differ there"
        )
    if resize not in (None, config.position_resize):
        notes.append(
            f"for images of another size {whose} resizes positions by "
            f"{RESIZES[resize]}, this model by {RESIZES[config.position_resize]}: "
            "logits differ slightly there"
        )
    return notes


def other_statistics(
    preprocess: Preprocess,
    whose: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    name: str = "ImageNet's mean and deviation",
) -> list[str]:
    """Return a note where code that fixes its statistics normalises by others."""
    if (preprocess.mean, preprocess.std) == (mean, std):
        return []
    return [
        f"{whose} keeps no pre-processing with its weights and normalises by {name}, "
        "which are not those of this model"
    ]


def imagenet_crop(
    image_size: tuple[int, int],
    fraction: float,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> Preprocess:
    """Return the pre-processing of most ImageNet models."""
    return Preprocess(
        image_size=image_size,
        resize="crop",
        crop_fraction=fraction,
        interpolation=interpolation,
        antialias=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def clip_crop(image_size: tuple[int, int]) -> Preprocess:
    """Return the pre-processing of CLIP: the shorter side resized, the centre cut."""
    return Preprocess(
        image_size=image_size,
        resize="crop",
        crop_fraction=1.0,
        interpolation="bicubic",
        antialias=True,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )
