"""The fine-tuning of "An Image is Worth 16x16 Words" (arXiv 2010.11929, table 4)."""

from dataclasses import dataclass

import vitral.data
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.recipes.vit_pretraining import INCEPTION
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig


@dataclass(frozen=True, slots=True)
class Table4Row:
    """A row of table 4, and the share of train that selects the learning rate."""

    steps: int
    lr_grid: tuple[float, ...]
    dev_share: float


TABLE_4 = {
    "imagenet": Table4Row(20_000, (0.003, 0.01, 0.03, 0.06), 0.01),
    "cifar100": Table4Row(10_000, (0.001, 0.003, 0.01, 0.03), 0.02),
    "cifar10": Table4Row(10_000, (0.001, 0.003, 0.01, 0.03), 0.02),
    "oxford_iiit_pet": Table4Row(500, (0.001, 0.003, 0.01, 0.03), 0.1),
    "flowers102": Table4Row(500, (0.001, 0.003, 0.01, 0.03), 0.1),
    "vtab": Table4Row(2_500, (0.01,), 0.2),
}
"""Steps, grid of learning rates, and dev split of each data set.

All 19 tasks of VTAB-1k share a row; their val split of 200 of 1,000 images is given.
"""


def row_for(data: str, num_images: int) -> Table4Row:
    """Return the paper's row for a named set, else that of the set nearest in size."""
    if data in TABLE_4:
        return TABLE_4[data]
    if data in vitral.data.NAMES and data.startswith("vtab/"):
        return TABLE_4["vtab"]
    if num_images < 20_000:
        return TABLE_4["oxford_iiit_pet"]
    return TABLE_4["cifar100" if num_images < 500_000 else "imagenet"]


def finetune(data: str, weights: str) -> TrainConfig:
    """Fine-tune as in table 4: SGD with momentum, cosine, no decay, 384 pixels.

    Command: `vitral train cifar10 --recipe vit.finetune --weights B_16.safetensors
    --out runs/cifar10`
    Cost: for ViT-B/16 on CIFAR-10, 10,000 steps of 512 images at 384 pixels: 5.5e10
    multiply-accumulates forward x 5.1e6 images; a matter of GPU-hours, not of a laptop.
    Expect: the paper's own numbers need the paper's weights; none was run here.

    `--lr` selects from `TABLE_4[data].lr_grid`; the default is the rate of the released
    configuration. The gradient is clipped at 1.
    """
    facts = summarize_dataset(data)
    row = row_for(data, facts.num_images)
    return TrainConfig(
        data=data,
        recipe="vit.finetune",
        expected="not measured here",
        weights=weights,
        image_size=384,
        model_changes={"position_resize": "official"},
        preprocess_changes={"resize": "squash", "crop_fraction": 1.0},
        batch_size=512,
        val=row.dev_share,
        augment=INCEPTION,
        objective=facts.objective(),
        optim=OptimConfig(optimizer="sgd", lr=0.01, momentum=0.9, clip_norm=1.0),
        schedule=ScheduleConfig(warmup=min(500, row.steps // 5)),
        loop=LoopConfig(
            steps=row.steps,
            accumulate=8,
            precision="bf16",
            eval_every=max(row.steps // 10, 1),
            checkpoint_every=max(row.steps // 10, 1),
        ),
    )
