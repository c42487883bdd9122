"""Throughput of `vitral predict` on small JPEGs, against the model alone.

    OMP_NUM_THREADS=2 python benchmarks/predict.py --images 100000 --workers 1

Prints images/s of the model alone before and after, images/s of the whole job, their
ratio with its bound (0.9 if reading overlaps the model, as with a GPU or a spare core),
and resident memory of this process at 10 % and at 100 % (bound: 20 MB more).
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vitral as vt
from vitral.data import Preprocess
from vitral.workflows.predict import predict
from vitral.workflows.run import open_run

BOUND = 0.9
GROWTH = 20.0


def write_images(folder: Path, number: int) -> None:
    """Write images of 64 x 48 pixels, a thousand per folder, all different."""
    rng = np.random.default_rng(0)
    for index in range(number):
        file = folder / f"{index // 1000:04d}" / f"{index % 1000:03d}.jpg"
        file.parent.mkdir(exist_ok=True)
        pixels = np.full((48, 64, 3), rng.integers(0, 256, 3), np.uint8)
        pixels[index % 48] = index % 251
        Image.fromarray(pixels).save(file, quality=90)


def time_model(model: Path, batch: int, batches: int) -> float:
    """Return images/s of the model alone."""
    run = open_run(model)
    pixels = torch.rand(batch, 3, *run.preprocess.image_size) * 2 - 1
    run.decode(run.predict_outputs(pixels))
    started = time.perf_counter()
    for _ in range(batches):
        run.decode(run.predict_outputs(pixels))
    return batch * batches / (time.perf_counter() - started)


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--model", default="vit_ti16")
    parser.add_argument("--size", type=int, nargs=2, default=[64, 96])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, images = Path(name) / "model", Path(name) / "images"
        images.mkdir()
        write_images(images, args.images)
        size = (args.size[0], args.size[1])
        network = vt.create(args.model, num_classes=7, image_size=size)
        classes = tuple(f"kind {number}" for number in range(7))
        vt.save(model, network, Preprocess(image_size=size), classes=classes)
        before = time_model(model, args.batch, 40)
        memory: list[float] = []
        add = predict._ProgressCounter.add

        def add_and_measure(
            counter: predict._ProgressCounter, number: int, waited: float
        ) -> None:
            add(counter, number, waited)
            if 10 * counter.count >= args.images * (1 + 9 * len(memory)):
                memory.append(resident())

        predict._ProgressCounter.add = add_and_measure
        started = time.perf_counter()
        result = predict.predict_files(
            model,
            images,
            Path(name) / "answers.jsonl",
            batch_size=args.batch,
            workers=args.workers,
        )
        throughput = args.images / (time.perf_counter() - started)
        after = time_model(model, args.batch, 40)
    model_throughput = (before + after) / 2
    print(result)
    verdict = "holds" if throughput >= BOUND * model_throughput else "does not hold"
    print(f"{throughput:.0f} images/s, model alone {before:.0f} and {after:.0f}")
    print(f"ratio {throughput / model_throughput:.2f}, bound {BOUND}: {verdict}")
    verdict = "holds" if memory[-1] - memory[0] <= GROWTH else "does not hold"
    print(
        f"resident: {memory[0]:.0f} MB at 10 %, {memory[-1]:.0f} MB at 100 %: {verdict}"
    )


if __name__ == "__main__":
    main()
