"""Kept features: computed once, never believed when damaged or of something else."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import captured_log, randomise, tiny_vit
from photos import CLASSES, contents, make_photos, photo, tiny_config
from vitral.data import Dataset, Preprocess
from vitral.data.images.decode import DecodedImage, to_rgb
from vitral.errors import ConfigError, DataError
from vitral.models import ViT
from vitral.workflows.features import cache
from vitral.workflows.features.cache import (
    ExtractedFeatures,
    cached_features,
    default_cache_folder,
)
from vitral.workflows.features.cache_key import weights_hash
from vitral.workflows.features.extract import extract_splits
from vitral.workflows.runtime import Runtime

PREPROCESS = Preprocess(image_size=(48, 80))


class Counted(ViT):
    """Counts its forward passes; the third can be told to fail."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.calls = 0
        self.stops: BaseException | None = None

    def embed(self, image, patch_mask=None):
        self.calls += 1
        if self.stops is not None and self.calls == 3:
            raise self.stops
        return super().embed(image, patch_mask)


@pytest.fixture
def model() -> Counted:
    made = Counted(tiny_vit().config)
    randomise(made)
    return made


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    """Seven train, five test images of each of three classes; no val."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    make_photos(root, splits=("train",), per_class=7)
    return make_photos(root, splits=("test",), per_class=5)


@pytest.fixture
def photos(untouched, tmp_path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "photos"))


@pytest.fixture
def extract(model, photos, tmp_path) -> Callable[..., ExtractedFeatures]:
    """Extraction of train into one folder; lines are collected in `.lines`."""

    def run(**changes) -> ExtractedFeatures:
        given = {
            "model": model,
            "preprocess": PREPROCESS,
            "dataset": opened(photos),
            "split": "train",
            "folder": tmp_path / "kept",
            "batch_size": 8,
        }
        with captured_log() as lines:
            features = cached_features(**{**given, **changes})
        run.lines += lines
        return features

    run.lines = []
    return run


def opened(photos: Path) -> Dataset:
    return vt.data.open(photos, val=0)


def same(one: ExtractedFeatures, other: ExtractedFeatures) -> bool:
    return (
        torch.equal(one.x, other.x)
        and torch.equal(one.y, other.y)
        and one.ids == other.ids
        and one.bad == other.bad
    )


def entry(folder: Path) -> tuple[Path, Path]:
    """The only numbers of a folder, and their manifest; there is nothing else."""
    numbers, about = sorted(folder.iterdir(), key=lambda file: file.suffix)
    assert (numbers.suffix, about.suffix) == (".f32", ".json")
    return numbers, about


def test_features_are_those_of_the_model_one_by_one(extract, model, photos):
    found = extract()
    dataset = opened(photos)
    assert found.x.shape == (21, 24)
    assert found.x.dtype == torch.float32
    assert found.ids == tuple(example.id for example in dataset.select("train"))
    assert found.y.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert found.bad == ()
    for row in (0, 9, 20):
        pixels = PREPROCESS(photos / found.ids[row])[None]
        with torch.no_grad():
            logits = model(pixels)[0]
            torch.testing.assert_close(model.head(found.x[row]), logits)


def test_the_model_runs_once(extract, model):
    first = extract()
    assert model.calls == 3
    second = extract()
    assert model.calls == 3
    assert same(first, second)
    assert extract.lines == []


def test_what_is_mapped_is_not_written(extract, tmp_path):
    first = extract()
    before = contents(tmp_path / "kept")
    kept = first.x.clone()
    first.x.zero_()
    assert contents(tmp_path / "kept") == before
    assert torch.equal(extract().x, kept)


def test_an_entry_says_what_it_is_of(extract, model, tmp_path):
    extract()
    numbers, about = entry(tmp_path / "kept")
    assert numbers.stat().st_size == 21 * 24 * 4
    stored = json.loads(about.read_text())
    assert stored["shape"] == [21, 24]
    assert stored["bad"] == {}
    assert stored["key"]["preprocess"] == PREPROCESS.hash
    assert stored["key"]["weights"] == weights_hash(model)


def test_anything_that_matters_is_computed_again(extract, model, photos):
    calls = 0

    def runs(expected: int, **changes) -> None:
        nonlocal calls
        extract(**changes)
        assert model.calls - calls == expected
        calls = model.calls

    runs(3)
    runs(0, batch_size=21)
    runs(2, split="test")
    runs(5, split="")
    runs(3, preprocess=replace(PREPROCESS, mean=(0.4, 0.5, 0.5)))
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias[3] += 1
    runs(3)
    model.config = replace(model.config, norm_eps=1e-5)
    runs(3)
    runs(0)
    photo(2, 99).save(photos / "train" / CLASSES[0] / "3.png")
    runs(3)
    os.utime(photos / "train" / CLASSES[2] / "1.png", (1e9, 1e9))
    runs(3)
    (photos / "train" / CLASSES[1] / "6.png").unlink()
    runs(3)
    dataset = opened(photos)
    moved = [replace(dataset.examples[0], label=(1,)), *dataset.examples[1:]]
    runs(3, dataset=replace(dataset, examples=tuple(moved)))
    runs(3, dataset=replace(dataset, examples=dataset.examples[::-1]))
    runs(0)
    assert extract.lines == []


def test_pictures_of_the_same_names_elsewhere_are_others(extract, model, photos):
    extract()
    other = Path(shutil.copytree(photos, photos.parent / "other"))
    for file in other.rglob("*.png"):
        about = (photos / file.relative_to(other)).stat()
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    extract(dataset=opened(other))
    assert model.calls == 6


def test_the_same_folder_may_be_written_in_other_ways(
    extract, model, photos, monkeypatch
):
    extract()
    monkeypatch.chdir(photos.parent)
    extract(dataset=opened(Path("photos")))
    extract(dataset=opened(Path("photos/../photos")))
    assert model.calls == 3


def empty(file: Path) -> None:
    file.write_bytes(b"")


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + bytes(96))


def another(file: Path) -> None:
    """As many numbers, of some other model."""
    numbers = np.random.default_rng(0).normal(size=file.stat().st_size // 4)
    file.write_bytes(numbers.astype("<f4").tobytes())


def no_json(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def a_list(file: Path) -> None:
    file.write_text("[1, 2]")


def change(**values) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return apply


@pytest.mark.parametrize(
    ("which", "harm", "reason"),
    [
        (0, empty, "it has 0 bytes where 2016 were written"),
        (0, shorten, "it has 2012 bytes where 2016 were written"),
        (0, lengthen, "it has 2112 bytes where 2016 were written"),
        (0, another, "its bytes are not those that were written"),
        (0, Path.unlink, "No such file"),
        (1, Path.unlink, "its writing was not finished"),
        (1, empty, "is not a manifest"),
        (1, no_json, "is not a manifest"),
        (1, a_list, "is not a manifest"),
        (1, change(shape=[21]), "is not a manifest"),
        (1, change(shape=["many", 24]), "is not a manifest"),
        (1, change(shape=[float("inf"), 24]), "is not a manifest"),
        (1, change(bad=[]), "is not a manifest"),
        (1, change(key={"weights": "others"}), "is of other weights or other data"),
        (1, change(shape=[20, 24]), "does not fit the images"),
        (1, change(shape=[21, 0]), "does not fit the images"),
    ],
)
def test_a_damaged_entry_is_computed_again_with_a_line(
    extract, model, tmp_path, which, harm, reason
):
    first = extract()
    kept = replace(first, x=first.x.clone())
    harm(entry(tmp_path / "kept")[which])
    assert same(extract(), kept)
    assert model.calls == 6
    (line,) = extract.lines
    assert line.startswith("The kept features ")
    assert reason in line
    assert line.endswith("They are computed again.")
    assert same(extract(), kept)
    assert model.calls == 6
    assert len(extract.lines) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("no memory")])
def test_what_is_interrupted_leaves_nothing(extract, model, tmp_path, stop):
    model.stops = stop
    with pytest.raises(type(stop)):
        extract()
    assert list((tmp_path / "kept").iterdir()) == []
    assert extract().x.shape == (21, 24)


def test_a_killed_writer_is_not_believed_and_is_cleaned_up(extract, model, tmp_path):
    extract()
    numbers, about = entry(tmp_path / "kept")
    about.unlink()
    old = numbers.with_name(f".{numbers.name}.123.tmp")
    numbers.rename(old)
    new = numbers.with_name(f".{numbers.name}.456.tmp")
    new.write_bytes(b"abcd")
    others = tmp_path / "kept" / ".letter.f32.1.tmp"
    others.write_text("of another program")
    for file in (old, others):
        os.utime(file, (1e9, 1e9))
    assert extract().x.shape == (21, 24)
    assert model.calls == 6
    assert not old.exists()
    assert new.exists()
    assert others.exists()
    assert extract.lines == []


def test_a_folder_that_cannot_be_written_costs_a_line(extract, model, tmp_path):
    (tmp_path / "file").write_text("no folder")
    found = extract(folder=tmp_path / "file" / "kept")
    assert same(found, extract())
    (line,) = extract.lines
    assert "could not be kept in " in line
    assert line.endswith("Free space, or name another cache folder.")


def test_a_full_disk_costs_a_line(extract, tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache, "write_json", full)
        found = extract()
    assert "No space left on device" in extract.lines[0]
    assert same(found, extract())
    assert "its writing was not finished" in extract.lines[1]


def test_undecodable_images_are_left_out_and_counted(extract, model, photos):
    for name in ("train/green/2.png", "train/red 2/0.png"):
        (photos / name).write_bytes(b"no image")
    first, second = extract(), extract()
    assert model.calls == 3
    assert same(first, second)
    assert first.x.shape == (19, 24)
    assert first.y.tolist() == [0] * 7 + [1] * 6 + [2] * 6
    assert "train/green/2.png" not in first.ids
    assert [file.path for file in first.bad] == [
        "train/green/2.png",
        "train/red 2/0.png",
    ]
    assert [file.label for file in first.bad] == [(1,), (2,)]
    assert {file.split for file in first.bad} == {"train"}
    line = "2 of 21 images of train cannot be decoded and are left out, first train/gre"
    assert [text.startswith(line) for text in extract.lines] == [True, True]
    photo(1, 5).save(photos / "train/green/2.png")
    assert extract().x.shape == (20, 24)


def test_what_an_audit_took_out_is_counted_too(extract, photos):
    (photos / "train/green/2.png").write_bytes(b"no image")
    (photos / "test/green/1.png").write_bytes(b"no image")
    dataset = vt.data.check(opened(photos), max_bad=1.0).dataset
    found = extract(dataset=dataset)
    assert found.x.shape == (20, 24)
    assert [file.path for file in found.bad] == ["train/green/2.png"]
    assert extract.lines[0].startswith("1 of 21 images of train cannot")


def test_nothing_to_extract_is_an_error(extract, photos, tmp_path):
    with pytest.raises(ConfigError, match=r"no split `val`: photos has train, test\."):
        extract(split="val")
    with pytest.raises(ConfigError, match="does not know its pre-processing"):
        extract(preprocess=None)
    for file in (photos / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="None of the 15 images can be decoded, first"):
        extract(split="test")
    assert list((tmp_path / "kept").iterdir()) == []


@dataclass(frozen=True)
class Shades:
    """A reader of pictures that lie on no disk."""

    shade: int

    def __call__(self, example) -> DecodedImage:
        return to_rgb(Image.new("L", (8, 6), self.shade))


def test_a_reader_without_files_is_part_of_the_key(extract, model, photos):
    dataset = replace(opened(photos), root=Path("nowhere"))
    first = extract(dataset=replace(dataset, reader=Shades(10)))
    again = extract(dataset=replace(dataset, reader=Shades(10)))
    other = extract(dataset=replace(dataset, reader=Shades(200)))
    assert model.calls == 6
    assert same(first, again)
    assert not torch.equal(first.x, other.x)
    turned = replace(dataset, examples=dataset.examples[::-1], reader=Shades(10))
    assert extract(dataset=turned).ids == first.ids[::-1]
    reader = Shades(10)
    found = extract(dataset=replace(dataset, reader=lambda example: reader(example)))
    assert torch.equal(found.x, first.x)
    assert model.calls == 12
    assert "cannot be pickled" in extract.lines[0]


def test_wide_and_narrow_weights_have_a_hash_and_features(extract):
    hashes = set()
    for kind in (torch.float64, torch.bfloat16):
        model = tiny_vit().to(kind)
        hashes.add(weights_hash(model))
        found = extract(model=model)
        assert found.x.dtype == torch.float32
        assert same(found, extract(model=model))
    assert len(hashes) == 2
    renamed = torch.nn.Module()
    renamed.one = torch.nn.Parameter(torch.ones(2, 3))
    hashes = {weights_hash(renamed)}
    renamed.two = renamed.one
    del renamed.one
    hashes.add(weights_hash(renamed))
    renamed.two = torch.nn.Parameter(torch.ones(3, 2))
    hashes.add(weights_hash(renamed))
    assert len(hashes) == 3


def test_weights_by_path(extract, model, tmp_path, monkeypatch):
    vt.save(tmp_path / "weights", model, PREPROCESS)
    found = extract(model=tmp_path / "weights", preprocess=None)
    assert torch.equal(found.x, extract().x)
    with monkeypatch.context() as patched:
        patched.setattr(cache, "_compute_entry", None)
        again = extract(model=str(tmp_path / "weights"), preprocess=None)
    assert same(found, again)


def test_the_default_place_is_the_users_cache(extract, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_cache_folder() == tmp_path / "cache" / "vitral" / "features"
    extract(folder=None)
    entry(default_cache_folder())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "vitral" / "features"


def test_public_features_keep_when_they_are_told_to(model, photos, tmp_path):
    (photos / "test/green/1.png").write_bytes(b"no image")
    with captured_log() as lines:
        plain = vt.features(model, PREPROCESS, str(photos), split="test")
        assert model.calls == 1
        for _ in range(2):
            x, y = vt.features(
                model, PREPROCESS, str(photos), split="test", cache=tmp_path / "kept"
            )
            assert torch.equal(x, plain.x)
            assert torch.equal(y, plain.y)
    assert model.calls == 2
    told = [line for line in lines if "1 of 15 images of test cannot be" in line]
    assert len(told) == 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> vt.Run:
    """Two steps on photos without splits, and a split by the run's own seed."""
    root = tmp_path_factory.mktemp("run")
    photos = make_photos(root / "photos", splits=(), per_class=12)
    config = tiny_config(photos, seed=5, loop={"steps": 2, "eval_every": 2})
    return vt.train(config, root / "run")


def test_material_of_a_run_keeps_the_split_of_the_run(run, tmp_path):
    ids = {"train": set(), "val": set(), "test": set()}
    for line in (run.path / "split.csv").read_text().splitlines()[1:]:
        path, _, split = line.split(",")
        ids[split].add(path)
    assert all(ids.values())
    for given, data in ((run, ""), (run.path, run.config.data), (str(run.path), "")):
        found = extract_splits(
            given, data, folder=tmp_path, runtime=Runtime(device="cpu")
        )
        train, test, dev = found.train, found.test, found.dev
        assert set(train.ids) == ids["train"]
        assert set(test.ids) == ids["test"]
        assert set(dev.ids) == ids["val"]
        assert found.classes == CLASSES
    assert len(list(tmp_path.glob("*.json"))) == 3
    x, _ = vt.features(run.model, run.preprocess, vt.data.open(run.config.data))
    assert x.shape == (36, test.x.shape[1])


def test_material_of_weights_and_other_data(run, untouched, tmp_path):
    model = run.path / "model"

    def of(weights, data):
        return extract_splits(
            weights, data, folder=tmp_path, runtime=Runtime(device="cpu")
        )

    with captured_log() as lines:
        found = of(model, opened(untouched))
        from_run = of(run, opened(untouched))
        by_hash = of(model, untouched)
    assert (len(found.train.ids), len(found.test.ids)) == (21, 15)
    assert found.dev is None
    assert same(found.test, from_run.test)
    assert by_hash.dev is not None
    assert len(by_hash.train.ids) + len(by_hash.dev.ids) == 21
    assert lines == []
    dataset = opened(untouched)
    moved = {"test": "val", "train": "train"}
    examples = tuple(replace(e, split=moved[e.split]) for e in dataset.examples)
    with captured_log() as lines:
        found = of(model, replace(dataset, examples=examples))
    assert (len(found.test.ids), found.dev) == (15, None)
    assert lines == ["photos has no test split: val is the test."]


def test_material_needs_data_with_a_test_and_one_label(run, untouched):
    for weights in (run.path / "model", vt.open(run.path / "model")):
        with pytest.raises(ConfigError, match="is not a run and has no data of its"):
            extract_splits(weights)
    dataset = opened(untouched)
    with pytest.raises(ConfigError, match="has the splits train: evaluating weights"):
        extract_splits(run, replace(dataset, examples=dataset.select("train")))
    first, *others = dataset.examples
    several = (replace(first, label=(0, 1)), *others)
    with pytest.raises(DataError, match="have several labels each"):
        extract_splits(run, replace(dataset, examples=several))


def test_readers_of_tests_can_be_pickled():
    assert pickle.loads(pickle.dumps(Shades(3))) == Shades(3)
