"""Deletion, insertion and randomisation, on a model whose reasons are known."""

import copy
import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from helpers import images, tiny_vit
from vitral.errors import ConfigError
from vitral.inspection.faithfulness import (
    deletion,
    insertion,
    random_order,
    randomization_check,
    rank_correlation,
)
from vitral.models import ViT, ViTConfig

ROWS, COLUMNS = 3, 5


class Counts(ViT):
    """Class 1 gets the weighted mean of each patch's first pixel; all else is 0."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__(
            ViTConfig(
                image_size=(48, 80),
                num_classes=3,
                embed_dim=8,
                depth=1,
                num_heads=2,
                mlp_dim=12,
            )
        )
        self.register_buffer("weights", weights)

    def forward(self, image, patch_mask=None):
        first = image[:, 0, ::16, ::16]
        logits = image.new_zeros(len(image), 3)
        logits[:, 1] = (first * self.weights).sum((1, 2))
        return logits


def known() -> tuple[Counts, torch.Tensor, torch.Tensor]:
    """The model, two images that it likes, and the true map of each."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randperm(ROWS * COLUMNS, generator=random).double()
    weights = (weights.reshape(ROWS, COLUMNS) / 14) ** 4
    x = images() * 0.01
    x[:, 0, ::16, ::16] = 1.5
    return Counts(weights).eval(), x, weights.expand(2, ROWS, COLUMNS)


def test_the_true_map_beats_random_order_and_that_the_reverse():
    model, x, true = known()
    orders = [random_order(true, seed) for seed in range(1, 11)]
    for measure, sign in ((deletion, 1), (insertion, -1)):
        best, worst = (sign * measure(model, x, maps).area for maps in (true, -true))
        random = torch.stack([sign * measure(model, x, maps).area for maps in orders])
        assert (best < random.mean(0) - 0.1).all()
        assert (random.mean(0) < worst - 0.1).all()
        assert (best < random).all()
        assert (random < worst).all()


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_curves_run_between_the_image_and_the_filled_one(fill):
    model, x = tiny_vit(), images()
    maps = images(channels=1, height=3, width=5)[:, 0]
    out = deletion(model, x, maps, fill=fill)
    back = insertion(model, x, maps, fill=fill)
    classes = model(x).argmax(1)
    whole = model(x).softmax(1)[range(2), classes].detach()
    assert out.shares[0] == 0
    assert out.shares[-1] == 1
    torch.testing.assert_close(out.scores[:, 0], whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(back.scores[:, -1], whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(out.scores[:, -1], back.scores[:, 0])
    if fill == "mean":
        empty = x.mean((2, 3), keepdim=True).expand_as(x)
        filled = model(empty).softmax(1)[range(2), classes].detach()
        torch.testing.assert_close(out.scores[:, -1], filled, rtol=1e-12, atol=0)


def test_a_blurred_image_is_smooth_and_as_bright_inside():
    model, x = known()[:2]
    flat = torch.full_like(x, 0.7)
    maps = torch.zeros(2, ROWS, COLUMNS)
    scores = deletion(model, flat, maps, fill="blur").scores
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores))
    # A single bright pixel: by hand, it is spread by a Gaussian of 16 pixels.
    spot = torch.zeros_like(x)
    spot[:, 0, 16, 32] = 1.0
    out = deletion(model, spot, maps, torch.ones(2, dtype=torch.long), fill="blur")
    share = 0.0
    for row in range(ROWS):
        for column in range(COLUMNS):
            down = gaussian(row * 16, 16, 48)
            along = gaussian(column * 16, 32, 80)
            share += model.weights[row, column].item() * down * along
    expected = math.exp(share) / (math.exp(share) + 2)
    assert out.scores[0, -1].item() == pytest.approx(expected, rel=1e-9)


def gaussian(at: int, source: int, length: int) -> float:
    """Share of a pixel's new value that comes from `source`."""
    weights = [math.exp(-(((at - other) / 16) ** 2) / 2) for other in range(length)]
    return weights[source] / sum(weights)


def test_each_step_and_the_area_by_hand():
    model, x, _ = known()
    weights = torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    weights[1, 2], weights[2, 4] = 1.0, 0.5
    model.weights.copy_(weights)
    maps = torch.zeros(2, ROWS, COLUMNS)
    maps[0, 1, 2], maps[0, 2, 4] = 9.0, 5.0
    maps[1, 2, 4], maps[1, 1, 2] = 9.0, 5.0
    x = x - x.mean((2, 3), keepdim=True)
    first = x[:, 0, 0, 0].tolist()
    curve = deletion(model, x, maps, torch.tensor([1, 1]), steps=99)
    assert curve.scores.shape == (2, 16)

    def score(logit: float) -> float:
        return math.exp(logit) / (math.exp(logit) + 2)

    for image, left in ((0, 0.5), (1, 1.0)):
        scores = [
            score(1.5 * first[image]),
            score(left * first[image]),
            *[1 / 3] * 14,
        ]
        assert curve.scores[image].tolist() == pytest.approx(scores, rel=1e-9)
        area = (scores[0] / 2 + sum(scores[1:-1]) + scores[-1] / 2) / 15
        assert curve.area[image].item() == pytest.approx(area, rel=1e-9)


def test_insertion_puts_exactly_the_first_patches_in():
    model, x, true = known()
    whole = insertion(model, x, true, torch.tensor([1, 1]), steps=15)
    order = true[0].flatten().argsort(descending=True)
    for count in (1, 4, 11):
        put = torch.zeros(ROWS * COLUMNS, dtype=torch.bool)
        put[order[:count]] = True
        put = put.reshape(1, 1, ROWS, 1, COLUMNS, 1).expand(2, 3, ROWS, 16, COLUMNS, 16)
        mean = x.mean((2, 3), keepdim=True)
        mixed = torch.where(put.reshape(x.shape), x, mean)
        expected = model(mixed).softmax(1)[:, 1]
        torch.testing.assert_close(whole.scores[:, count], expected)


def test_few_steps_take_several_patches_at_a_time():
    model, x, true = known()
    curve, whole = (deletion(model, x, true, steps=steps) for steps in (4, 15))
    counts = [0, 4, 8, 11, 15]
    assert curve.shares.tolist() == pytest.approx([count / 15 for count in counts])
    torch.testing.assert_close(curve.scores, whole.scores[:, counts])


def test_classes_are_the_predicted_ones_unless_given():
    model, x = tiny_vit(), images()
    maps = random_order(torch.zeros(2, ROWS, COLUMNS), seed=3)
    predicted = model(x).argmax(1)
    torch.testing.assert_close(
        deletion(model, x, maps).scores, deletion(model, x, maps, predicted).scores
    )
    other = deletion(model, x, maps, (predicted + 1) % 7)
    probability = model(x).softmax(1)[range(2), (predicted + 1) % 7].detach()
    torch.testing.assert_close(other.scores[:, 0], probability)


def test_random_order_is_a_permutation_decided_by_its_seed():
    maps = torch.zeros(2, ROWS, COLUMNS)
    first, second = random_order(maps, seed=0), random_order(maps, seed=1)
    assert torch.equal(first, random_order(maps, seed=0))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert first.flatten(1).sort(1).values.tolist() == [[*range(15)]] * 2


def test_the_model_keeps_its_mode_and_weights():
    model = tiny_vit(drop_rate=0.5).train()
    model.blocks[0].mlp.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    maps = random_order(torch.zeros(2, ROWS, COLUMNS), seed=3)
    curve = deletion(model, images(), maps)
    assert torch.equal(curve.scores, deletion(model, images(), maps).scores)
    assert not curve.scores.requires_grad
    randomization_check(model, images(), first_block)
    assert [module.training for module in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def first_block(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Depends on the stem and the first block alone."""
    assert isinstance(model, ViT)
    assert not model.training
    tokens = model.forward_blocks(model.embed(x), 0, 1)
    return tokens.x[:, 1:].norm(dim=-1).unflatten(1, (ROWS, COLUMNS))


def test_a_map_falls_when_the_part_that_it_reads_is_randomised():
    found = randomization_check(tiny_vit(depth=3), images(), first_block)
    assert found.parts == ("head", "block 2", "block 1", "block 0", "stem")
    assert found.correlation.shape == (5, 2)
    torch.testing.assert_close(found.correlation[:3], torch.ones(3, 2).double())
    assert (found.correlation[3:] < 0.9).all()


def test_a_map_of_the_image_alone_never_falls():
    def edges(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, ::16, ::16].abs()

    found = randomization_check(tiny_vit(), images(), edges)
    torch.testing.assert_close(found.correlation, torch.ones(4, 2).double())


def test_each_part_is_randomised_with_all_that_come_after_it():
    seen = []

    def watch(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        seen.append(copy.deepcopy(model.state_dict()))
        return x[:, 0, ::16, ::16]

    model = tiny_vit()
    randomization_check(model, images(), watch, seed=5)
    last = {
        "head.weight": 1,
        "norm.weight": 1,
        "blocks.1.attn.qkv.weight": 2,
        "blocks.0.mlp.fc1.bias": 3,
        "patch_embed.proj.weight": 4,
        "pos_embed": 4,
    }
    for name, part in last.items():
        own = model.state_dict()[name]
        changed = [not torch.equal(state[name], own) for state in seen]
        assert changed == [False] * part + [True] * (5 - part)
        for state in seen:
            assert torch.equal(
                state[name].flatten().sort().values, own.flatten().sort().values
            )
    again = list(seen)
    seen.clear()
    randomization_check(model, images(), watch, seed=5)
    assert all(
        torch.equal(first[name], second[name])
        for first, second in zip(again, seen, strict=True)
        for name in first
    )
    seen.clear()
    randomization_check(model, images(), watch, seed=6)
    assert not torch.equal(again[1]["head.weight"], seen[1]["head.weight"])


def test_rank_correlation_is_scipys_with_ties_too():
    random = torch.Generator().manual_seed(0)
    first = torch.randint(0, 5, (2, ROWS, COLUMNS), generator=random).float()
    second = torch.randint(0, 7, (2, ROWS, COLUMNS), generator=random).float()
    expected = [
        spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(first, second, strict=True)
    ]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected)
    ascending = torch.arange(15.0).reshape(1, ROWS, COLUMNS)
    assert rank_correlation(ascending, ascending**3).item() == pytest.approx(1)
    assert rank_correlation(ascending, -ascending).item() == pytest.approx(-1)
    assert rank_correlation(ascending, torch.ones(1, ROWS, COLUMNS)).item() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"maps": torch.zeros(2, 5, 3)},
            r"got \(2, 5, 3\) for 2 images of 48 x 80 pixels .* no whole patches",
        ),
        ({"maps": torch.zeros(3, 3, 5)}, r"got \(3, 3, 5\) for 2 images"),
        (
            {"maps": torch.full((2, 3, 5), torch.nan)},
            "`maps` holds values that are not finite",
        ),
        ({"steps": 0}, "`steps` must be at least 1: got 0"),
        ({"fill": "black"}, "`fill` must be mean or blur: got black"),
        (
            {"classes": torch.tensor([0, 7])},
            r"0 to 6 for each of 2 images: got \[0, 7\]",
        ),
        ({"classes": torch.tensor([0, -1])}, r"got \[0, -1\]"),
        ({"classes": torch.tensor([0])}, r"got \[0\]"),
    ],
)
@pytest.mark.parametrize("measure", [deletion, insertion])
def test_what_does_not_fit_is_refused(measure, changes, message):
    given = {"maps": torch.zeros(2, 3, 5), **changes}
    with pytest.raises(ConfigError, match=message):
        measure(tiny_vit(), images(), **given)
