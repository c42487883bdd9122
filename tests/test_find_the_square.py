"""A generated task whose answer is known: a model that solves it must look there."""

import copy
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitral.data.sources.synthetic import PATTERNS, Squares, find_the_square
from vitral.errors import ConfigError
from vitral.inspection import rollout
from vitral.inspection.faithfulness import (
    deletion,
    insertion,
    random_order,
    randomization_check,
)
from vitral.models import ViT, ViTConfig

SIZE, PATCH = (48, 80), 8
ROWS, COLUMNS = 6, 10
STEPS, BATCH = 300, 32


def test_the_same_seed_gives_the_same_images():
    first, again = (find_the_square(9, (24, 40), seed=3) for _ in range(2))
    other = find_the_square(9, (24, 40), seed=4)
    for name in ("images", "labels", "boxes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.images != other.images).mean() > 0.9
    assert (first.boxes != other.boxes).any()


def test_shapes_and_types():
    squares = find_the_square(9, (24, 40), seed=0)
    assert squares.images.shape == (9, 24, 40, 3)
    assert squares.images.dtype == np.uint8
    assert squares.labels.shape == (9,)
    assert squares.boxes.shape == (9, 4)


@pytest.mark.parametrize("side", [8, 12])
def test_each_pattern_is_in_its_box_and_noise_around_it(side):
    squares = find_the_square(60, (24, 40), seed=0, side=side)
    stripes = np.array([0, 0, 1, 1] * (side // 4))
    rings = np.zeros((side, side), dtype=int)
    for depth in range(side // 2):
        rings[depth : side - depth, depth : side - depth] = depth // 2 % 2
    light = [
        np.repeat(stripes[:, None], side, axis=1),
        np.repeat(stripes[None], side, axis=0),
        stripes[:, None] ^ stripes[None],
        rings,
    ]
    assert len(light) == len(PATTERNS) == len(set(squares.labels))
    rows = zip(squares.images, squares.labels, squares.boxes, strict=True)
    for image, label, box in rows:
        top, left, bottom, right = box
        assert bottom - top == right - left == side
        inside = np.where(light[label][..., None] == 1, (235, 60, 30), (75, 20, 10))
        np.testing.assert_array_equal(image[top:bottom, left:right], inside)
        outside = np.ones((24, 40), dtype=bool)
        outside[top:bottom, left:right] = False
        assert abs(image[outside].mean() - 128) < 5
        assert 25 < image[outside].std() < 40


def test_squares_are_anywhere_and_classes_even():
    squares = find_the_square(3000, (16, 24), seed=0)
    assert set(squares.boxes[:, 0]) == set(range(16 - 12 + 1))
    assert set(squares.boxes[:, 1]) == set(range(24 - 12 + 1))
    counts = np.bincount(squares.labels, minlength=4)
    assert counts.min() > 650


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "`n` must be at least 1 image: got 0"),
        ({"side": 10}, "`side` must be a multiple of 4 pixels and at least 8.*got 10"),
        ({"side": 4}, r"`side` must be .* got 4"),
        (
            {"side": 28},
            r"A square of 28 pixels does not fit into images of 24 x 40 \(height",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        find_the_square(**{"n": 2, "size": (24, 40), "seed": 0, **arguments})


def pixels(squares: Squares) -> Tensor:
    return (torch.from_numpy(squares.images).permute(0, 3, 1, 2) - 128.0) / 64


class Solved(NamedTuple):
    model: ViT
    images: Tensor
    labels: Tensor
    boxes: np.ndarray


@pytest.fixture(scope="module")
def solved() -> Solved:
    """A ViT of 60 patches that was trained for seconds, and images it has not seen."""
    # Seeds 0 to 3 put the peak on the square in 92, 99, 99 and 100 % of the images: not
    # the worst one, so that another machine's rounding does not decide.
    torch.manual_seed(1)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=PATCH,
        num_classes=len(PATTERNS),
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_dim=96,
    )
    model = ViT(config)
    train = find_the_square(4000, SIZE, seed=1)
    images, labels = pixels(train), torch.from_numpy(train.labels)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    order = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        warm = min(1.0, (step + 1) / 100)
        rate = 2e-3 * warm * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.param_groups[0]["lr"] = rate
        chosen = torch.randint(len(images), (BATCH,), generator=order)
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = find_the_square(300, SIZE, seed=2)
    return Solved(model.eval(), pixels(test), torch.from_numpy(test.labels), test.boxes)


@torch.no_grad()
def near(boxes: np.ndarray, patches: int) -> Tensor:
    """[images, rows, columns]: which patches touch the box grown by so many patches."""
    top, left = (torch.arange(n)[None] * PATCH for n in (ROWS, COLUMNS))
    box = torch.from_numpy(boxes)[:, :, None] + PATCH * patches * torch.tensor(
        [[-1], [-1], [1], [1]]
    )
    down = (top + PATCH > box[:, 0]) & (top < box[:, 2])
    along = (left + PATCH > box[:, 1]) & (left < box[:, 3])
    return down[:, :, None] & along[:, None, :]


def hits(maps: Tensor, where: Tensor) -> float:
    """Share of the images whose highest patch is one of those."""
    peak = maps.flatten(1).argmax(dim=1, keepdim=True)
    return where.flatten(1).gather(1, peak).float().mean().item()


def shuffled(model: ViT, seed: int = 0) -> ViT:
    model = copy.deepcopy(model)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=random)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return model


def test_patches_near_a_box_by_hand():
    boxes = np.array([[0, 4, 8, 12], [41, 72, 49, 80]])
    assert near(boxes, 0)[0].nonzero().tolist() == [[0, 0], [0, 1]]
    assert near(boxes[:1], 1).sum() == 2 * 3
    assert near(boxes, 0)[1].nonzero().tolist() == [[5, 9]]


def test_the_model_solves_the_task(solved):
    with torch.no_grad():
        right = solved.model(solved.images).argmax(1) == solved.labels
    assert right.float().mean() > 0.95


def test_the_rollouts_peak_is_on_the_square(solved):
    maps = rollout(solved.model, solved.images)
    assert hits(maps, near(solved.boxes, 1)) > 0.9
    # Not one patch beside it, though that would do.
    assert hits(maps, near(solved.boxes, 0)) > 0.9


def test_the_peak_falls_to_chance_with_shuffled_weights(solved):
    where = near(solved.boxes, 1)
    chance = where.float().mean().item()
    assert 0.2 < chance < 0.3
    models = [shuffled(solved.model, seed) for seed in range(5)]
    found = [hits(rollout(model, solved.images), where) for model in models]
    assert sum(found) / len(found) < chance + 0.15


def test_deletion_and_insertion_beat_random_order(solved):
    images = solved.images[:100]
    maps = rollout(solved.model, images)
    out, back = (
        measure(solved.model, images, maps).area.mean().item()
        for measure in (deletion, insertion)
    )
    order = random_order(maps, seed=0)
    random_out, random_back = (
        measure(solved.model, images, order).area.mean().item()
        for measure in (deletion, insertion)
    )
    assert out < random_out - 0.1
    assert back > random_back + 0.05


def test_the_map_falls_as_the_blocks_are_randomised(solved):
    found = randomization_check(solved.model, solved.images[:50], rollout)
    mean = found.correlation.mean(dim=1)
    assert found.parts == ("head", "block 1", "block 0", "stem")
    assert mean[0].item() == pytest.approx(1.0)
    assert mean[1] < 0.8
    assert (mean[2:] < 0.3).all()
