"""vitral.data.loading.loader: what an epoch shows, by hand; and the
loader that shows it."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import vitral.data as data
from helpers import same_batch
from photos import make_noise
from vitral.data import (
    Augment,
    AugmentConfig,
    Loader,
    MixConfig,
    Preprocess,
    TransformSchedule,
)
from vitral.data.loading.loader import SampleRef, repeat_augment
from vitral.errors import ConfigError

SIZES = ((16, 24), (24, 40), (32, 48))
ALL = AugmentConfig(crop="inception", shift=0.1, rotate=15.0, rand_augment=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> data.Dataset:
    return data.open(make_noise(tmp_path_factory.mktemp("images"), 13), val=0, test=0)


def augment(size: tuple[int, int], config: AugmentConfig = ALL) -> Augment:
    return Augment(config=config, preprocess=Preprocess(image_size=size), seed=1)


def loader(dataset: data.Dataset, **changes) -> Loader:
    settings = {
        "dataset": dataset,
        "examples": dataset.select("train"),
        "transform": augment((24, 40)),
        "batch_size": 6,
        "seed": 3,
        "shuffle": True,
        "mix": MixConfig(mixup=0.4, cutmix=1.0),
    }
    return Loader(**{**settings, **changes})


# repeated augmentation


def test_one_variation_is_the_order_itself():
    shown = repeat_augment([4, 0, 3, 1, 2], epoch=7, batch_size=2, repeats=1)
    assert shown == [SampleRef(place, 7) for place in (4, 0, 3, 1, 2)]


def test_three_variations_by_hand():
    order = [5, 2, 7, 0, 4, 1, 6, 3]
    # 5 5 5 2 2 2 | 7 7, each place three times in a row, cut to eight.
    shown = repeat_augment(order, epoch=2, batch_size=6, repeats=3)
    assert shown == [
        *[
            SampleRef(5, 6),
            SampleRef(2, 6),
            SampleRef(5, 7),
            SampleRef(2, 7),
            SampleRef(5, 8),
            SampleRef(2, 8),
        ],
        *[SampleRef(7, 6), SampleRef(7, 7)],
    ]


def test_as_many_images_of_a_third_of_the_examples():
    order = np.random.default_rng(0).permutation(100).tolist()
    shown = repeat_augment(order, epoch=4, batch_size=12, repeats=3)
    assert len(shown) == 100
    counts = Counter(image.example_index for image in shown)
    assert sorted(counts.values()) == [1] + 33 * [3]
    assert set(counts) == set(order[:34])
    assert len(set(shown)) == 100
    assert {image.draw for image in shown} == {12, 13, 14}
    for start in range(0, 96, 12):
        batch = [image.example_index for image in shown[start : start + 12]]
        assert sorted(Counter(batch).values()) == [3, 3, 3, 3]
        # Nobody is the neighbour, nor mixup's partner, of itself.
        assert all(a != b for a, b in zip(batch, np.roll(batch, 1), strict=True))


def test_epochs_show_new_variations():
    seen = [
        image
        for epoch in range(5)
        for image in repeat_augment(range(9), epoch, 4, repeats=2)
    ]
    assert len(set(seen)) == len(seen) == 45


def test_batches_of_repeated_variations(dataset):
    plain = loader(dataset)
    several = loader(dataset, repeats=3, mix=None)
    assert len(several) == len(plain) == 3
    batches = list(several.epoch(1))
    assert [len(batch.id) for batch in batches] == [6, 6, 1]
    first = batches[0]
    examples = dataset.select("train")
    order = several.order(1)
    assert sorted(order) == list(range(13))
    names = [examples[place].id for place in order]
    assert first.id == (names[0], names[1]) * 3
    vary = augment((24, 40))
    for row, (name, number) in enumerate(
        zip(first.id, [3, 3, 4, 4, 5, 5], strict=True)
    ):
        image = Image.open(dataset.root / name)
        assert torch.equal(first.image[row], vary(image, name, number))
    assert not torch.equal(first.image[0], first.image[2])


def test_an_example_is_read_once_for_all_its_variations(dataset, monkeypatch):
    read = []
    original = data.Dataset.open

    def count(self, example):
        read.append(example.id)
        return original(self, example)

    monkeypatch.setattr(data.Dataset, "open", count)
    first = next(loader(dataset, repeats=3).epoch(0))
    assert tuple(read) == first.id[:2]


def test_a_broken_example_loses_all_its_variations(dataset, tmp_path):
    for example in dataset.examples:
        (tmp_path / example.id).parent.mkdir(exist_ok=True)
        (tmp_path / example.id).write_bytes((dataset.root / example.id).read_bytes())
    copy = data.open(tmp_path, val=0, test=0)
    reference = next(loader(copy, repeats=3, mix=None).epoch(0))
    (tmp_path / reference.id[0]).write_bytes(b"")
    broken = loader(copy, repeats=3, mix=None)
    found = next(broken.epoch(0))
    assert found.id == (reference.id[1],) * 3
    assert torch.equal(found.image, reference.image[1::2])
    assert [failure.id for failure in broken.failures] == [reference.id[0]]


def test_one_variation_changes_no_bit(dataset):
    reference = list(loader(dataset).epoch(2))
    assert all(map(same_batch, reference, loader(dataset, repeats=1).epoch(2)))
    examples = {example.id: example for example in dataset.examples}
    vary = augment((24, 40))
    pure = next(loader(dataset, mix=None).epoch(2))
    for name, image in zip(pure.id, pure.image, strict=True):
        opened = dataset.open(examples[name])
        assert torch.equal(vary(opened, name, 2), image)


def test_repeats_in_workers_and_from_the_middle(dataset):
    reference = list(loader(dataset, repeats=2).epoch(3))
    for workers in (1, 2):
        batches = list(loader(dataset, repeats=2, workers=workers).epoch(3))
        assert all(map(same_batch, reference, batches))
    rest = list(loader(dataset, repeats=2).epoch(3, start=1))
    assert len(rest) == 2
    assert all(map(same_batch, reference[1:], rest))


def test_views_are_gone_through_within_an_epoch():
    config = AugmentConfig(views=4)
    assert [config.view(2 * epoch + k) for epoch in (0, 1, 2) for k in (0, 1)] == [
        *[0, 1, 2, 3, 0, 1]
    ]


def test_wrong_repeats(dataset):
    with pytest.raises(ConfigError, match="`repeats` must be at least 1: got 0"):
        loader(dataset, repeats=0)
    with pytest.raises(
        ConfigError, match=r"`augment.repeats` must be a number of variations.*got 0"
    ):
        AugmentConfig(repeats=0)


# stages


def stages(batches: int) -> TransformSchedule:
    return TransformSchedule(transforms=tuple(map(augment, SIZES)), batches=batches)


def test_equal_parts_by_hand():
    found = stages(7)
    heights = [found.at(place).preprocess.image_size[0] for place in range(9)]
    assert heights == [16, 16, 16, 24, 24, 32, 32, 32, 32]


def test_a_border_within_an_epoch(dataset):
    # 3 batches an epoch, 7 in all: 0 1 2 | 3 4 | 5 6.
    loaded = loader(dataset, transform=stages(7))
    sizes = [
        tuple(batch.image.shape[2:])
        for epoch in range(3)
        for batch in loaded.epoch(epoch)
    ]
    assert sizes[:7] == 3 * [SIZES[0]] + 2 * [SIZES[1]] + 2 * [SIZES[2]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_stages_in_workers_and_from_the_middle(dataset, workers):
    reference = list(loader(dataset, transform=stages(8)).epoch(1))
    assert [batch.image.shape[2] for batch in reference] == [24, 24, 24]
    whole = list(loader(dataset, transform=stages(7)).epoch(1))
    assert [batch.image.shape[2] for batch in whole] == [24, 24, 32]
    again = loader(dataset, transform=stages(7), workers=workers)
    assert all(map(same_batch, whole, again.epoch(1)))
    assert all(map(same_batch, whole[2:], again.epoch(1, start=2)))
    # A stage is the plain loader of its size.
    plain = loader(dataset, transform=augment(SIZES[2]))
    assert same_batch(whole[2], list(plain.epoch(1))[2])


def test_the_crop_of_an_image_is_the_same_at_every_size():
    config = AugmentConfig(crop="inception")
    ramp = np.zeros((60, 90, 3), np.uint8)
    ramp[..., 0] = np.arange(60)[:, None] * 4
    ramp[..., 1] = np.arange(90) * 2
    picture = Image.fromarray(ramp)
    corners = []
    for size in ((30, 45), (60, 90), (120, 180)):
        preprocess = Preprocess(image_size=size)
        vary = Augment(config=config, preprocess=preprocess, seed=5)
        rows = []
        for number in range(12):
            shown = preprocess.denormalize(vary(picture, "a", number)).float()
            rows.append([*shown[0, [0, -1], 0], *shown[1, 0, [0, -1]]])
        corners.append(torch.tensor(rows))
    # Where a crop begins and ends, and whether it is mirrored, up to half a pixel.
    assert (corners[0] - corners[1]).abs().max() <= 8
    assert (corners[2] - corners[1]).abs().max() <= 8
    assert corners[1][:, 0].unique().numel() > 6
