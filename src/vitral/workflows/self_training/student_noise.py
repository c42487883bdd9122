"""Noise that a Noisy Student trains with (arXiv 1911.04252, section 2).

Input noise is augmentation; model noise is dropout, stochastic depth and patch dropout.
"""

import math

import vitral.models
from vitral.errors import ConfigError
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run
from vitral.workflows.train import resolve_model_config

SMALLER_RATIO = 0.9
"""A student with less than this share of its teacher's parameters gets a note."""
MODEL_NOISE_RATES = {
    "drop_rate": "dropout",
    "drop_path_rate": "stochastic depth",
    "patch_drop_rate": "dropped patches",
}


def describe_noise(config: TrainConfig) -> tuple[str, ...]:
    """Return a description of each noise of a training."""
    augment, mix = config.augment, config.mix
    noise = []
    if augment.rand_augment:
        noise.append(
            f"RandAugment {augment.rand_augment} x {augment.rand_augment_magnitude}"
        )
    if augment.policy == "auto":
        noise.append("AutoAugment")
    if augment.dihedral:
        noise.append("symmetries")
    if augment.crop != "none" and augment.crop_area != (1.0, 1.0):
        noise.append(f"{augment.crop} crop")
    rates = ("flip", "shift", "rotate", "color_jitter", "random_erasing")
    noise += [_format_rate(name, getattr(augment, name)) for name in rates]
    noise += [_format_rate(name, getattr(mix, name)) for name in ("mixup", "cutmix")]
    noise += [
        f"{label} {rate:g}" if rate else ""
        for name, label in MODEL_NOISE_RATES.items()
        for rate in (_model_rate(config, name),)
    ]
    return tuple(entry for entry in noise if entry)


def student_notes(config: TrainConfig, teacher: Run) -> list[str]:
    """Return notes for the user before the first round."""
    noise = describe_noise(config)
    notes = [f"noise of the student: {', '.join(noise)}"]
    if not noise:
        notes = [
            "the student learns without noise, so it can only repeat its teacher "
            "(arXiv 1911.04252, section 4.1): give it --rand-augment 2, dropout with "
            "--set drop_rate=0.1, or --drop-path 0.1"
        ]
    student_size = _count_parameters(config, len(teacher.classes))
    teacher_size = vitral.models.count_parameters(teacher.model)
    if 0 < student_size < SMALLER_RATIO * teacher_size:
        notes.append(
            f"the student has {student_size:,} parameters and the teacher "
            f"{teacher_size:,}: in the paper it is equal or larger"
        )
    return notes


def _format_rate(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:g}" if value else ""


def _model_rate(config: TrainConfig, name: str) -> float:
    """Return the rate of the model that will be trained; 0 if it has none."""
    if name in config.model_changes:
        rate = config.model_changes[name]
        return float(rate) if isinstance(rate, int | float) else 0.0
    if not config.model or config.weights:
        return 0.0
    return float(getattr(vitral.models.get_config(config.model), name, 0.0))


def _count_parameters(config: TrainConfig, num_classes: int) -> int:
    """Count the parameters of the student; 0 if they depend on a weights file."""
    if not config.model or config.weights:
        return 0
    try:
        model = resolve_model_config(config, num_classes, None)
        shapes = vitral.models.tensor_shapes(model)
    except ConfigError:
        return 0  # `train` raises it again
    return sum(math.prod(shape) for shape in shapes.values())
