"""Loading photos for training, beside timm's loader, in turns.

    OMP_NUM_THREADS=1 python benchmarks/loading.py --rounds 9 --workers 0 1 2

Photos of scikit-image cut to 500 x 375, JPEG quality 90, to a random crop of 8 to 100 %
of the area at 224 x 224, mirrored half of the time, normalised, in batches of float32.
Both resample with Pillow (bicubic, antialiased): equal crops give equal pixels. timm
runs with and without its prefetcher, and the quicker counts. Prints CPU time of this
process and its workers and the clock's time per image, and theirs / ours: above 1,
vitral is faster. Bound: 1.3.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import timm.data
import torch
from PIL import Image

import vitral.data
from vitral.data import AugmentConfig, Loader, Preprocess, training_transform

BOUND = 1.3
SIZE = (224, 224)
AREA = (0.08, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def write_photos(folder: Path, images: int) -> None:
    """Cuts of four photographs, a class each."""
    for number in range(images):
        name = PHOTOS[number % len(PHOTOS)]
        whole = Image.fromarray(getattr(skimage.data, name)()[..., :3])
        chance = np.random.default_rng(number)
        width = int(chance.uniform(0.5, 1.0) * min(whole.width, whole.height * 4 // 3))
        height = width * 3 // 4
        left = int(chance.integers(whole.width - width + 1))
        top = int(chance.integers(whole.height - height + 1))
        part = whole.crop((left, top, left + width, top + height))
        file = folder / name / f"{number:04d}.jpg"
        file.parent.mkdir(exist_ok=True)
        part.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)


def ours(folder: Path, batch: int, workers: int) -> Callable[[], None]:
    dataset = vitral.data.open(folder)
    preprocess = Preprocess(
        image_size=SIZE, interpolation="bicubic", antialias=True, mean=MEAN, std=STD
    )
    augment = AugmentConfig(crop="inception", crop_area=AREA)
    loader = Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=training_transform(augment, preprocess, 0),
        batch_size=batch,
        shuffle=True,
        workers=workers,
    )
    epoch = iter(range(10**6))

    def run() -> None:
        for found in loader.epoch(next(epoch)):
            assert found.image.dtype == torch.float32

    return run


def theirs(folder: Path, batch: int, workers: int, prefetch: bool) -> Callable:
    def run() -> None:
        loader = timm.data.create_loader(
            timm.data.ImageDataset(str(folder)),
            input_size=(3, *SIZE),
            batch_size=batch,
            is_training=True,
            use_prefetcher=prefetch,
            scale=AREA,
            hflip=0.5,
            color_jitter=0.0,
            interpolation="bicubic",
            mean=MEAN,
            std=STD,
            num_workers=workers,
            persistent_workers=False,
            pin_memory=False,
            device=torch.device("cpu"),
        )
        for images, _ in loader:
            assert images.dtype == torch.float32

    return run


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """CPU time of this process and those that ended in it, and the clock's."""
    before, began = os.times(), time.perf_counter()
    run()
    after, ended = os.times(), time.perf_counter()
    return sum(after[:4]) - sum(before[:4]), ended - began


def compare(folder: Path, images: int, batch: int, workers: int, rounds: int) -> None:
    runs = {
        "vitral": ours(folder, batch, workers),
        "timm": theirs(folder, batch, workers, False),
        "timm prefetcher": theirs(folder, batch, workers, True),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            found = seconds(run)
            if number:  # the first warms up
                taken[name].append(found)
    # A fork server's workers are no children of this process: only the clock sees them.
    clock = 1 if workers else 0
    ratios = {
        name: statistics.median(
            them[clock] / us[clock]
            for them, us in zip(taken[name], taken["vitral"], strict=True)
        )
        for name in runs
    }
    for name, found in taken.items():
        cpu, wall = (
            1000 * statistics.median(times) / images
            for times in zip(*found, strict=True)
        )
        print(
            f"{workers} workers  {name:16} {cpu:6.2f} ms CPU  {wall:6.2f} ms clock  "
            f"theirs / ours {ratios[name]:.2f}"
        )
    least = min(ratios["timm"], ratios["timm prefetcher"])
    held = "holds" if least >= BOUND else "does not hold"
    kind = "clock" if workers else "CPU"
    print(f"{workers} workers: {least:.2f} ({kind}), bound {BOUND}: {held}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name), known.images)
        for workers in known.workers:
            compare(Path(name), known.images, known.batch, workers, known.rounds)


if __name__ == "__main__":
    main()
