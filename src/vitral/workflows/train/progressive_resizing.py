"""Progressive resolution: training on images that grow in equal parts of a run.

The size is a function of the update alone, so a resumed run sees the same; a larger
image shows the same crop. (arXiv 2104.00298; FixRes, 1906.06423.)
"""

from dataclasses import replace

from vitral.data import (
    AugmentConfig,
    Preprocess,
    Size,
    Transform,
    TransformSchedule,
    training_transform,
)
from vitral.errors import ConfigError
from vitral.models import ModelConfig, ViTConfig


def build_transform(
    sizes: tuple[Size, ...],
    augment: AugmentConfig,
    preprocess: Preprocess,
    *,
    seed: int,
    steps: int,
) -> Transform | TransformSchedule:
    """Return the transform of a run of `steps` updates, one per image size."""
    if len(sizes) > max(steps, 1):
        raise ConfigError(
            f"`resolutions` divide the run into {len(sizes)} parts, and it has {steps} "
            "updates: give fewer sizes, or train longer."
        )
    transforms = tuple(
        training_transform(
            augment, replace(preprocess, image_size=(size.height, size.width)), seed
        )
        for size in sizes
    )
    if len(transforms) == 1:
        return transforms[0]
    return TransformSchedule(transforms=transforms, batches=steps)


def image_sizes(
    resolutions: tuple[int, ...], model: ModelConfig, preprocess: Preprocess
) -> tuple[Size, ...]:
    """Return height and width of the training images in each part of the run.

    `resolutions` are heights; widths follow in the proportion of the model's image, to
    the nearest whole patch.

    Raises:
        ConfigError: a height is no multiple of the patch, or the last is another than
            the model's.
    """
    whole = Size(*preprocess.image_size)
    if not resolutions:
        return (whole,)
    patch = Size(*model.patch_hw) if isinstance(model, ViTConfig) else Size(1, 1)
    for height in resolutions:
        if height < patch.height or height % patch.height:
            raise ConfigError(
                "`resolutions` must be multiples of the patch, which is "
                f"{patch.height} pixels high: got {height}."
            )
    if resolutions[-1] != whole.height:
        raise ConfigError(
            f"The last of `resolutions` must be {whole.height}, the height of the "
            "model's images, which evaluation sees and positions are made for: got "
            f"{resolutions[-1]}. Set `image_size` to train for another one."
        )
    return tuple(
        Size(height, _scale_width(height, whole, patch.width)) for height in resolutions
    )


def _scale_width(height: int, full_size: Size, patch: int) -> int:
    return max(1, round(height * full_size.width / (full_size.height * patch))) * patch


def describe_sizes(sizes: tuple[Size, ...], steps: int) -> str:
    """Return from which update on images have which size, as text."""
    parts = len(sizes)
    # The first position whose share of the run reaches the part; see Stages.at.
    starts = [-(-part * steps // parts) for part in range(parts)]
    return ", ".join(
        f"{size.height} x {size.width} from update {start + 1}"
        for size, start in zip(sizes, starts, strict=True)
    )
