"""Fine-tune on solar cells: write the data as a table, train, summarize over seeds.

    python benchmarks/elpv.py --weights dinov2_vits14.safetensors --out runs/elpv

The data is the package elpv-dataset (arXiv 1807.02894): 2,624 grey cells of 300 x 300
pixels with a defect probability of 0, 1/3, 2/3 or 1; a cell is defective above 0.5. The
split is 75/25, stratified by probability and cell type, one per seed. Training uses the
soft labels, the test hard ones. `--dev` splits the 75 % again and leaves the test part
out, to choose settings.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from elpv_dataset.utils import load_dataset
from PIL import Image
from sklearn.model_selection import train_test_split

CLASSES = ("functional", "defective")


def write_table(folder: Path, seed: int, dev: bool) -> Path:
    """Write cells as PNG files, and a table with split, classes and their weights."""
    images, probability, kind = load_dataset()
    cells = folder / "cells"
    if not cells.is_dir():
        cells.mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(cells / f"{number:04}.png")
    stratum = np.round(probability * 3).astype(int) * 2 + (kind == "poly")
    everything = np.arange(len(images))
    train, held_out = train_test_split(
        everything, test_size=0.25, stratify=stratum, random_state=seed
    )
    if dev:
        train, held_out = train_test_split(
            train, test_size=0.2, stratify=stratum[train], random_state=100 + seed
        )
    table = folder / f"labels-{'dev' if dev else 'test'}-{seed}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "weight", "split"])
        for split, members in (("train", train), ("test", held_out)):
            for number in sorted(members):
                p = float(probability[number])
                weights = f"{1 - p:.6f};{p:.6f}"
                row = [f"cells/{number:04}.png", ";".join(CLASSES), weights, split]
                writer.writerow(row)
    return table


def probe(out: Path, weights: str) -> None:
    """Measure few-shot, linear and kNN probes on frozen features at 224 pixels."""
    import vitral as vt

    model, preprocess, _ = vt.load(weights, image_size=224)
    vt.save(out / "w224", model, preprocess)
    with write_table(out / "data", 0, False).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = out / "data" / "hard-0.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for row in rows:
            defective = float(row["weight"].split(";")[1]) > 0.5
            writer.writerow([row["path"], CLASSES[defective], row["split"]])
    command = [sys.executable, "-m", "vitral", "eval", str(out / "w224"), str(table)]
    command += ["--cache-dir", str(out / "features"), "--protocol"]
    for protocol in (["fewshot", "--shots", "5", "10", "25"], ["linear"], ["knn"]):
        started = time.monotonic()
        subprocess.run([*command, *protocol], check=True)
        print(f"{time.monotonic() - started:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", default="runs/elpv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dev", action="store_true", help="train/dev, without test")
    parser.add_argument("--probe", action="store_true", help="frozen features only")
    args, flags = parser.parse_known_args()
    out = Path(args.out)
    if args.probe:
        probe(out, args.weights)
        return
    rows = []
    for seed in args.seeds:
        table = write_table(out / "data", seed, args.dev)
        run = out / f"{'dev' if args.dev else 'test'}-{seed}"
        command = [sys.executable, "-m", "vitral", "train", str(table)]
        command += ["--recipe", "elpv.finetune", "--weights", args.weights]
        command += ["--out", str(run), "--seed", str(seed), *flags]
        started = time.monotonic()
        if not (run / "report.html").is_file():
            subprocess.run([*command, "--resume"], check=True)
        result = json.loads((run / "predictions" / "test.json").read_text())
        minutes = (time.monotonic() - started) / 60
        rows.append(result["top1"])
        print(f"seed {seed}: {100 * result['top1']:.2f} % in {minutes:.1f} min")
    spread = statistics.stdev(rows) if len(rows) > 1 else 0.0
    print(f"mean {100 * statistics.mean(rows):.2f} %, deviation {100 * spread:.2f}")


if __name__ == "__main__":
    main()
