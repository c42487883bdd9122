"""Time loading photos for training, interleaved with timm's loader.

    OMP_NUM_THREADS=1 python -m benchmarks.loading --rounds 9 --workers 0 1 2

As `python -m benchmarks.peers --what loading` (see benchmarks/peers/loading.py), on
photos of scikit-image of 500 x 375, JPEG quality 90, to 224 x 224. timm runs with and
without its prefetcher, and the faster counts. Prints CPU time of this process and
wall-clock time per image, and theirs / ours: above 1, vitral is faster. The bound is on
CPU time without workers, which is robust to other load, and on wall-clock time with.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from benchmarks.peers.loading import time_passes
from benchmarks.peers.targets import LOADING

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def write_photos(folder: Path, images: int) -> None:
    """Write crops of four photographs, each a class."""
    for number in range(images):
        name = PHOTOS[number % len(PHOTOS)]
        photo = Image.fromarray(getattr(skimage.data, name)()[..., :3])
        rng = np.random.default_rng(number)
        width = int(rng.uniform(0.5, 1.0) * min(photo.width, photo.height * 4 // 3))
        height = width * 3 // 4
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        crop = photo.crop((left, top, left + width, top + height))
        file = folder / name / f"{number:04d}.jpg"
        file.parent.mkdir(exist_ok=True)
        crop.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)


def compare(folder: Path, images: int, batch: int, workers: int, rounds: int) -> None:
    timings = time_passes(folder, rounds, batch, 224, workers)
    ratios: dict[str, dict[str, float]] = {}
    for name, timing in timings.items():
        ours = timings["vitral"]
        ratios[name] = {
            "CPU": statistics.median(timing.cpu) / statistics.median(ours.cpu),
            "clock": statistics.median(timing.wall) / statistics.median(ours.wall),
        }
        loaded = images // batch * batch
        cpu, wall = (
            1000 * statistics.median(times) / loaded
            for times in (timing.cpu, timing.wall)
        )
        # A worker's CPU time is not this process's.
        used = "" if workers else f"{cpu:6.2f} ms CPU (x{ratios[name]['CPU']:.2f})"
        print(
            f"{workers} workers  {name:16} {used} {wall:6.2f} ms clock "
            f"(x{ratios[name]['clock']:.2f})"
        )
    kind = "clock" if workers else "CPU"
    worst = min(by_clock[kind] for name, by_clock in ratios.items() if name != "vitral")
    verdict = "met" if worst >= LOADING else "not met"
    print(f"{workers} workers: {worst:.2f} ({kind}), bound {LOADING}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name), args.images)
        for workers in args.workers:
            compare(Path(name), args.images, args.batch, workers, args.rounds)


if __name__ == "__main__":
    main()
