"""Targets of any kind through the loader: classes, lists, none at all."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch

from photos import make_photos
from vitral import data
from vitral.data import ClassTargets, Loader, MixConfig, Preprocess
from vitral.data.targets import ClassShares
from vitral.errors import ConfigError, ImageError

CLASSES = ClassTargets()


def stack(*examples: data.Example, names: tuple[str, ...] = ("x", "y")) -> Any:
    return CLASSES.stack(names, examples, [CLASSES.read(e) for e in examples])


def test_one_hot_soft_and_multi_hot_shares():
    hot = data.Example(id="a", label=(0, 3))
    assert stack(hot, names=tuple("abcdefg")).shares.tolist() == [[1, 0, 0, 1, 0, 0, 0]]
    one, soft = (
        data.Example(id="a", label=(1,)),
        data.Example(id="b", label=(1,), target=ClassShares((0, 1), (0.25, 0.75))),
    )
    target = stack(one, soft)
    assert target.shares.tolist() == [[0, 1], [0.25, 0.75]]
    assert target.label.tolist() == [1, 1]
    assert target.label.dtype == torch.int64


def test_an_example_without_a_label_has_no_shares():
    target = stack(data.Example(id="a"))
    assert target.shares.tolist() == [[0, 0]]
    assert target.label.tolist() == [0]


def test_the_blend_leaves_the_label():
    target = stack(*(data.Example(id=n, label=(i,)) for i, n in enumerate("ab")))
    blended = CLASSES.blend(target, 0.75)
    assert blended.shares.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert blended.label.tolist() == [0, 1]


class Marks(NamedTuple):
    points: list[torch.Tensor]
    count: torch.Tensor


@dataclass(frozen=True)
class Points(data.Targets):
    """As many points as the digit of the file's name; one file is broken."""

    broken: str = ""

    def read(self, example: data.Example) -> torch.Tensor:
        if example.id == self.broken:
            raise ImageError("its points are no points")
        return torch.full((int(example.id[-5]), 2), float(example.id[-5]))

    def stack(
        self,
        names: tuple[str, ...],
        examples: Sequence[data.Example],
        values: Sequence[Any],
    ) -> Marks:
        return Marks(list(values), torch.tensor([len(value) for value in values]))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets") / "photos"
    make_photos(folder, splits=("train",), per_class=4)
    return data.open(folder)


def loader_of(dataset: data.Dataset, **changes: Any) -> Loader:
    return Loader(
        **{
            "dataset": dataset,
            "examples": dataset.examples,
            "transform": data.EvalTransform(preprocess=Preprocess(image_size=(16, 24))),
            "batch_size": 5,
            **changes,
        }
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_lists_of_any_length_reach_the_batch(photos, workers):
    loader = loader_of(replace(photos, targets=Points()), workers=workers)
    batches = list(loader.epoch(0))
    assert sum(len(batch.id) for batch in batches) == 12
    for batch in batches:
        digits = [int(name[-5]) for name in batch.id]
        assert isinstance(batch.target, Marks)
        assert batch.target.count.tolist() == digits
        assert [points.shape for points in batch.target.points] == [
            (digit, 2) for digit in digits
        ]
        assert all(
            (p == d).all() for p, d in zip(batch.target.points, digits, strict=True)
        )


def test_a_target_that_cannot_be_read_drops_the_example(photos):
    broken = photos.examples[2].id
    loader = loader_of(replace(photos, targets=Points(broken)))
    assert broken not in [name for batch in loader.epoch(0) for name in batch.id]
    assert loader.failures == ((broken, "its points are no points"),)


@pytest.mark.parametrize("workers", [0, 1])
def test_targets_without_a_blend_refuse_mixing(photos, workers):
    dataset = replace(photos, targets=Points())
    loader = loader_of(dataset, mix=MixConfig(mixup=0.2), workers=workers)
    with pytest.raises(
        ConfigError,
        match="Mixup and CutMix blend two targets, and Points have no blend: switch "
        "both off with `mixup=0` and `cutmix=0`",
    ):
        next(loader.epoch(0))
    assert next(loader_of(dataset, mix=MixConfig()).epoch(0)).id
