"""From JPEG files to batches of training images, beside timm's loader.

Both decode with Pillow in this process, cut a random rectangle of 5 to 100 % of the
area, resize it with bilinear interpolation, mirror half of the images and normalise.
"""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vitral.data
from vitral.bench.rows import row
from vitral.bench.turns import in_turns
from vitral.data import AugmentConfig, Loader, Preprocess, training_transform

SIZE = (375, 500)
"""Height and width of a file, as many photos of ImageNet have."""
AREA = (0.05, 1.0)


def measure(rounds: int, images: int, batch: int, pixels: int = 224) -> dict[str, Any]:
    """Seconds of one pass over so many files, no worker processes."""
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), images)
        work: dict[str, Callable[[], object]] = {
            "vitral": _ours(Path(folder), batch, pixels)
        }
        if importlib.util.find_spec("timm") is None:
            absent["timm"] = "not installed: pip install timm"
        else:
            work["timm"] = _timm(Path(folder), batch, pixels)
        taken = in_turns(work, rounds, warm=1)
    return {
        "images": images,
        "batch": batch,
        "rounds": rounds,
        "absent": absent,
        "rows": [
            row(name, "ours" if name == "vitral" else "peer", "vitral", taken)
            for name in work
        ],
    }


def _write(folder: Path, images: int) -> None:
    """Smooth colours with grain, which compress about as photos do."""
    random = np.random.default_rng(0)
    height, width = SIZE
    for number in range(images):
        place = folder / ("cat" if number % 2 else "dog")
        place.mkdir(exist_ok=True)
        coarse = random.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        grain = random.normal(0, 8, (height, width, 3))
        noisy = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"{number:04d}.jpg", quality=90)


def _ours(folder: Path, batch: int, pixels: int) -> Callable[[], object]:
    dataset = vitral.data.open(str(folder))
    loader = Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=training_transform(
            AugmentConfig(crop="inception", crop_area=AREA),
            Preprocess(image_size=(pixels, pixels)),
            0,
        ),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
    )
    return lambda: sum(len(found.id) for found in loader.epoch(0))


def _timm(folder: Path, batch: int, pixels: int) -> Callable[[], object]:
    import timm.data

    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder), search_split=False),
        input_size=(3, pixels, pixels),
        batch_size=batch,
        is_training=True,
        use_prefetcher=False,
        no_aug=False,
        scale=AREA,
        hflip=0.5,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
    )
    return lambda: sum(len(images) for images, _ in loader)
