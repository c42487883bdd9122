"""Time loading batches of training images from JPEG files, compared with timm's loader.

Both decode with Pillow, crop 8 to 100 % of the area, resize (bicubic, antialiased; timm
with Pillow, vitral with torch's uint8 kernel, as near to the exact result), flip half
of the images and return normalized float32. Our crops are 5 % larger on average.
"""

import importlib.util
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vitral.data
from benchmarks.peers.interleave import WorkTiming, run_interleaved
from benchmarks.peers.rows import timing_row
from vitral.data import AugmentConfig, Loader, Preprocess, training_transform

SIZE = (375, 500)
"""Height and width of a file, common in ImageNet."""
AREA = (0.08, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PEERS = {"timm": False, "timm prefetcher": True}
"""True: timm normalizes batches of uint8 in its prefetcher; False: each image."""


def measure(rounds: int, images: int, batch: int, pixels: int = 224) -> dict[str, Any]:
    """Time one pass over the files without worker processes."""
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), images)
        if importlib.util.find_spec("timm") is None:
            absent["timm"] = "not installed: pip install timm"
        taken = time_passes(Path(folder), rounds, batch, pixels)
    return {
        "images": images,
        "batch": batch,
        "rounds": rounds,
        "absent": absent,
        "rows": [
            timing_row(name, "ours" if name == "vitral" else "peer", "vitral", taken)
            for name in taken
        ],
    }


def time_passes(
    folder: Path, rounds: int, batch: int, pixels: int, workers: int = 0
) -> dict[str, WorkTiming]:
    """Time passes over the files of a folder, with timm if it is installed."""
    work = {"vitral": _vitral_pass(folder, batch, pixels, workers)}
    if importlib.util.find_spec("timm") is not None:
        for name, prefetch in PEERS.items():
            work[name] = _timm_pass(folder, batch, pixels, workers, prefetch)
    return run_interleaved(work, rounds, warmup=1)


def write_files(folder: Path, images: int) -> None:
    """Write smooth colors with grain, which compress about as photos do."""
    random = np.random.default_rng(0)
    height, width = SIZE
    for number in range(images):
        class_folder = folder / ("cat" if number % 2 else "dog")
        class_folder.mkdir(exist_ok=True)
        coarse = random.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        grain = random.normal(0, 8, (height, width, 3))
        noisy = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(class_folder / f"{number:04d}.jpg", quality=90)


def _vitral_pass(
    folder: Path, batch: int, pixels: int, workers: int
) -> Callable[[], object]:
    dataset = vitral.data.open(str(folder))
    preprocess = Preprocess(
        image_size=(pixels, pixels),
        interpolation="bicubic",
        antialias=True,
        mean=MEAN,
        std=STD,
    )
    augment = AugmentConfig(crop="inception", crop_area=AREA)
    loader = Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=training_transform(augment, preprocess, 0),
        batch_size=batch,
        shuffle=True,
        workers=workers,
        drop_last=True,
    )
    epochs = itertools.count()
    return lambda: sum(len(loaded.id) for loaded in loader.epoch(next(epochs)))


def _timm_pass(
    folder: Path, batch: int, pixels: int, workers: int, prefetch: bool
) -> Callable[[], object]:
    import timm.data
    import torch

    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder), search_split=False),
        input_size=(3, pixels, pixels),
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
        # As timm sets it: workers persist between passes, as ours do.
        persistent_workers=workers > 0,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    return lambda: sum(len(images) for images, _ in loader)
