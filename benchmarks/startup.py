"""Start-up time: CPU time of fresh processes, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/startup.py --rounds 9

Prints three medians with their bounds: `import vitral` (0.1 s above an
empty interpreter), `vitral --help` (1 s), and `vitral predict` on one image with a
ViT-S/16, divided by importing torch plus one forward pass of the same size of model
(1.3).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import vitral as vt
from vitral.data import Preprocess

FORWARD = """
import torch
from torch import nn
block = nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True, norm_first=True)
model = nn.TransformerEncoder(block, 12, enable_nested_tensor=False).eval()
with torch.no_grad():
    model(torch.randn(1, 197, 384))
"""
COMMAND = "import sys; from vitral.cli import main; sys.exit(main({argv}))"


def seconds(code: str) -> float:
    before = os.times()
    argv = [sys.executable, "-c", code]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        model, image = Path(name) / "model", Path(name) / "one.jpg"
        network = vt.create("vit_s16", num_classes=7)
        classes = tuple(f"kind {number}" for number in range(7))
        vt.save(model, network, Preprocess(), classes=classes)
        pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(image)
        codes = {
            "nothing": "pass",
            "import": "import vitral",
            "help": COMMAND.format(argv=["--help"]),
            "predict": COMMAND.format(argv=["predict", str(model), str(image)]),
            "forward": FORWARD,
        }
        taken: dict[str, list[float]] = {name: [] for name in codes}
        for number in range(rounds + 1):
            for name, code in codes.items():
                cpu_seconds = seconds(code)
                if number:  # the first reads the files
                    taken[name].append(cpu_seconds)
    median = {name: statistics.median(times) for name, times in taken.items()}
    ratio = statistics.median(
        mine / bare
        for mine, bare in zip(taken["predict"], taken["forward"], strict=True)
    )
    for text, value, bound in (
        ("import vitral, s", median["import"] - median["nothing"], 0.1),
        ("vitral --help, s", median["help"], 1.0),
        ("vitral predict on one image / torch and one forward pass", ratio, 1.3),
    ):
        verdict = "holds" if value <= bound else "does not hold"
        print(f"{text}: {value:.3f}, bound {bound}: {verdict}")
    print(f"predict {median['predict']:.2f} s, torch {median['forward']:.2f} s")


if __name__ == "__main__":
    main()
