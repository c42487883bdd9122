"""The report and the model card of a synthetic run with every file of the contract."""

import csv
import json
from pathlib import Path

import numpy as np

from vitral.evaluation import classify, write_predictions

SCRIPT = "<script>alert(1)</script>"


def class_names(num_classes: int) -> list[str]:
    known = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
    return [
        known[i] if i < len(known) else f"class {i:03d}" for i in range(num_classes)
    ]


def make_logits(
    labels: np.ndarray, num_classes: int, skill: float, generator: np.random.Generator
) -> np.ndarray:
    """Over-confident logits of a model that mixes up neighbouring classes."""
    logits = generator.normal(size=(len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += skill
    logits[np.arange(len(labels)), (labels + 1) % num_classes] += skill * 0.45
    return 1.6 * logits


def write_metrics(folder: Path, steps: int, generator: np.random.Generator) -> None:
    rows: list[dict] = [
        {"event": "note", "step": 0, "text": "position table resized from 14x14 to 3x5"}
    ]
    for step in range(10, steps + 1, 10):
        progress = step / steps
        warm = min(step / 60, 1.0)
        rows.append(
            {
                "event": "train",
                "step": step,
                "epoch": round(progress * 20, 3),
                "loss": 0.12
                + 2.2 * float(np.exp(-5 * progress))
                + abs(float(generator.normal(0, 0.09))),
                "lr": 1e-3 * warm * 0.5 * (1 + float(np.cos(np.pi * progress))),
                "grad_norm": 1.5 + abs(float(generator.normal(0, 0.4))),
                "images_per_second": 740 + float(generator.normal(0, 15)),
                "data_wait": 0.04,
            }
        )
        if step % 60 == 0:
            rows.append(
                {
                    "event": "eval",
                    "step": step,
                    "split": "val",
                    "loss": 0.2 + 2.0 * float(np.exp(-4.5 * progress)),
                    "accuracy": 0.955 - 0.8 * float(np.exp(-5 * progress)),
                }
            )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


def write_run(
    folder: Path,
    *,
    num_classes: int = 10,
    num_test: int = 358,
    num_val: int = 140,
    skill: float = 4.6,
    seed: int = 0,
    names: list[str] | None = None,
    lost: int = 2,
    imbalance: float = 1.0,
) -> Path:
    """A run folder as training leaves it, with `lost` undecodable test files."""
    generator = np.random.default_rng(seed)
    names = names or class_names(num_classes)
    folder.mkdir(parents=True)
    (folder / "predictions").mkdir()
    (folder / "model").mkdir()
    weight = imbalance ** -np.arange(num_classes, dtype=float)
    counts: dict[str, dict[str, int]] = {}
    bad: list[dict] = []
    with (folder / "split.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for split, size in [
            ("train", 4 * num_test),
            ("val", num_val),
            ("test", num_test),
        ]:
            labels = generator.choice(num_classes, size, p=weight / weight.sum())
            gone = [(f"{split}/lost-{i}.jpg", i % num_classes) for i in range(lost)]
            gone = gone if split == "test" else []
            every = [*labels, *(label for _, label in gone)]
            counts[split] = {
                name: int(sum(label == i for label in every))
                for i, name in enumerate(names)
            }
            ids = [f"{split}/{names[c]}/{i:05d}.jpg" for i, c in enumerate(labels)]
            for name, label in zip(ids, labels, strict=True):
                table.writerow([name, names[label], split])
            bad += [
                {"path": name, "reason": "the file ends too early", "split": split}
                for name, _ in gone
            ]
            if split == "train":
                continue
            logits = make_logits(labels, num_classes, skill, generator)
            result = classify(
                logits, labels, names, unreadable=[c for _, c in gone], resamples=100
            )
            (folder / f"predictions/{split}.json").write_text(
                json.dumps(result.to_dict(), indent=2)
            )
            write_predictions(
                folder / f"predictions/{split}.csv",
                ids,
                logits,
                labels,
                names,
                unreadable=gone,
            )
    write_metrics(folder, 900, generator)
    write_facts(folder, names, counts, bad, seed)
    return folder


def write_facts(
    folder: Path,
    names: list[str],
    counts: dict[str, dict[str, int]],
    bad: list[dict],
    seed: int,
) -> None:
    """Every file of the run that does not depend on the model's answers."""
    values = {
        "config.json": {
            "data": "photos/digits",
            "recipe": "small.finetune",
            "model": "vit_mu16",
            "weights": "vit_mu16.safetensors",
            "seed": seed,
            "optim": {"name": "adamw", "lr": 0.001, "weight_decay": 0.05},
            "schedule": {"name": "cosine", "warmup": 60},
            "loop": {"epochs": 20, "batch_size": 32},
        },
        "environment.json": {
            "python": "3.11.9",
            "torch": "2.14.1",
            "platform": "Linux-6.1-x86_64",
            "cpu": "2 cores",
            "threads": 2,
        },
        "data.json": {
            "name": "digits",
            "root": "photos/digits",
            "classes": names,
            "counts": counts,
            "bad": bad,
            "ignored": [{"path": "Thumbs.db", "reason": "not an image"}],
            "notes": ["no split folders: split by a hash of the path, seed 0"],
            "fingerprint": "9f2b6c1d" * 8,
        },
        "model/config.json": {
            "architecture": "vit_mu16",
            "num_classes": len(names),
            "vitral": {
                "model": "vit_mu16",
                "parameters": 1_214_602,
                "macs": 18_345_216,
                "patch_grid": [3, 5],
                "position_resize": {
                    "from": [14, 14],
                    "to": [3, 5],
                    "method": "bicubic, antialiased",
                },
                "ledger": {"loaded": 148, "resized": 1, "new": 2, "unused": 0},
                "preprocess": {"image_size": [48, 80], "resize": "squash"},
                "timm": True,
            },
        },
    }
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value, indent=2))
    (folder / "command.txt").write_text(
        f"vitral train photos/digits --out {folder.name} --recipe small.finetune "
        f"--weights vit_mu16.safetensors --seed {seed}\n"
    )
