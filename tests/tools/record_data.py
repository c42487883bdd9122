"""Draws the data of the record: photos, tables, clips, each from a fixed seed."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue stripes", "green", "red 2", "grey")
COLOURS = ((40, 60, 190), (60, 180, 70), (200, 50, 40), (110, 110, 120))


def draw_data(folder: Path) -> None:
    """All data sets, below `folder`."""
    for split, per_class in (("train", 12), ("val", 5), ("test", 6)):
        draw_photos(folder / "photos" / split, CLASSES[:3], per_class, len(split))
    draw_photos(folder / "leaves", CLASSES, 9, 100)
    draw_photos(folder / "more", CLASSES[:3], 6, 200)
    (folder / "more" / "broken.png").write_bytes(b"no picture")
    draw_table(folder / "many")
    for split, per_class in (("train", 6), ("val", 2), ("test", 3)):
        draw_clips(folder / "clips" / split, per_class, len(split))


def draw_photo(label: int, seed: int) -> Image.Image:
    """A colour with noise, 24 x 32 pixels; every fifth shows another class."""
    generator = np.random.default_rng([label, seed])
    label = (label + (seed % 5 == 0)) % len(COLOURS)
    pixels = generator.normal(COLOURS[label], 60, (24, 32, 3))
    if label == 0:
        pixels[::6] += 50
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_photos(
    root: Path, classes: tuple[str, ...], per_class: int, seed: int
) -> None:
    """ROOT/class/number, PNG and JPEG in turn."""
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            suffix = "jpg" if index % 3 == 2 else "png"
            draw_photo(label, seed + index).save(folder / f"{index}.{suffix}")


def draw_table(folder: Path) -> None:
    """Pictures of one or two colours beside each other, and their several labels."""
    folder.mkdir(parents=True)
    rows = [("path", "label")]
    for number in range(36):
        labels = sorted({number % 3, number // 3 % 3})
        halves = [np.asarray(draw_photo(label, 300 + number)) for label in labels]
        picture = np.concatenate([halves[0][:, :16], halves[-1][:, 16:]], axis=1)
        Image.fromarray(picture).save(folder / f"{number}.png")
        rows.append((f"{number}.png", ";".join(CLASSES[label] for label in labels)))
    with (folder / "labels.csv").open("w", newline="") as written:
        csv.writer(written).writerows(rows)


def draw_clips(root: Path, per_class: int, seed: int) -> None:
    """A light square that moves left or right: arrays, and one folder of frames."""
    for label, name in enumerate(("left", "right")):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            frames = draw_clip(label, seed + index)
            if index:
                np.savez(folder / f"{index}.npz", frames)
                continue
            (folder / "take 0").mkdir()
            for place, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / "take 0" / f"{place}.png")


def draw_clip(label: int, seed: int, frames: int = 8) -> np.ndarray:
    generator = np.random.default_rng([label, seed])
    clip = generator.normal(70 + 20 * label, 25, (frames, 16, 24, 3))
    top = int(generator.integers(0, 10))
    for frame in range(frames):
        place = round(frame * 16 / (frames - 1))
        left = place if label else 16 - place
        clip[frame, top : top + 6, left : left + 8] += 100
    return clip.clip(0, 255).astype(np.uint8)
