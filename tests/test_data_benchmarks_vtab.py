"""vitral.data.benchmarks.vtab: VTAB and the few-shot sets on tiny files of their own
layouts."""

import hashlib
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

import benchmark_layouts as layouts
import vitral.data as data
from vitral.data.benchmarks import norb_dsprites, vtab
from vitral.data.benchmarks.registry import BENCHMARKS
from vitral.data.benchmarks.subsets import (
    PublishedSplit,
    SourceSplits,
    SplitSlice,
    _to_index,
    draw_subset,
    hash_order,
    split_per_class,
)
from vitral.data.dataset import FileReader
from vitral.data.sources import torchvision_datasets
from vitral.errors import ConfigError, DataError

TRAIN, VAL = 5, 3


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing from another test's folder, and made files without checksums."""
    torchvision_datasets._open_torchvision.cache_clear()
    norb_dsprites._open_stack.cache_clear()
    for module in (datasets.cifar, datasets.svhn):
        monkeypatch.setattr(
            module, "check_integrity", lambda path, md5=None: Path(path).exists()
        )
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(vtab, "VTAB_TRAIN", TRAIN)
    monkeypatch.setattr(vtab, "VTAB_VAL", VAL)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **settings):
        raise OSError("no network")

    for module in (datasets.cifar, datasets.kitti, datasets.utils):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)


VTAB = {
    "caltech101": (layouts.caltech101, 1 + 3 + 5),
    "cifar100": (layouts.cifar100, 7),
    "dtd": (layouts.dtd, 6),
    "flowers102": (layouts.flowers102, 14),
    "pets": (layouts.pets, 8),
    "sun397": (layouts.sun397, 8),
    "svhn": (layouts.svhn, 9),
    "camelyon": (layouts.camelyon, 5),
    "eurosat": (layouts.eurosat, 8),
    "resisc45": (layouts.resisc45, 6),
    "retinopathy": (layouts.retinopathy, 6),
    "clevr_count": (layouts.clevr, 9),
    "clevr_distance": (partial(layouts.clevr, labels="distance"), 9),
    "dmlab": (layouts.dmlab, 6),
    "kitti_distance": (layouts.kitti, 4),
    "norb_azimuth": (layouts.norb, 18),
    "norb_elevation": (partial(layouts.norb, what="elevation"), 18),
}
"""How each task's files are made, and how many of them are test."""
FEWSHOT = {
    "birds": (layouts.birds, 16, 7),
    "caltech101": (layouts.caltech101, 90, 9),
    "cars": (layouts.cars, 10, 8),
    "cifar100": (layouts.cifar100, 30, 7),
    "dtd": (layouts.dtd, 12, 6),
    "pets": (layouts.pets, 25, 8),
}


def shown(dataset: data.Dataset, example: data.Example) -> int:
    """The class that a made picture shows."""
    red = np.asarray(dataset.read(example))[..., 0]
    assert red.max() - red.min() <= 2
    return round(float(red.mean()) / layouts.STEP)


def sizes(dataset: data.Dataset) -> dict[str, int]:
    return {name: sum(found.values()) for name, found in dataset.counts().items()}


@pytest.mark.parametrize("task", VTAB)
def test_a_task_is_drawn_from_its_publishers_files(task, tmp_path, few):
    make, test = VTAB[task]
    make(tmp_path)
    dataset = data.open(f"vtab/{task}", root=tmp_path)
    assert dataset.name == f"vtab/{task}"
    assert sizes(dataset) == {"train": TRAIN, "val": VAL, "test": test}
    for example in dataset.examples:
        assert shown(dataset, example) == example.label[0], example
    ids = [example.id for example in dataset.examples]
    assert len(set(ids)) == len(ids)
    reader = pickle.loads(pickle.dumps(dataset.reader))
    assert reader(dataset.examples[0]).image.mode == "RGB"
    # Neither a seed nor a share moves an image.
    other = data.open(f"vtab/{task}", root=tmp_path, seed=4, val=0.5, test=0.3)
    assert other.examples == dataset.examples
    assert vtab.FIXED_SPLITS_NOTE in dataset.notes
    full = data.open(f"vtab/{task}/full", root=tmp_path)
    assert sizes(full) == {"train": TRAIN + VAL, "test": test}
    learned = {e.id for e in dataset.examples if e.split != "test"}
    assert {example.id for example in full.select("train")} == learned


def test_every_task_is_tested():
    tested = {f"vtab/{name}" for name in VTAB} | {f"fewshot/{name}" for name in FEWSHOT}
    own = {"vtab/dsprites_location", "vtab/dsprites_orientation"}
    own |= {"fewshot/imagenet", "fewshot/col_hist", "fewshot/uc_merced"}
    assert tested | own == set(vtab.TASKS)
    assert set(vtab.TASKS) == {name for name in BENCHMARKS if "/" in name}


@pytest.mark.parametrize("name", FEWSHOT)
def test_few_shot_sets_keep_all_of_train(name, tmp_path):
    make, train, test = FEWSHOT[name]
    make(tmp_path)
    dataset = data.open(f"fewshot/{name}", root=tmp_path)
    assert sizes(dataset) == {"train": train, "test": test}
    for example in dataset.examples:
        assert shown(dataset, example) == example.label[0], example


@pytest.mark.parametrize(
    ("name", "make", "cut", "number"),
    [
        ("col_hist", layouts.col_hist, 2_000, 30),
        ("uc_merced", layouts.uc_merced, 1_000, 30),
    ],
)
def test_few_shot_sets_in_one_piece(name, make, cut, number, tmp_path, monkeypatch):
    make(tmp_path)
    task = vtab.TASKS[f"fewshot/{name}"]
    assert (task.train.stop, task.test.start) == (cut, cut)
    with pytest.raises(DataError, match="test needs 1 images, but there are only 0"):
        data.open(f"fewshot/{name}", root=tmp_path)
    smaller = replace(
        task,
        train=replace(task.train, stop=12),
        test=replace(task.test, start=12),
    )
    monkeypatch.setitem(vtab.TASKS, f"fewshot/{name}", smaller)
    dataset = data.open(f"fewshot/{name}", root=tmp_path)
    assert sizes(dataset) == {"train": 12, "test": number - 12}
    for example in dataset.examples:
        assert shown(dataset, example) == example.label[0]


def test_imagenet_is_ordered_by_wordnet_id(tmp_path):
    layouts.imagenet(tmp_path)
    dataset = data.open("imagenet", root=tmp_path, val=0)
    assert dataset.classes == ("tench", "crane")
    for example in dataset.examples:
        assert shown(dataset, example) == example.label[0]
    assert sizes(dataset) == {"train": 8, "test": 12}
    few = data.open("fewshot/imagenet", root=tmp_path)
    assert sizes(few) == {"train": 8, "test": 12}
    assert vtab.TASKS["fewshot/imagenet"].train.stop == 65_000


def test_dsprites(tmp_path, few):
    layouts.dsprites(tmp_path)
    place = data.open("vtab/dsprites_location", root=tmp_path)
    turn = data.open("vtab/dsprites_orientation", root=tmp_path)
    assert sizes(place) == sizes(turn) == {"train": TRAIN, "val": VAL, "test": 64}
    assert [e.id for e in place.examples] == [e.id for e in turn.examples]
    for a, b in zip(place.examples, turn.examples, strict=True):
        index = int(a.id.split("/")[2])
        assert a.label == ((index % 32) // 2,)
        assert b.label == (int((index % 40) / 2.5),)
        pixels = np.asarray(place.read(a))
        assert pixels.shape == (64, 48, 3)
        assert pixels.sum() == 3 * 255
        assert pixels[index % 64, index // 64, 1] == 255
    # 40 orientations in 16 bins: two, or three, a bin.
    bins = [int(value * 16 // 40) for value in range(40)]
    assert bins[:9] == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    assert bins[-1] == 15


def test_norb_unpacks_what_is_packed(tmp_path, few):
    layouts.norb(tmp_path, packed=True)
    dataset = data.open("vtab/norb_azimuth", root=tmp_path)
    assert len(dataset.classes) == 18
    assert dataset.classes[17] == "340"
    for example in dataset.examples:
        assert shown(dataset, example) == example.label[0]
    # val and test are the two halves of the published test.
    parts = {e.split: e.id.split("/")[1] for e in dataset.examples}
    assert parts == {"train": "train", "val": "test", "test": "test"}


def test_the_order_is_that_of_tensorflow_datasets():
    # The first ids that TensorFlow Datasets gives for CIFAR-10's train, as printed in
    # public notebooks: train_16399, train_01680 and so on.
    printed = [16399, 1680, 47917, 17307, 27051, 48736, 26263, 1456, 19135, 31598]
    keys = [str(number) for number in range(50_000)]
    assert hash_order("train", keys)[:10].tolist() == printed


def test_the_thousand_of_cifar_stay(tmp_path):
    """The real sizes: 800 and 200 of 50,000, the same for ever."""
    labels = np.arange(50_000) % 100
    numbers = [str(number) for number in range(50_000)]
    split = PublishedSplit(
        ids=[f"{n:0>6}" for n in numbers], keys=numbers, labels=labels
    )
    last = PublishedSplit(ids=["t"], keys=["0"], labels=labels[:1])
    pool = SourceSplits(
        classes=tuple(numbers[:100]),
        splits={"train": split, "test": last},
        reader=FileReader(root=tmp_path),
    )
    task = vtab.TASKS["vtab/cifar100"]
    parts = {
        "train": (replace(task.train, limit=800),),
        "val": (replace(task.val, limit=200),),
    }
    found = draw_subset(pool, parts)
    chosen = {
        name: [int(example.id) for example in found if example.split == name]
        for name in ("train", "val")
    }
    digests = [hashlib.md5(f"train{number}".encode()).digest() for number in numbers]
    order = sorted(range(50_000), key=digests.__getitem__)
    assert chosen["train"] == sorted(order[:800])
    assert chosen["val"] == sorted(order[45_000:45_200])
    digest = hashlib.sha256(repr(chosen).encode()).hexdigest()
    assert digest == "fef4d7d96e3e846a8a493095f0d21192fdc3f1f64b0eee2c60a5e2b1c75a6557"


def test_a_published_val_has_its_own_order(tmp_path):
    """TensorFlow Datasets calls it validation, and hashes that with the key."""
    keys = [f"word/word_{number:04d}.jpg" for number in range(300)]
    split = PublishedSplit(ids=keys, keys=keys, labels=np.zeros(300, dtype=np.int64))
    pool = SourceSplits(
        classes=("a",), splits={"val": split}, reader=FileReader(root=tmp_path)
    )
    found = draw_subset(pool, {"val": (SplitSlice(split="val", limit=7),)})
    digests = {hashlib.md5(f"validation{key}".encode()).digest(): key for key in keys}
    assert {e.id for e in found} == {digests[one] for one in sorted(digests)[:7]}


PUBLISHED = {
    "caltech101": {"train": 3_060, "test": 6_084},
    "cifar100": {"train": 50_000, "test": 10_000},
    "dtd": {"train": 1_880, "val": 1_880, "test": 1_880},
    "flowers102": {"train": 1_020, "val": 1_020, "test": 6_149},
    "pets": {"train": 3_680, "test": 3_669},
    "sun397": {"": 108_754},
    "svhn": {"train": 73_257, "test": 26_032},
    "camelyon": {"train": 262_144, "val": 32_768, "test": 32_768},
    "eurosat": {"": 27_000},
    "resisc45": {"": 31_500},
    "retinopathy": {"train": 35_126, "val": 10_906, "test": 42_670},
    "clevr_count": {"train": 70_000, "test": 15_000},
    "clevr_distance": {"train": 70_000, "test": 15_000},
    "dmlab": {"train": 65_550, "val": 22_628, "test": 22_735},
    "dsprites_location": {"": 737_280},
    "dsprites_orientation": {"": 737_280},
    "kitti_distance": {"train": 6_347, "val": 423, "test": 711},
    "norb_azimuth": {"train": 24_300, "test": 24_300},
    "norb_elevation": {"train": 24_300, "test": 24_300},
}
"""Images of each published split, from the publishers' pages and arXiv 1910.04867."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parts_have_the_benchmarks_sizes(name):
    task, row = vtab.TASKS[f"vtab/{name}"], data.benchmark(f"vtab/{name}")

    def size(part):
        number = PUBLISHED[name][part.split]
        return _to_index(part.stop, number) - _to_index(part.start, number)

    assert size(task.test) == row.test
    assert size(task.train) >= 800
    assert size(task.val) >= 200
    # What is learned from and what is tested do not overlap.
    for part in (task.train, task.val):
        assert part.split != task.test.split or part.stop <= task.test.start
    assert task.train.split != task.val.split or task.train.stop <= task.val.start


def test_per_class_takes_as_many_of_each(tmp_path):
    layouts.caltech101(tmp_path)
    dataset = data.open("fewshot/caltech101", root=tmp_path)
    assert dataset.counts()["train"] == {
        "accordion": 30,
        "BACKGROUND_Google": 30,
        "crab": 30,
    }
    next((tmp_path / "caltech101/101_ObjectCategories/accordion").iterdir()).unlink()
    torchvision_datasets._open_torchvision.cache_clear()
    with pytest.raises(DataError, match="Class 0 has 30 images; more than 30 are"):
        data.open("fewshot/caltech101", root=tmp_path)


def test_a_large_class_does_not_come_first():
    """30 of 900 and 30 of 31: what is drawn from them must not prefer the former."""
    labels = np.array([0] * 900 + [1] * 31)
    keys = [f"c{label}/{number}" for number, label in enumerate(labels)]
    chosen = split_per_class(PublishedSplit(ids=keys, keys=keys, labels=labels), 30)[
        "train"
    ]
    order = hash_order("train", chosen.keys)
    assert np.bincount(chosen.labels).tolist() == [30, 30]
    assert 5 < chosen.labels[order[:20]].sum() < 15


def test_too_few_to_draw_from(tmp_path):
    layouts.cifar100(tmp_path)
    with pytest.raises(
        DataError, match="train needs 800 images, but there are only 27 to draw it from"
    ):
        data.open("vtab/cifar100", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vtab/resisc45", r"NWPU-RESISC45 is missing .* place it there from"),
        ("vtab/retinopathy", r"trainLabels.csv is missing .*image,level.*kaggle"),
        ("vtab/dmlab", r"dmlab-train.tfrecord is missing .*dmlab.tar.gz"),
        ("vtab/dsprites_location", r"64x64.npz is missing and is not downloaded"),
        ("vtab/norb_azimuth", r"training-dat.mat is missing and is not downloaded"),
        ("vtab/kitti_distance", r"image_2 and label_2.*: no network. Place the files"),
        ("vtab/cifar100", r"cifar100 is not complete .* could not be downloaded: no"),
        ("fewshot/birds", r"CUB_200_2011/images.txt is missing"),
        ("fewshot/cars", r"stanford_cars is not complete .* has no download"),
        ("fewshot/uc_merced", r"UCMerced_LandUse/Images is missing"),
    ],
)
def test_missing_files_are_named(name, sentence, tmp_path, offline):
    with pytest.raises(DataError, match=sentence):
        data.open(name, root=tmp_path)


def test_the_mapping_of_kitti_is_needed(tmp_path, few, offline):
    layouts.kitti(tmp_path)
    (tmp_path / "Kitti/raw/mapping/train_rand.txt").unlink()
    with pytest.raises(DataError, match=r"train_rand.txt and train_mapping.txt\) and"):
        data.open("vtab/kitti_distance", root=tmp_path)
    (tmp_path / "Kitti/raw/training/image_2/000003.png").unlink()
    text = ",".join(str(number) for number in range(1, 41))
    (tmp_path / "Kitti/raw/mapping/train_rand.txt").write_text(text)
    with pytest.raises(DataError, match=r"lacks 000003\.png, which the mapping"):
        data.open("vtab/kitti_distance", root=tmp_path)


def test_kitti_parts_no_video(tmp_path, few):
    layouts.kitti(tmp_path)
    dataset = data.open("vtab/kitti_distance", root=tmp_path)
    videos = {}
    for example in dataset.examples:
        line = (7 * int(example.id[:6])) % 40
        videos.setdefault(line // 2, set()).add(example.split)
    assert all(len(splits) == 1 for splits in videos.values())


def test_retinopathy_with_a_missing_image(tmp_path, few):
    layouts.retinopathy(tmp_path)
    (tmp_path / "diabetic_retinopathy/test/3_right.jpeg").unlink()
    with pytest.raises(DataError, match=r"lacks 3_right.jpeg and \d more"):
        data.open("vtab/retinopathy", root=tmp_path)
    (tmp_path / "diabetic_retinopathy/trainLabels.csv").write_text("name,level\na,0\n")
    with pytest.raises(DataError, match="columns image,level, found name,level"):
        data.open("vtab/retinopathy", root=tmp_path)


def test_damaged_norb(tmp_path, few):
    layouts.norb(tmp_path)
    file = next((tmp_path / "smallnorb").glob("*training-dat.mat"))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match="bytes, but its header announces"):
        data.open("vtab/norb_azimuth", root=tmp_path)
    file.write_bytes(b"\x00\x00" + content[2:])
    with pytest.raises(DataError, match="is not one of NORB's binary matrices"):
        data.open("vtab/norb_azimuth", root=tmp_path)
    fewer = np.zeros((4, 2, 7, 9), np.uint8)
    file.write_bytes(layouts.matrix(fewer))
    with pytest.raises(DataError, match="holds 4 pairs of pictures, but its info file"):
        data.open("vtab/norb_azimuth", root=tmp_path)


def test_damaged_dsprites(tmp_path, few):
    layouts.dsprites(tmp_path)
    file = tmp_path / "dsprites" / norb_dsprites.DSPRITES
    np.savez(file, imgs=np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(DataError, match="is not dSprites' archive with imgs and"):
        data.open("vtab/dsprites_location", root=tmp_path)


def test_names_that_are_almost_right(tmp_path):
    with pytest.raises(ConfigError, match="Nearest names: vtab/clevr_count"):
        data.open("vtab/clevr_counts", root=tmp_path)
    with pytest.raises(ConfigError, match="vtab/structured stands for 8 data sets: "):
        data.open("vtab/structured", root=tmp_path)
    with pytest.raises(ConfigError, match="`group_by` works on folders and tables"):
        data.open("vtab/dtd", root=tmp_path, group_by="folder")
