"""Progressive resolution: training on images that grow in equal parts of a run.

The size of a batch is a function of its place in the run alone, so a resumed run and
any number of workers see the same. What is drawn for an image knows nothing of the
size: a larger image shows the same crop. (arXiv 2104.00298; FixRes, 1906.06423.)
"""

from dataclasses import replace

from vitral.data import (
    Preprocess,
    Size,
    Transform,
    TransformSchedule,
    training_transform,
)
from vitral.errors import ConfigError
from vitral.models import ModelConfig, ViTConfig
from vitral.workflows.config import TrainConfig


def build_transform(
    config: TrainConfig, model: ModelConfig, preprocess: Preprocess, steps: int
) -> Transform | TransformSchedule:
    """Return the transform of a run of `steps` updates, one per image size.

    Raises:
        ConfigError: `resolutions` do not fit the model, or are more than the updates.
    """
    sizes = image_sizes(config, model, preprocess)
    if len(sizes) > steps:
        raise ConfigError(
            f"`resolutions` divide the run into {len(sizes)} parts, and it has {steps} "
            "updates: give fewer sizes, or train longer."
        )
    transforms = tuple(
        training_transform(
            config.augment,
            replace(preprocess, image_size=(size.height, size.width)),
            config.seed,
        )
        for size in sizes
    )
    if len(transforms) == 1:
        return transforms[0]
    return TransformSchedule(transforms=transforms, batches=steps)


def image_sizes(
    config: TrainConfig, model: ModelConfig, preprocess: Preprocess
) -> tuple[Size, ...]:
    """Height and width of the training images in each part of the run.

    `resolutions` are heights; widths follow in the proportion of the model's image, to
    the nearest whole patch.

    Raises:
        ConfigError: a height is no multiple of the patch, or the last is another than
            the model's.
    """
    whole = Size(*preprocess.image_size)
    if not config.resolutions:
        return (whole,)
    patch = Size(*model.patch_hw) if isinstance(model, ViTConfig) else Size(1, 1)
    for height in config.resolutions:
        if height < patch.height or height % patch.height:
            raise ConfigError(
                "`resolutions` must be multiples of the patch, which is "
                f"{patch.height} pixels high: got {height}."
            )
    if config.resolutions[-1] != whole.height:
        raise ConfigError(
            f"The last of `resolutions` must be {whole.height}, the height of the "
            "model's images, which evaluation sees and positions are made for: got "
            f"{config.resolutions[-1]}. Set `--image-size` to train for another one."
        )
    return tuple(
        Size(height, _scale_width(height, whole, patch.width))
        for height in config.resolutions
    )


def _scale_width(height: int, full_size: Size, patch: int) -> int:
    return max(1, round(height * full_size.width / (full_size.height * patch))) * patch


def describe_sizes(sizes: tuple[Size, ...], steps: int) -> str:
    """For people: from which update on images have which size."""
    parts = len(sizes)
    # The first position whose share of the run reaches the part; see Stages.at.
    starts = [-(-part * steps // parts) for part in range(parts)]
    return ", ".join(
        f"{size.height} x {size.width} from update {start + 1}"
        for size, start in zip(sizes, starts, strict=True)
    )
