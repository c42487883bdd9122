"""Images of a batch in several threads: the same batches, where it is allowed."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral.data
from vitral.data import AugmentConfig, Loader, Preprocess, training_transform
from vitral.data.loading.thread_map import MIN_SECONDS_PER_ITEM, map_in_threads

LONG = 3 * MIN_SECONDS_PER_ITEM


def slow(item: int) -> tuple[int, int]:
    time.sleep(LONG)
    return item * item, threading.get_ident()


def test_results_keep_their_order_and_all_threads_work():
    found = map_in_threads(slow, range(20), 3)
    assert [value for value, _ in found] == [item * item for item in range(20)]
    assert len({thread for _, thread in found}) == 3


def test_what_takes_little_time_stays_in_this_thread():
    found = map_in_threads(lambda item: threading.get_ident(), range(500), 4)
    assert set(found) == {threading.get_ident()}


@pytest.mark.parametrize("threads", [0, 1])
def test_one_thread_works_alone(threads):
    found = map_in_threads(slow, range(5), threads)
    assert {thread for _, thread in found} == {threading.get_ident()}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_few_items(number):
    assert [value for value, _ in map_in_threads(slow, range(number), 2)] == [
        item * item for item in range(number)
    ]


def test_an_error_ends_the_work_and_is_raised():
    began: list[int] = []

    def work(item: int) -> int:
        time.sleep(LONG)
        began.append(item)
        if item == 7:
            raise ValueError("the seventh")
        return item

    with pytest.raises(ValueError, match="the seventh"):
        map_in_threads(work, range(1000), 2)
    assert len(began) < 12
    assert threading.active_count() < 10


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images that take over a millisecond, and one that is none."""
    random = np.random.default_rng(0)
    for number in range(12):
        place = tmp_path / "photos" / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        values = random.integers(0, 256, (400, 500, 3)).astype(np.uint8)
        Image.fromarray(values).save(place / f"{number:02d}.png", compress_level=1)
    (tmp_path / "photos" / "0" / "broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


def batches(folder: Path, augment: AugmentConfig, threads: int):
    """Batches of one epoch, what could not be read, and which threads worked."""
    dataset = vitral.data.open(str(folder))
    preprocess = Preprocess(image_size=(96, 96), interpolation="bicubic")
    transform = training_transform(augment, preprocess, 0)
    seen: set[int] = set()
    reader = dataset.reader

    class Watched:
        concurrent = True

        def __call__(self, example):
            seen.add(threading.get_ident())
            return reader(example)

    object.__setattr__(dataset, "reader", Watched())
    loader = Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=transform,
        batch_size=13,
        shuffle=True,
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return list(loader.epoch(1)), loader.failures, seen
    finally:
        torch.set_num_threads(before)


def test_batches_and_failures_are_those_of_one_thread(photos):
    augment = AugmentConfig(crop="inception", shift=0.1, rotate=5.0)
    alone, failures, one = batches(photos, augment, 1)
    together, same, two = batches(photos, augment, 2)
    assert (len(one), len(two)) == (1, 2)
    assert [failure.id for failure in failures] == ["0/broken.png"]
    assert same == failures
    for expected, found in zip(alone, together, strict=True):
        assert found.id == expected.id
        assert torch.equal(found.image, expected.image)
        assert torch.equal(found.target.shares, expected.target.shares)


def test_what_draws_from_the_shared_generator_has_one_thread(photos):
    augment = AugmentConfig(crop="inception", rand_augment=2, random_erasing=0.5)
    alone, _, _ = batches(photos, augment, 1)
    together, _, seen = batches(photos, augment, 2)
    assert len(seen) == 1
    for expected, found in zip(alone, together, strict=True):
        assert torch.equal(found.image, expected.image)
