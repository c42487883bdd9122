"""vitral.data.loading.loader: equal batches for any number of workers, and honest
failures."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vitral.data as data
from helpers import same_batch
from photos import make_noise
from vitral.data import (
    Augment,
    AugmentConfig,
    EvalTransform,
    Loader,
    MixConfig,
    Preprocess,
)
from vitral.errors import ConfigError, VitralError

PREPROCESS = Preprocess(image_size=(24, 40))
ALL = AugmentConfig(
    crop="inception",
    shift=0.1,
    rotate=15.0,
    rand_augment=2,
    color_jitter=0.4,
    random_erasing=0.5,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> data.Dataset:
    return data.open(make_noise(tmp_path_factory.mktemp("images"), 23), val=0, test=0)


def loader(dataset: data.Dataset, **changes) -> Loader:
    settings = {
        "dataset": dataset,
        "examples": dataset.select("train"),
        "transform": Augment(config=ALL, preprocess=PREPROCESS, seed=1),
        "batch_size": 5,
        "seed": 3,
        "shuffle": True,
        "mix": MixConfig(mixup=0.4, cutmix=1.0),
    }
    return Loader(**{**settings, **changes})


@pytest.fixture
def two_threads():
    """Two threads here, one in each worker: pixels must not depend on that either."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_bits_are_equal_for_0_1_and_2_workers(dataset, two_threads):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    reference = list(loader(dataset).epoch(2))
    assert [len(batch.id) for batch in reference] == [5, 5, 5, 5, 3]
    for workers in (1, 2):
        batches = list(loader(dataset, workers=workers).epoch(2))
        assert len(batches) == 5
        assert all(map(same_batch, reference, batches))
    assert torch.equal(torch.get_rng_state(), state)


def test_packed_images_of_workers_have_the_bits_of_those_built_here(dataset):
    preprocess = replace(PREPROCESS, antialias=True)
    vary = Augment(config=AugmentConfig(crop="inception"), preprocess=preprocess)
    here = loader(dataset, transform=vary, mix=None, repeats=2)
    task = here.requests(1)[0]
    expected = next(here.epoch(1))
    builder = here._make_builder()
    for size in (0, 5 * 3 * 24 * 40 - 1, 5 * 3 * 24 * 40, 99_999):
        slot = torch.full((size,), 7, dtype=torch.uint8) if size else None
        sent = builder.build(task, send=True, slot=slot)
        assert sent.payload is not None
        # A slot that is too small, as for a later stage with larger images, is left.
        is_in_slot = isinstance(sent.payload, tuple)
        assert is_in_slot == (size >= 5 * 3 * 24 * 40)
        shape = sent.payload if is_in_slot else sent.payload.shape
        assert shape == (5, 3, 24, 40)
        assert same_batch(sent.attach_images(vary, slot).batch, expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_slot_is_written_before_it_is_read(dataset, workers):
    preprocess = replace(PREPROCESS, antialias=True)
    vary = Augment(config=AugmentConfig(crop="inception"), preprocess=preprocess)
    settings = {"transform": vary, "mix": None, "batch_size": 2}
    here, there = loader(dataset, **settings), loader(dataset, **settings)
    there.workers = workers
    for epoch in (1, 2):
        batches = []
        for batch in there.epoch(epoch):
            time.sleep(0.05)  # the workers are as far ahead as they may be
            batches.append(batch)
        assert len(batches) == 12 > 2 * workers + 1
        assert all(map(same_batch, here.epoch(epoch), batches))


def test_a_start_within_the_epoch_gives_the_same_rest(dataset):
    whole = list(loader(dataset).epoch(4))
    for workers in (0, 2):
        rest = list(loader(dataset, workers=workers).epoch(4, start=3))
        assert len(rest) == 2
        assert all(map(same_batch, whole[3:], rest))
    assert list(loader(dataset).epoch(4, start=5)) == []


def test_a_start_decodes_nothing_of_the_batches_before(dataset, monkeypatch):
    read = []
    original = data.Dataset.open

    def count(self, example):
        read.append(example.id)
        return original(self, example)

    monkeypatch.setattr(data.Dataset, "open", count)
    batches = list(loader(dataset).epoch(0, start=4))
    assert tuple(read) == batches[0].id


def test_order_is_a_permutation_of_seed_and_epoch(dataset):
    first = loader(dataset)
    orders = {tuple(first.order(epoch)) for epoch in range(20)}
    assert len(orders) == 20
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert first.order(7) == loader(dataset).order(7)
    assert first.order(7) != loader(dataset, seed=4).order(7)
    assert loader(dataset, shuffle=False).order(7) == list(range(23))
    ids = [name for batch in first.epoch(1) for name in batch.id]
    assert sorted(ids) == sorted(example.id for example in dataset.examples)


def test_labels_and_targets(dataset):
    plain = loader(
        dataset, transform=EvalTransform(preprocess=PREPROCESS), mix=None, shuffle=False
    )
    batches = list(plain.epoch(0))
    examples = dataset.select("train")
    assert batches[0].id == tuple(example.id for example in examples[:5])
    labels = torch.cat([batch.target.label for batch in batches])
    assert labels.tolist() == [example.label[0] for example in examples]
    shares, label = batches[1].target
    assert torch.equal(shares, torch.eye(3)[label])
    expected = PREPROCESS(dataset.root / examples[6].id)
    assert torch.equal(batches[1].image[1], expected)


def test_mixing_keeps_the_own_label_in_label(dataset):
    mixed = next(loader(dataset, mix=MixConfig(mixup=1.0)).epoch(0))
    pure = next(loader(dataset, mix=None).epoch(0))
    assert torch.equal(mixed.target.label, pure.target.label)
    assert not torch.equal(mixed.image, pure.image)
    assert torch.allclose(mixed.target.shares.sum(1), torch.ones(5))


def test_length_and_drop_last(dataset):
    assert len(loader(dataset)) == 5
    dropped = loader(dataset, drop_last=True)
    assert len(dropped) == 4
    assert [len(batch.id) for batch in dropped.epoch(0)] == [5, 5, 5, 5]


def damaged(root: Path, tmp_path: Path, victims: tuple[str, ...]) -> data.Dataset:
    for path in sorted(root.rglob("*.png")):
        copy = tmp_path / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    result = data.open(tmp_path, val=0, test=0)
    for victim in victims:
        (tmp_path / victim).write_bytes(b"")
    return result


def test_a_file_that_broke_is_dropped_recorded_and_not_replaced(dataset, tmp_path):
    victims = ("class 0/3.png", "class 1/4.png")
    broken = damaged(dataset.root, tmp_path, victims)
    reference = None
    for workers in (0, 2):
        loaded = loader(broken, workers=workers)
        assert loaded.failures == ()
        batches = list(loaded.epoch(1))
        reference = reference or batches
        assert all(map(same_batch, reference, batches))
        ids = [name for batch in batches for name in batch.id]
        assert len(ids) == len(set(ids)) == 21
        assert not set(ids) & set(victims)
        found = {failure.id: failure.reason for failure in loaded.failures}
        assert set(found) == set(victims)
        assert found["class 0/3.png"] == "the file is empty (0 bytes)"
        list(loaded.epoch(2))
        assert len(loaded.failures) == 2


def test_a_batch_without_any_readable_example_is_skipped(dataset, tmp_path):
    victims = tuple(example.id for example in dataset.examples[5:10])
    broken = damaged(dataset.root, tmp_path, victims)
    loaded = loader(broken, shuffle=False)
    sizes = [len(batch.id) for batch in loaded.epoch(0)]
    assert sizes == [5, 5, 5, 3]
    assert {failure.id for failure in loaded.failures} == set(victims)


class Who:
    """The process that builds an image, in every value of it."""

    def __call__(self, image, example_id, epoch):
        return torch.full((3, 2, 4), os.getpid(), dtype=torch.float64)


def builders(batches) -> set[int]:
    return {int(batch.image[0, 0, 0, 0]) for batch in batches}


def test_workers_stay_from_one_epoch_to_the_next_and_end_with_the_loader(dataset):
    loaded = loader(dataset, transform=Who(), mix=None, workers=2)
    first = builders(loaded.epoch(0))
    assert len(first) == 2
    assert os.getpid() not in first
    assert builders(loaded.epoch(1)) == builders(loaded.epoch(5, start=2)) == first
    # A step of training may read two epochs at once, or leave one.
    half = loaded.epoch(2)
    there = builders([next(half)])
    assert there < first
    assert not builders(loaded.epoch(3)) & first
    assert builders(half) <= first
    del half
    other = builders(loaded.epoch(4))
    loaded.seed = 9
    again = builders(loaded.epoch(4))
    assert not other & again
    del loaded
    until = time.monotonic() + 30
    while any(map(alive, first | other | again)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, first | other | again))


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")")[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_a_worker_that_dies_between_epochs_is_an_error_and_then_replaced(dataset):
    loaded = loader(dataset, transform=Who(), mix=None, workers=2)
    first = builders(loaded.epoch(0))
    os.kill(min(first), signal.SIGKILL)
    with pytest.raises(VitralError, match=r"A loader worker died"):
        list(loaded.epoch(1))
    assert not builders(loaded.epoch(1)) & first


def test_few_batches_start_few_workers(dataset):
    loaded = loader(
        dataset, transform=Who(), mix=None, batch_size=12, drop_last=True, workers=4
    )
    found = [builders(loaded.epoch(epoch)) for epoch in range(2)]
    assert found[0] == found[1]
    assert len(found[0]) == 1


class KillItself:
    def __call__(self, image, example_id, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return PREPROCESS(image)


class Hang:
    def __call__(self, image, example_id, epoch):
        time.sleep(60)


def test_a_killed_worker_is_an_error_within_seconds(dataset):
    loaded = loader(dataset, transform=KillItself(), workers=2)
    assert len(list(loaded.epoch(0))) == 5
    started = time.monotonic()
    with pytest.raises(VitralError, match=r"A loader worker died .*Use fewer workers"):
        list(loaded.epoch(1))
    assert time.monotonic() - started < 15


def test_a_hanging_worker_is_an_error_after_the_timeout(dataset):
    loaded = loader(dataset, transform=Hang(), workers=1, timeout=2.0)
    with pytest.raises(VitralError, match=r"gave no batch for 3 seconds. A file or"):
        list(loaded.epoch(0))


def test_a_transform_that_cannot_travel(dataset):
    loaded = loader(dataset, transform=lambda image, name, epoch: image, workers=1)
    with pytest.raises(
        ConfigError, match=r"cannot be sent to 1 worker.*top of a module"
    ):
        list(loaded.epoch(0))


def test_an_error_of_the_transform_is_not_hidden(dataset):
    with pytest.raises(ZeroDivisionError):
        list(loader(dataset, transform=lambda *_: 1 / 0).epoch(0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1: got 0"),
        ({"workers": -1}, "`workers` must be at least 0: got -1"),
        ({"timeout": -1.0}, "`timeout` must be at least 0: got -1.0"),
        ({"examples": ()}, r"has no batch: 0 example\(s\), batch_size 5"),
        ({"batch_size": 24, "drop_last": True}, r"has no batch: 23 example\(s\)"),
    ],
)
def test_wrong_settings(dataset, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        loader(dataset, **changes)
