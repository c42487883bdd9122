"""Loading photos for training, beside timm's loader, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.loading --rounds 9 --workers 0 1 2

The measurement is that of `python -m benchmarks.peers --what loading`, on photos of
scikit-image cut
to 500 x 375, JPEG quality 90, to 224 x 224; see benchmarks/peers/loading.py for what
both
sides do. timm runs with and without its prefetcher, and the quicker counts. Prints the
time per image of this process (CPU) and by the clock, and theirs / ours: above 1,
vitral is faster. The bound is held to the CPU time without workers, which another
process on the machine disturbs less, and to the clock with them.
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


def compare(folder: Path, images: int, batch: int, workers: int, rounds: int) -> None:
    taken = time_passes(folder, rounds, batch, 224, workers)
    ratios: dict[str, dict[str, float]] = {}
    for name, them in taken.items():
        us = taken["vitral"]
        ratios[name] = {
            "CPU": statistics.median(them.cpu) / statistics.median(us.cpu),
            "clock": statistics.median(them.wall) / statistics.median(us.wall),
        }
        loaded = images // batch * batch
        cpu, wall = (
            1000 * statistics.median(times) / loaded for times in (them.cpu, them.wall)
        )
        # A worker's CPU time is not this process's.
        used = "" if workers else f"{cpu:6.2f} ms CPU (x{ratios[name]['CPU']:.2f})"
        print(
            f"{workers} workers  {name:16} {used} {wall:6.2f} ms clock "
            f"(x{ratios[name]['clock']:.2f})"
        )
    kind = "clock" if workers else "CPU"
    least = min(found[kind] for name, found in ratios.items() if name != "vitral")
    held = "met" if least >= LOADING else "not met"
    print(f"{workers} workers: {least:.2f} ({kind}), bound {LOADING}: {held}")


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
