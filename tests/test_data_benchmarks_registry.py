"""The table of benchmarks, the label rules of VTAB's tasks, and TFRecord files."""

import struct
from pathlib import Path

import numpy as np
import pytest

import vitral.data as data
from benchmark_layouts import field, record
from vitral.data.benchmarks.clevr_kitti import (
    CLEVR_CLASSES,
    CLEVR_EDGES,
    KITTI_CLASSES,
    KITTI_EDGES,
    bucket,
    nearest_vehicle,
    split_videos,
)
from vitral.data.benchmarks.registry import BENCHMARKS
from vitral.data.benchmarks.tfrecord import read_record, read_records
from vitral.data.open import NAMES
from vitral.errors import ConfigError, DataError
from vitral.recipes.vit import TABLE_4, row_for

VTAB_ORDER = [
    "caltech101",
    "cifar100",
    "dtd",
    "flowers102",
    "pets",
    "sun397",
    "svhn",
    "camelyon",
    "eurosat",
    "resisc45",
    "retinopathy",
    "clevr_count",
    "clevr_distance",
    "dmlab",
    "dsprites_location",
    "dsprites_orientation",
    "kitti_distance",
    "norb_azimuth",
    "norb_elevation",
]
"""arXiv 2010.11929, table 9."""


def test_groups():
    groups = data.groups()
    assert groups["vtab"] == tuple(f"vtab/{name}" for name in VTAB_ORDER)
    assert [len(groups[f"vtab/{kind}"]) for kind in ("natural", "specialised")] == [
        7,
        4,
    ]
    assert groups["vtab/structured"] == groups["vtab"][11:]
    assert len(groups["paper"]) == 5
    assert len(groups["fewshot"]) == 9
    assert all(name in NAMES for members in groups.values() for name in members)


def test_expand():
    found = data.expand(["vtab/specialised", "cifar10", "vtab/eurosat", "my/photos"])
    assert found == (
        "vtab/camelyon",
        "vtab/eurosat",
        "vtab/resisc45",
        "vtab/retinopathy",
        "cifar10",
        "my/photos",
    )


def test_a_benchmark():
    row = data.benchmark("vtab/kitti_distance")
    assert (row.train, row.val, row.test, row.num_classes) == (800, 200, 711, 4)
    assert (row.resolution, row.metrics) == (384, ("top1",))
    full = data.benchmark("vtab/kitti_distance/full")
    assert (full.train, full.val, full.test) == (1000, 0, 711)
    assert data.benchmark("imagenet").metrics == ("top1", "real")
    assert data.benchmark("fewshot/pets").resolution == 224
    with pytest.raises(
        ConfigError, match=r"named 'vtab/kitty'\. Nearest: .*kitti_dist"
    ):
        data.benchmark("vtab/kitty")
    with pytest.raises(ConfigError, match="No benchmark is named 'fewshot/pets/full'"):
        data.benchmark("fewshot/pets/full")


def test_the_paper_has_a_row_for_each():
    for name in data.groups()["paper"]:
        assert data.benchmark(name).dev_share == TABLE_4[name].dev_share
    for name in data.groups()["vtab"]:
        row = row_for(name, 1000)
        assert row == row_for(f"{name}/full", 1000)
        assert (row.steps, row.lr_grid) == (2500, (0.01,))
    assert row_for("vtab/mine", 1000) == TABLE_4["oxford_iiit_pet"]


def test_what_is_downloaded_says_how():
    for row in BENCHMARKS.values():
        assert row.source
        assert row.downloads == row.obtained.startswith("torchvision")


def test_the_documents_have_the_same_table():
    page = Path(__file__).parents[1] / "docs" / "data.md"
    lines = page.read_text("utf-8").splitlines()
    rows = [line.split("|")[1:6] for line in lines if line.startswith("| `")]
    found = {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}
    for row in BENCHMARKS.values():
        val = f"{row.val:,}" if row.val else found[row.name][2]
        sizes = [f"{row.num_classes}", f"{row.train:,}", val, f"{row.test:,}"]
        assert found[row.name] == sizes
        if row.dev_share and not row.val:
            assert val == f"{row.dev_share:.0%} of train".replace("%", " %")


@pytest.mark.parametrize(
    ("distance", "label"),
    [(7.9, 0), (8.0, 0), (8.01, 1), (8.5, 1), (9.2, 3), (9.5, 3), (10.0, 4), (12.0, 5)],
)
def test_clevr_distances(distance, label):
    assert bucket(distance, CLEVR_EDGES) == label
    assert len(CLEVR_CLASSES) == len(CLEVR_EDGES) + 1


def test_distances_are_compared_in_float32():
    # Nearer to 9.5 than a float32 can tell.
    assert bucket(9.5 + 1e-9, CLEVR_EDGES) == 3
    assert 9.5 + 1e-9 > 9.5


@pytest.mark.parametrize(
    ("distance", "label"),
    [(-2.0, 0), (8.0, 0), (8.5, 1), (20.0, 1), (20.01, 2), (999.0, 2), (1000.0, 3)],
)
def test_kitti_distances(distance, label):
    assert bucket(distance, KITTI_EDGES) == label
    assert len(KITTI_CLASSES) == 4


def test_the_nearest_vehicle():
    # The columns of KITTI's devkit: type, truncated, occluded, alpha, box (4), size
    # (3), location x y z, rotation.
    rest = "0.00 0 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34"
    lines = (
        f"Truck {rest} 0.47 1.49 69.44 -1.56\n"
        f"Car {rest} -16.53 2.39 58.49 1.57\n"
        f"Cyclist {rest} 4.59 1.32 45.84 -1.55\n"
        "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1 -1 -999 -10\n"
    )
    assert nearest_vehicle(lines) == 58.49
    assert nearest_vehicle(lines.replace("Car", "Tram")) == 69.44
    assert nearest_vehicle("") == 1000.0


def test_videos_are_split_as_with_numpys_global_seed():
    names = [f"drive_{number:04d}" for number in range(43)]
    videos = [name for name in names[::-1] for _ in range(1 + int(name[-1]) % 3)]
    found = split_videos(videos)
    assert sorted(n for part in found.values() for n in part) == list(
        range(len(videos))
    )
    state = np.random.get_state()
    np.random.seed(123)
    test = set(np.random.choice(names, 4, replace=False))
    left = [name for name in names if name not in test]
    val = set(np.random.choice(left, 4, replace=False))
    np.random.set_state(state)
    assert {videos[number] for number in found["test"]} == test
    assert {videos[number] for number in found["val"]} == val
    assert len(split_videos(["a", "b", "b", "c"])["test"]) in (1, 2)


def test_records(tmp_path):
    big = 2**40 + 5
    rows = [
        {"image": b"\x00" * 300, "filename": b"one", "label": 3},
        {"label": big, "empty": b"", "filename": "zwölf".encode()},
    ]
    file = tmp_path / "some.tfrecord"
    file.write_bytes(record(rows[0]) + record(rows[1], packed=False))
    found = list(read_records(file))
    assert [row.features for row in found] == rows
    assert found[1].offset == len(record(rows[0]))
    assert read_record(file, found[1].offset) == rows[1]


def test_records_with_unknown_fields(tmp_path):
    """What a later writer may add is skipped."""
    one = field(1, b"label") + field(2, field(3, field(1, b"\x07")))
    extra = b"\x28\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4) + field(9, b"x")
    content = extra + field(1, field(1, one + extra))
    file = tmp_path / "some.tfrecord"
    file.write_bytes(struct.pack("<QI", len(content), 0) + content + bytes(4))
    assert [row.features for row in read_records(file)] == [{"label": 7}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (record({"label": 1})[:-1], "cut off, or not a TFRecord file: .*byte 0 "),
        (b"PK\x03\x04", "cut off, or not a TFRecord file"),
        (b"<!DOCTYPE html><html lang=en>" * 9, "cut off, or not a TFRecord file"),
        (struct.pack("<QI", 2, 0) + b"\x0a\x7f" + bytes(4), "something else than a tf"),
        (struct.pack("<QI", 1, 0) + b"\xff" + bytes(4), "something else than a tf"),
    ],
)
def test_damaged_records(content, sentence, tmp_path):
    file = tmp_path / "some.tfrecord"
    file.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        list(read_records(file))


def test_absent_records(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(read_records(tmp_path / "absent.tfrecord"))
