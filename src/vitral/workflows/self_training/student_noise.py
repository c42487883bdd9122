"""The noise of a student (arXiv 1911.04252, section 2): what there is, and how much.

Noise of the input is augmentation, noise of the model is dropout and stochastic depth.
"""

import math

import vitral.models
from vitral.errors import ConfigError
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run

SMALLER_RATIO = 0.9
"""A student with a smaller share of its teacher's parameters is smaller."""
MODEL_NOISE_RATES = {
    "drop_rate": "dropout",
    "drop_path_rate": "stochastic depth",
    "patch_drop_rate": "dropped patches",
}


def describe_noise(config: TrainConfig) -> tuple[str, ...]:
    """Every kind of noise that a training has, in words."""
    augment, mix = config.augment, config.mix
    found = []
    if augment.rand_augment:
        found.append(
            f"RandAugment {augment.rand_augment} x {augment.rand_augment_magnitude}"
        )
    if augment.policy == "auto":
        found.append("AutoAugment")
    if augment.dihedral:
        found.append("symmetries")
    if augment.crop != "none" and augment.crop_area != (1.0, 1.0):
        found.append(f"{augment.crop} crop")
    others = ("flip", "shift", "rotate", "color_jitter", "random_erasing")
    found += [_format_rate(name, getattr(augment, name)) for name in others]
    found += [_format_rate(name, getattr(mix, name)) for name in ("mixup", "cutmix")]
    found += [
        f"{words} {rate:g}" if rate else ""
        for name, words in MODEL_NOISE_RATES.items()
        for rate in (_model_rate(config, name),)
    ]
    return tuple(kind for kind in found if kind)


def student_notes(config: TrainConfig, teacher: Run) -> list[str]:
    """What a user should know before the first round."""
    noise = describe_noise(config)
    notes = [f"noise of the student: {', '.join(noise)}"]
    if not noise:
        notes = [
            "the student learns without noise, so it can only repeat its teacher "
            "(arXiv 1911.04252, section 4.1): give it --rand-augment 2, dropout with "
            "--set drop_rate=0.1, or --drop-path 0.1"
        ]
    ours = _count_parameters(config, len(teacher.classes))
    theirs = sum(p.numel() for p in teacher.model.parameters())
    if 0 < ours < SMALLER_RATIO * theirs:
        notes.append(
            f"the student has {ours:,} parameters and the teacher {theirs:,}: in the "
            "paper it is equal or larger"
        )
    return notes


def _format_rate(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}" if value else ""


def _model_rate(config: TrainConfig, name: str) -> float:
    """The rate of the model that will be trained, 0 where it has none."""
    if name in config.model_changes:
        rate = config.model_changes[name]
        return float(rate) if isinstance(rate, int | float) else 0.0
    if not config.model or config.weights:
        return 0.0
    return float(getattr(vitral.models.get_config(config.model), name, 0.0))


def _count_parameters(config: TrainConfig, num_classes: int) -> int:
    """Of the student; 0 where only its weights know."""
    if not config.model or config.weights:
        return 0
    changes = {**config.model_changes, "num_classes": num_classes}
    if config.image_size:
        changes["image_size"] = config.image_size
    try:
        shapes = vitral.models.tensor_shapes(
            vitral.models.get_config(config.model, changes)
        )
    except ConfigError:
        return 0  # `train` says what is wrong with it
    return sum(math.prod(shape) for shape in shapes.values())
