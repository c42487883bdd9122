"""A small data set of rectangular photos, and settings that learn it in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from vitral.data import AugmentConfig
from vitral.tasks.classification.labels import ClassLabels
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.weights import read
from vitral.workflows import TrainConfig
from vitral.workflows.train.build import ModelBundle, build_model
from vitral.workflows.train.build_objective import build_objective
from vitral.workflows.train.plan import resolve_model_config

CLASSES = ("blue stripes", "green", "red 2")
COLOURS = ((40, 60, 190), (60, 180, 70), (200, 50, 40))


def photo(label: int, number: int, height: int = 40, width: int = 56) -> Image.Image:
    """A colour with noise; blue ones have stripes. Every ninth shows another class."""
    generator = np.random.default_rng([label, number])
    label += number % 9 == 0
    pixels = generator.normal(COLOURS[label % 3], 25, (height, width, 3))
    if label % 3 == 0:
        pixels[::8] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def noise(height: int = 50, width: int = 70) -> Image.Image:
    """Random pixels that the size alone decides."""
    generator = np.random.Generator(np.random.Philox(key=height * 1000 + width))
    pixels = generator.integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def make_noise(root: Path, images: int) -> Path:
    """ROOT/class/number.png of three classes; no two images have one size."""
    generator = np.random.Generator(np.random.Philox(key=7))
    for number in range(images):
        path = root / f"class {number % 3}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (50 + number, 70 - number, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def make_photos(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "val", "test"),
    classes: tuple[str, ...] = CLASSES,
    per_class: int = 20,
) -> Path:
    """ROOT/split/class/number.png; without splits, ROOT/class/number.png."""
    number = 0
    for split in splits or ("",):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            label = CLASSES.index(name) if name in CLASSES else len(name)
            for index in range(per_class):
                number += 1
                photo(label, number).save(folder / f"{index}.png")
    return root


def tiny_config(data: Path | str, **changes: Any) -> TrainConfig:
    """A ViT of two narrow blocks on 2 x 3 patches; `loop` takes fields of its own."""
    loop = {"eval_every": 8, "log_every": 4, "checkpoint_every": 8, "ema": 0.9}
    loop |= {"ema_warmup": True, **changes.pop("loop", {})}
    fields: dict[str, Any] = {
        "model": "vit_mu16",
        "model_changes": {"depth": 2},
        "image_size": (32, 48),
        "batch_size": 15,
        "epochs": 8.0,
        "seed": 3,
        "augment": AugmentConfig(shift=0.1),
        "optim": OptimConfig(lr=3e-3, weight_decay=0.05),
        "schedule": ScheduleConfig(warmup=0),
    }
    return TrainConfig(data=str(data), **{**fields, **changes}, loop=LoopConfig(**loop))


def contents(root: Path) -> dict[str, bytes]:
    """Every file below `root` by its relative path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def prepare_model(config: TrainConfig, classes: tuple[str, ...]) -> ModelBundle:
    """Build the model of a run, as `train` does."""
    source = read(config.weights) if config.weights else None
    if not config.objective.LABELS:
        classes = ()
    model = resolve_model_config(config, len(classes), source)
    return build_model(
        model,
        source,
        classes,
        seed=config.seed,
        freeze=config.freeze,
        preprocess_changes=config.preprocess_changes,
    )


def prepare_objective(
    config: TrainConfig, prepared: ModelBundle, classes: tuple[str, ...]
) -> nn.Module:
    """Build the objective of a run, as `train` does."""
    return build_objective(
        config.objective,
        prepared.model,
        prepared.preprocess,
        classes,
        labels=ClassLabels(names=classes),
        seed=config.seed + 1,
        fresh=not config.weights,
        cached=config.cache,
    )
