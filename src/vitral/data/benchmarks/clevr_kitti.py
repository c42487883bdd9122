"""Tasks on the distance of the nearest object: CLEVR's scenes and KITTI's boxes.

Thresholds are those of VTAB's code (arXiv 1910.04867, task_adaptation). A distance on a
threshold belongs to the nearer class.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitral.data.benchmarks.subsets import PublishedSplit, SourceSplits
from vitral.data.dataset import Dataset, FileReader
from vitral.data.sources import read_named
from vitral.errors import DataError

CLEVR_EDGES = (8.0, 8.5, 9.0, 9.5, 10.0)
CLEVR_CLASSES = ("8", "8.5", "9", "9.5", "10", "farther")
"""Upper edges of the third pixel coordinate of the nearest object."""
KITTI_EDGES = (8.0, 20.0, 999.0)
KITTI_CLASSES = ("8 m", "20 m", "farther", "no vehicle")
VEHICLES = ("Car", "Van", "Truck")
NO_VEHICLE = 1000.0
_KITTI_SEED = 123
_DEVKIT = "https://s3.eu-central-1.amazonaws.com/avg-kitti/devkit_object.zip"


def bucket(distance: float, edges: Sequence[float]) -> int:
    """Return the class of a distance: the number of edges below it, in float32."""
    return int((np.float32(distance) > np.array(edges, dtype=np.float32)).sum())


def clevr(root: Path) -> SourceSplits:
    """Read CLEVR with the distance of the nearest object; its val is the test."""
    dataset = read_named("clevr_counts", root)
    splits = {}
    for split, published in (("train", "train"), ("test", "val")):
        scenes = root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{published}_scenes.json"
        nearest = {
            scene["image_filename"]: min(
                item["pixel_coords"][2] for item in scene["objects"]
            )
            for scene in json.loads(scenes.read_bytes())["scenes"]
        }
        ids = [example.id for example in dataset.select(split)]
        names = [Path(id_).name for id_ in ids]
        labels = np.array([bucket(nearest[name], CLEVR_EDGES) for name in names])
        splits[split] = PublishedSplit(ids=ids, keys=names, labels=labels)
    return SourceSplits(classes=CLEVR_CLASSES, splits=splits, reader=dataset.reader)


def clevr_count(root: Path) -> Dataset:
    """Read CLEVR with the number of objects, 3 to 10, as eight classes."""
    dataset = read_named("clevr_counts", root)
    return replace(
        dataset,
        classes=tuple(str(count) for count in range(3, 11)),
        examples=tuple(
            replace(example, label=(example.label[0] - 3,))
            for example in dataset.examples
        ),
    )


def kitti(root: Path) -> SourceSplits:
    """Read KITTI's labelled pictures with the distance of the nearest vehicle ahead.

    Splits share no video: 10 % of the videos are test and 10 % val, drawn from the
    devkit's mapping as in TensorFlow Datasets.
    """
    folder = root / "Kitti" / "raw"
    names = _kitti_pictures(root)
    videos = _read_videos(folder / "mapping")
    splits = {}
    for split, indices in split_videos(videos).items():
        ids = [f"{index:06d}.png" for index in sorted(indices)]
        lost = [id_ for id_ in ids if id_ not in names]
        if lost:
            raise DataError(
                f"{folder}/training/image_2 lacks {lost[0]}, which the mapping of the "
                "devkit names. Complete the files."
            )
        files = [folder / "training/label_2" / f"{id_[:-4]}.txt" for id_ in ids]
        distances = [nearest_vehicle(file.read_text("utf-8")) for file in files]
        labels = [bucket(distance, KITTI_EDGES) for distance in distances]
        splits[split] = PublishedSplit(ids=ids, keys=ids, labels=np.array(labels))
    reader = FileReader(root=folder / "training" / "image_2")
    return SourceSplits(classes=KITTI_CLASSES, splits=splits, reader=reader)


def nearest_vehicle(text: str) -> float:
    """Return the metres ahead to the nearest car, van or truck of a label file."""
    rows = [line.split() for line in text.splitlines()]
    return min(
        [float(row[13]) for row in rows if row and row[0] in VEHICLES],
        default=NO_VEHICLE,
    )


def split_videos(videos: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of each split's pictures from the video of every picture."""
    pictures: dict[str, list[int]] = defaultdict(list)
    for index, video in enumerate(videos):
        pictures[video].append(index)
    count = max(1, 10 * len(pictures) // 100)
    # The legacy generator, whose draws are published.
    random = np.random.RandomState(_KITTI_SEED)
    test = set(random.choice(sorted(pictures), count, replace=False))
    val = set(random.choice(sorted(set(pictures) - test), count, replace=False))
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for video, indices in pictures.items():
        split = "test" if video in test else "val" if video in val else "train"
        splits[split] += indices
    return splits


def _kitti_pictures(root: Path) -> set[str]:
    from torchvision.datasets import Kitti

    try:
        dataset = Kitti(str(root), train=True)
    except Exception:
        try:
            dataset = Kitti(str(root), train=True, download=True)
        except Exception as error:
            raise _missing_files_error(
                root / "Kitti", "image_2 and label_2", error
            ) from error
    return {Path(image).name for image in dataset.images}


def _read_videos(folder: Path) -> list[str]:
    """Return the video of every labelled picture, from the devkit."""
    files = folder / "train_rand.txt", folder / "train_mapping.txt"
    if not all(file.is_file() for file in files):
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(_DEVKIT, str(folder.parent))
        except Exception as error:
            raise _missing_files_error(
                folder, " and ".join(f.name for f in files), error
            ) from error
    order, mapping = (file.read_text(encoding="utf-8") for file in files)
    lines = mapping.splitlines()
    return [lines[int(number) - 1].split()[1] for number in order.split(",")]


def _missing_files_error(folder: Path, what: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return DataError(
        f"The data set vtab/kitti_distance is not complete in {folder} ({what}) and "
        f"could not be downloaded: {reason}. Place the files of KITTI's object "
        f"detection there; the mapping is in {_DEVKIT}."
    )
