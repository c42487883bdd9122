"""ResNet against ViT on growing data sets (arXiv 2010.11929, figure 4).

Models of about equal compute are trained from zero on nested subsets with one recipe.
The subsets are tables with PNG images in the study's folder; the data is only read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vitral.data
from vitral.data import AugmentConfig, Dataset, Example
from vitral.errors import ConfigError, DataError
from vitral.objectives import SupervisedConfig
from vitral.studies.engine import (
    ResultTable,
    Trial,
    describe_leaders,
    nested_order,
    subset_sizes,
    write_image_table,
)
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

HELD_OUT = {"test": 0.4, "val": 0.1}
STEPS = 400
BATCH = 50
IMAGE_SIZE = 28
DISPLAY_NAMES = {"vit": "ViT", "resnet": "ResNet"}
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_ti7",
        {
            "embed_dim": 64,
            "depth": 4,
            "num_heads": 4,
            "mlp_dim": 128,
            "class_token": False,
            "global_pool": "avg",
        },
    ),
    "resnet": ("bit_r26x1", {"units": (1, 1), "stem_width": 24, "num_groups": 8}),
}
"""Name and config changes; each about 2.4 million multiply-accumulates per image."""


@dataclass(frozen=True, slots=True)
class FamiliesPlan:
    """Trials of the study, with the sizes of the subsets."""

    trials: list[Trial]
    sizes: tuple[int, ...]
    families: tuple[str, ...]
    test_images: int


def plan_families(
    families: Sequence[str],
    data: str,
    seeds: Sequence[int],
    *,
    fractions: Sequence[float],
    folder: Path,
) -> FamiliesPlan:
    """Write the subsets of each seed, and list a trial per size and family.

    Each seed has its own split: 40 % test, 10 % val to choose the best step, and the
    rest for the subsets. Val and test are the same for all sizes.

    Args:
        fractions: of the rest; empty for six sizes in equal ratios.
        folder: gets `tables/`.

    Raises:
        ConfigError: an unknown family, fewer than two, or no seed.
        DataError: several labels per image, an image that cannot be decoded, or a class
            with too few images.
    """
    unknown = [family for family in families if family not in MODELS]
    if unknown or len(set(families)) < 2 or len(set(families)) < len(families):
        raise ConfigError(
            f"`--families` compares two or more of {', '.join(MODELS)}: got "
            f"{', '.join(families) or 'none'}."
        )
    if not seeds:
        raise ConfigError("`--seeds` needs one seed at least.")
    dataset = vitral.data.open(data)
    if dataset.multi_label or any(example.target for example in dataset.examples):
        raise DataError(
            f"The images of {dataset.name} have several labels each; this study "
            "compares families with one label an image."
        )
    tables = folder / "tables"
    trials: list[Trial] = []
    for seed in seeds:
        parts = _split(dataset, seed)
        labels = np.array([example.label[0] for example in parts["train"]])
        sizes = subset_sizes(labels, dataset.classes, fractions)
        order = nested_order(labels, seed)
        for size in sizes:
            subset = [parts["train"][row] for row in order[:size]]
            table = write_image_table(
                tables, f"seed-{seed}-{size}", dataset, {**parts, "train": subset}
            )
            trials += [
                Trial(
                    row=f"{size:,} images",
                    column=DISPLAY_NAMES[family],
                    seed=seed,
                    config=_config(family, table, seed),
                )
                for family in families
            ]
    names = tuple(DISPLAY_NAMES[family] for family in families)
    return FamiliesPlan(trials, sizes, names, len(parts["test"]))


def families_verdict(plan: FamiliesPlan, table: ResultTable) -> str:
    """Compare the families at each size, and with the paper's figure 4."""
    sentences = describe_leaders(
        plan.families,
        plan.sizes,
        lambda first, second, size: table.difference(
            (f"{size:,} images", first), (f"{size:,} images", second)
        ),
    )
    return (
        " ".join(sentences) + " In the paper ResNets are ahead after pre-training on 9 "
        "million images, and ViTs from 90 million on; these are tiny models on a few "
        "thousand, so only the direction can be compared."
    )


def _config(family: str, table: Path, seed: int) -> TrainConfig:
    model, changes = MODELS[family]
    return TrainConfig(
        data=str(table),
        recipe="study",
        model=model,
        model_changes=changes,
        image_size=IMAGE_SIZE,
        batch_size=BATCH,
        seed=seed,
        augment=AugmentConfig(flip=0.0, shift=0.06),
        objective=SupervisedConfig(loss="softmax"),
        optim=OptimConfig(lr=3e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=STEPS // 10),
        loop=LoopConfig(steps=STEPS, log_every=50, eval_every=50),
    )


def _split(dataset: Dataset, seed: int) -> dict[str, list[Example]]:
    """Draw a stratified split, ignoring the data set's own splits."""
    labels = np.array([example.label[0] for example in dataset.examples])
    order = nested_order(labels, 1_000_003 + seed)
    parts: dict[str, list[Example]] = {}
    first = 0
    for name, share in HELD_OUT.items():
        last = first + round(share * len(order))
        parts[name] = [dataset.examples[row] for row in order[first:last]]
        first = last
    parts["train"] = [dataset.examples[row] for row in order[first:]]
    return parts
