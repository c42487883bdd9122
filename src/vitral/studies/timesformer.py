"""TimeSformer's five attention schemes on motion and on appearance (arXiv 2102.05095).

In the clips of vitral.data.sources.synthetic, only the motion, or only the pattern,
carries the label.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

import vitral.models
import vitral.weights
from vitral.atomic_io import write_atomic
from vitral.data import AugmentConfig, Preprocess
from vitral.data.sources import Label, moving_squares
from vitral.layers import Grid
from vitral.models import ViTConfig
from vitral.models.timesformer import STEPS, AttentionType, keys_per_query
from vitral.studies.engine import (
    STUDY_DIR,
    ResultTable,
    Size,
    Study,
    grid_trials,
    markdown_table,
)
from vitral.tasks import get_objective
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

MOTION: Label = "motion"
APPEARANCE: Label = "appearance"
TASKS: tuple[Label, ...] = (MOTION, APPEARANCE)
ATTENTION_TYPES: dict[str, AttentionType] = {
    "space only": "space",
    "joint": "joint",
    "divided": "divided",
    "local-global": "local_global",
    "axial": "axial",
}
FRAMES, HEIGHT, WIDTH, PATCH = 4, 16, 24, 4
NUM_CLIPS = 2_400
"""A quarter of them for test; the rest is too many for a small model to memorize."""
TINY = {
    "patch_size": PATCH,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_dim": 64,
    "act": "gelu",
}


def _cells(size: Size) -> list[tuple[str, str]]:
    """Return a cell per scheme and task; the paper's size has only Kinetics-400."""
    tasks = (MOTION,) if size == "paper" else TASKS
    return [(row, task) for task in tasks for row in ATTENTION_TYPES]


def prepare(size: Size, seeds: Sequence[int], folder: Path) -> None:
    """Write the clips of both tasks as .npz files, and an initial model per scheme and
    seed, unless an earlier start did."""
    if size == "paper":
        return
    for task in TASKS:
        _write_clips(task, folder / task)
    for attention_type in ATTENTION_TYPES.values():
        for seed in seeds:
            start = folder / "starts" / f"{attention_type}-{seed}"
            _write_initial_model(attention_type, seed, start)


def _write_clips(task: Label, folder: Path) -> None:
    if (folder / "complete").is_file():
        return
    clips = moving_squares(
        NUM_CLIPS, (HEIGHT, WIDTH), 0, label=task, frames=FRAMES, side=8, step=4
    )
    for index, (clip, label) in enumerate(zip(clips.clips, clips.labels, strict=True)):
        file = folder / "clips" / clips.classes[label] / f"{index:05d}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, frames=clip)
    write_atomic(folder / "complete", "")


def _write_initial_model(
    attention_type: AttentionType, seed: int, folder: Path
) -> None:
    """Write a model whose initial weights are large enough to learn motion.

    The published ones (0.02, time at zero) suit fine-tuning an image model.
    """
    if (folder / "config.json").is_file():
        return
    torch.manual_seed(seed)
    changes = {**TINY, "num_classes": 2, "image_size": (HEIGHT, WIDTH)}
    image = vitral.models.get_config("vit_ti16", changes)
    assert isinstance(image, ViTConfig)
    config = vitral.models.clip_config(image, FRAMES, attention_type)
    model = vitral.models.build_model(config)
    for name, parameter in model.named_parameters():
        if name in ("pos_embed", "time_embed"):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 2 and not name.startswith("head"):
            nn.init.xavier_uniform_(parameter)
    preprocess = Preprocess(image_size=(HEIGHT, WIDTH), resize="squash")
    vitral.weights.save(folder, model, preprocess.for_input(config.input_shape))


def _config(size: Size, row: str, task: str, seed: int) -> TrainConfig:
    attention_type = ATTENTION_TYPES[row]
    if size == "paper":
        return _kinetics_config(attention_type, seed)
    return TrainConfig(
        data=f"{STUDY_DIR}/{task}/clips",
        recipe="study",
        val=0.1,
        test=0.25,
        weights=f"{STUDY_DIR}/starts/{attention_type}-{seed}",
        batch_size=64,
        seed=seed,
        augment=AugmentConfig(flip=0.0),
        objective=get_objective("supervised", loss="softmax"),
        optim=OptimConfig(lr=2e-3, weight_decay=0.01),
        schedule=ScheduleConfig(warmup=20),
        loop=LoopConfig(steps=150, log_every=50),
    )


def _kinetics_config(attention_type: AttentionType, seed: int) -> TrainConfig:
    """Return the released settings, except their two-step rate schedule."""
    return TrainConfig(
        data="kinetics400",
        recipe="study",
        model="timesformer_b16",
        model_changes={"attention_type": attention_type, "drop_path_rate": 0.1},
        image_size=224,
        batch_size=64,
        epochs=15.0,
        seed=seed,
        augment=AugmentConfig(crop="inception", crop_area=(0.5, 1.0), flip=0.5),
        objective=get_objective("supervised", loss="softmax"),
        optim=OptimConfig(optimizer="sgd", lr=0.005, weight_decay=1e-4),
        loop=LoopConfig(precision="bf16", accumulate=8),
    )


def verdict(table: ResultTable) -> str:
    """List the schemes that learn motion, those at chance, and appearance."""
    motion = {row: table.cell_stats(row, MOTION).mean for row in table.rows}
    able = [row for row, share in motion.items() if share >= 0.9]
    chance = [row for row, share in motion.items() if share < 0.6]
    sentences = [
        f"Motion is learned to 90 % or more by {_join_names(able)}; at chance (below "
        f"60 % of two classes) stays {_join_names(chance)}."
    ]
    if chance == ["space only"]:
        sentences.append(
            "Only frames seen apart cannot tell left from right, as the paper's "
            "Something-Something results suggest."
        )
    elif "space only" not in chance:
        sentences.append("Space only is above chance, which it cannot be: look for it.")
    if APPEARANCE in table.columns:
        appearance = {row: table.cell_stats(row, APPEARANCE).mean for row in table.rows}
        missing = [row for row, share in appearance.items() if share < 0.9]
        if missing:
            sentences.append(
                f"Appearance is not learned to 90 % by {_join_names(missing)}."
            )
        else:
            sentences.append("Appearance is learned by all to 90 % or more.")
    return " ".join(sentences)


def notes(size: Size) -> list[str]:
    """Return a table of keys per query, here and at the paper's 8 x 14 x 14."""
    grid_here = Grid(HEIGHT // PATCH, WIDTH // PATCH)
    lines = [
        "Keys that a patch far from the border sees, class token included, in each "
        "step of a block:",
        "",
    ]
    header = [
        "scheme",
        f"{FRAMES} x {grid_here.rows} x {grid_here.columns}",
        "8 x 14 x 14",
    ]
    rows = []
    for row, attention_type in ATTENTION_TYPES.items():
        counts = (
            " + ".join(map(str, keys_per_query(attention_type, frames, grid)))
            for frames, grid in ((FRAMES, grid_here), (8, Grid(14, 14)))
        )
        rows.append([f"{row} ({len(STEPS[attention_type])})", *counts])
    return [*lines, *markdown_table(header, rows)]


def _join_names(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


STUDY = Study(
    name="timesformer",
    question=(
        "Which of the five schemes of attention in space and time learns what only the "
        "order of frames shows?"
    ),
    source="arXiv 2102.05095, table 1",
    setting={
        "cpu": (
            f"{NUM_CLIPS:,} generated clips of {FRAMES} frames of {HEIGHT} x {WIDTH} "
            "pixels: a square of 8 pixels with one of two patterns crosses the frame "
            "over noise, and a clip to the left is one to the right with its frames in "
            "reverse order (`vitral.data.sources.synthetic`). The same clips are "
            "classified by motion and by pattern. A TimeSformer of 2 blocks and width "
            "32 is trained for 150 steps of 64 clips from zero. Its first weights are "
            "larger than the published ones (Xavier, positions of deviation 0.5), "
            "which are made for the weights of an image model."
        ),
        "paper": (
            "TimeSformer-B/16 on Kinetics-400, 8 frames at 224 pixels, 15 epochs, from "
            "zero or with `weights` of an image model; the clips are looked for in the "
            "folder kinetics400."
        ),
    },
    trials=grid_trials(_cells, _config),
    verdict=verdict,
    prepare=prepare,
    notes=notes,
    row_header="scheme",
    paper_values={
        ("space only", MOTION): 0.366,
        ("joint", MOTION): 0.585,
        ("divided", MOTION): 0.595,
        ("local-global", MOTION): 0.563,
        ("axial", MOTION): 0.562,
        ("space only", APPEARANCE): 0.769,
        ("joint", APPEARANCE): 0.774,
        ("divided", APPEARANCE): 0.780,
        ("local-global", APPEARANCE): 0.759,
        ("axial", APPEARANCE): 0.735,
    },
    paper_note=(
        "TimeSformer-B/16 on Something-Something-V2, where motion matters, beside our "
        "motion, and on Kinetics-400, where appearance does, beside our appearance."
    ),
)
