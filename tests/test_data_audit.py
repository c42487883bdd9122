"""vitral.data.audit: planted faults are found, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitral.data as data
from vitral.errors import DataError


def write(path: Path, key: int, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.Philox(key=key))
    array = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
    exif = Image.Exif()
    if path.stem.startswith("turned"):
        exif[0x0112] = 6
    Image.fromarray(array).save(path, exif=exif)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(120):
        split = ("train", "train", "val", "test")[number % 4]
        write(tmp_path / split / f"class {number % 3}" / f"{number}.png", number)
    return tmp_path


def test_a_clean_set_has_no_finding(root):
    audit = data.check(data.open(root))
    assert audit.bad == audit.leaks == audit.conflicts == audit.notes == ()
    assert audit.decoded == 120
    assert audit.median_size == audit.smallest == audit.largest == (20, 30)
    assert audit.dataset.examples == data.open(root).examples


@pytest.mark.parametrize("workers", [0, 2])
def test_planted_faults_are_found(root, workers):
    write(root / "train" / "class 0" / "turned 1.jpg", 1000, (40, 90))
    write(root / "train" / "class 0" / "turned 2.jpg", 1001, (40, 90))
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(grey).save(root / "train" / "class 1" / "deep.png")
    # 2 is in val as class 2, 4 in train as class 1.
    copy = (root / "val" / "class 2" / "2.png").read_bytes()
    (root / "train" / "class 2" / "copy.png").write_bytes(copy)
    with Image.open(root / "train" / "class 1" / "4.png") as image:
        image.save(root / "train" / "class 2" / "other.bmp")
    (root / "train" / "class 0" / "0.png").write_bytes(b"")
    (root / "val" / "class 0" / "6.png").write_bytes(b"\x89PNG")
    dataset = data.open(root)
    audit = data.check(dataset, workers=workers, max_bad=0.02)
    bad = {item.path: item for item in audit.bad}
    assert set(bad) == {"train/class 0/0.png", "val/class 0/6.png"}
    assert bad["val/class 0/6.png"].split == "val"
    assert bad["val/class 0/6.png"].label == (0,)
    assert bad["train/class 0/0.png"].reason == "the file is empty (0 bytes)"
    assert audit.dataset.bad == audit.bad
    assert len(audit.dataset.examples) == len(dataset.examples) - 2
    assert [set(leak.ids) for leak in audit.leaks] == [
        {"train/class 2/copy.png", "val/class 2/2.png"}
    ]
    assert set(audit.leaks[0].splits) == {"train", "val"}
    assert audit.leaks[0].same_label
    assert [set(item.ids) for item in audit.conflicts] == [
        {"train/class 1/4.png", "train/class 2/other.bmp"}
    ]
    assert set(audit.notes) == {
        "EXIF orientation applied: 2 file(s)",
        "16-bit grey scaled to 8 bits for a picture: 1 file(s)",
        "1 of 64 files hold more than 8 bits: each is scaled by the range of its "
        "type, since one range does not fit both kinds",
        "1 image(s) are in more than one split with equal pixels, such as "
        "train/class 2/copy.png and val/class 2/2.png",
        "1 image(s) appear twice with different labels, such as "
        "train/class 1/4.png and train/class 2/other.bmp",
    }
    assert audit.largest == (90, 40)
    assert audit.median_size == (20, 30)


def test_more_than_one_percent_is_refused_with_the_first_five(root):
    victims = sorted(root.rglob("*.png"))[:7]
    victims[0].write_bytes(b"")
    dataset = data.open(root)
    # 1 of 120 is below 1 %, 2 are above it.
    assert len(data.check(dataset).bad) == 1
    for victim in victims:
        victim.write_bytes(b"")
    with pytest.raises(
        DataError, match="7 of 120 images cannot be decoded, more than the 1% that is"
    ) as caught:
        data.check(dataset)
    assert str(caught.value).count("the file is empty (0 bytes)") == 5
    assert "Repair or remove" in str(caught.value)
    assert "raise `max_bad`" in str(caught.value)
    assert len(data.check(dataset, max_bad=0.1).bad) == 7
    # Above 1 it is a number of files.
    assert len(data.check(dataset, max_bad=7).bad) == 7
    with pytest.raises(DataError, match="more than the 6 that are accepted"):
        data.check(dataset, max_bad=6)
    with pytest.raises(DataError, match=r"more than the 5.5% that is accepted"):
        data.check(dataset, max_bad=0.055)


def test_a_train_split_without_a_readable_image_is_refused(root):
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="60 of 120 images cannot be decoded, and none"):
        data.check(data.open(root), max_bad=0.9)


def test_not_full_looks_at_a_thousand(root):
    assert data.check(data.open(root), full=False).decoded == 120
    digits = data.open("digits")
    audit = data.check(digits, full=False)
    assert audit.decoded == 899
    assert audit.dataset.examples == digits.examples
