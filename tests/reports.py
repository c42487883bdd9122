"""What the tests of the report share: a run as training leaves it, a page read back."""

import csv
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitral.report import write_html
from vitral.tasks.classification import classify, write_predictions

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
            "sizes": {split: sum(rows.values()) for split, rows in counts.items()},
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


# Reading a report back

VOID = {"meta", "img", "source", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps what the tests ask for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: Counter[str] = Counter()
        self.numbers: list[dict[str, Any]] = []
        self.run = "1"
        self.policy = ""
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        if "id" in given:
            self.ids[given["id"] or ""] += 1
        self.run = given.get("data-run") or self.run
        if tag == "dd":
            self.text.append(" ")
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag == "img":
            self.images.append(given)
        if tag == "data":
            self.numbers.append({**given, "run": self.run, "text": ""})
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        assert not any(name.startswith("on") for name in given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | {"rect"}
        if tag in VOID:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "data" in self.open:
            self.numbers[-1]["text"] += data

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).replace("\N{NO-BREAK SPACE}", " ").split())


def look_up(run: Path, source: str) -> Any:
    """Follow `file#/pointer` into a run folder."""
    file, _, pointer = source.partition("#")
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    path = run / file
    value: Any
    if path.suffix == ".csv":
        with path.open(newline="") as table:
            value = list(csv.DictReader(table))
    elif path.suffix == ".jsonl":
        value = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        value = json.loads(path.read_text())
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def report(run: Path, tmp_path: Path, **more: Any) -> Reader:
    return Reader(
        write_html([run], tmp_path / "report.html", **more).read_text("utf-8")
    )


def picture(run: Path, example: str) -> Image.Image:
    colour = (len(example) * 7 % 256, sum(example.encode()) % 256, 90)
    return Image.new("RGB", (80, 48), colour)


def samples(run: Path) -> list[tuple[Image.Image, str]]:
    return [(picture(run, name), f"a {name}") for name in ("zero", "one", "seven")]


def check_numbers(run: Path, page: Reader) -> None:
    """Every number of a page is the one its source holds, rounded as it is written."""
    for number in page.numbers:
        stored = look_up(run, number["data-source"])
        how = number.get("data-how", "value")
        if how == "sum":
            stored = sum(stored.values())
        if how == "length":
            stored = len(stored)
        value = float(number["value"])
        assert value == float(stored), number
        text = number["text"].replace(",", "")
        digits = re.match(r"-?[0-9.]+", text)[0]
        shown, last = float(digits), 0.501 * 10.0 ** -len(digits.partition(".")[2])
        # The low end of an interval of shares has no sign of its own.
        low_end = number["data-source"].endswith("_interval/0")
        if text.endswith("%") or (low_end and shown > 1.5 * value):
            assert shown == pytest.approx(100 * value, abs=last), number
        elif text.endswith(("k", "M", "G")):
            power = {"k": 1e3, "M": 1e6, "G": 1e9}[text[-1]]
            assert shown * power == pytest.approx(value, rel=5e-3)
        else:
            assert shown == pytest.approx(value, abs=last), number
