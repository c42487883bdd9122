"""Masked patch prediction: counts, colours by hand, what is corrupted and when."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers import images, randomise, tiny_tnt
from objectives_batch import Killed, batch_of, encoder, run
from vitral.errors import ConfigError
from vitral.tasks.representation import MaskedPatch, MaskedPatchConfig
from vitral.tasks.representation.masked_patch import (
    Corruption,
    color_class,
    downsample_patches,
    draw_corruption,
)
from vitral.tasks.representation.patches import from_patches, to_patches

TARGETS = ["mean_colour", "small_patch", "pixels"]


def tiny(seed=0, model=None, **changes) -> MaskedPatch:
    """A float64 objective whose every parameter is random; 15 patches."""
    config = MaskedPatchConfig(**changes)
    objective = MaskedPatch(model or encoder(), config).double()
    randomise(objective, seed)
    return objective


def fates(chosen, masked=None, swapped=None, source=None) -> Corruption:
    """A corruption by hand; nothing happens where nothing is said."""
    index = torch.tensor(chosen)
    return Corruption(
        index,
        torch.zeros_like(index, dtype=torch.bool) if masked is None else masked,
        torch.zeros_like(index, dtype=torch.bool) if swapped is None else swapped,
        torch.zeros_like(index) if source is None else source,
    )


# How much is corrupted


@pytest.mark.parametrize(("patches", "count"), [(196, 98), (15, 8), (13, 6), (1, 1)])
def test_half_of_the_patches_of_each_image_without_replacement(patches, count):
    ids = ("a.png", "b.png", "c.png")
    chosen = draw_corruption(MaskedPatchConfig(), ids, patches, 5).chosen
    assert chosen.shape == (3, count)
    for row in chosen.tolist():
        assert len(set(row)) == count
        assert set(row) <= set(range(patches))


def test_eighty_ten_and_ten_percent_over_many_draws():
    ids = tuple(f"{i}.png" for i in range(600))
    drawn = draw_corruption(MaskedPatchConfig(), ids, 196, 5)
    assert drawn.chosen.numel() == 58_800
    masked, swapped = drawn.masked.double().mean(), drawn.swapped.double().mean()
    assert float(masked) == pytest.approx(0.8, abs=0.01)
    assert float(swapped) == pytest.approx(0.1, abs=0.01)
    assert not (drawn.masked & drawn.swapped).any()
    # Every place is corrupted equally often: 300 of 600 on average, 12 its deviation.
    places = drawn.chosen.flatten().bincount(minlength=196)
    assert 240 < int(places.min()) <= int(places.max()) < 360


def test_a_swapped_patch_is_any_other_of_the_batch():
    ids = ("a.png", "b.png")
    counts = torch.zeros(2, 3, 6)
    for key in range(600):
        drawn = draw_corruption(MaskedPatchConfig(corrupted=1.0), ids, 3, key)
        for example in range(2):
            for place, source in zip(
                drawn.chosen[example], drawn.source[example], strict=True
            ):
                counts[example, place, source] += 1
    own = counts.flatten(0, 1).diagonal()
    assert not own.any()
    others = counts.flatten(0, 1)[~torch.eye(6, dtype=torch.bool)]
    assert others.min() > 120 - 50
    assert others.max() < 120 + 50


# Colours


@pytest.mark.parametrize(
    ("colour", "wanted"),
    [
        ((0, 0, 0), 0),
        ((1, 1, 1), 511),
        ((1, 0, 0), 448),
        ((0, 1, 0), 56),
        ((0, 0, 1), 7),
        ((0.5, 0.124, 0.126), 4 * 64 + 0 * 8 + 1),
        ((-1e-9, 1 + 1e-6, 0.8749), 0 * 64 + 7 * 8 + 6),
    ],
)
def test_colours_by_hand(colour, wanted):
    found = color_class(torch.tensor([colour], dtype=torch.float64))
    assert found.tolist() == [wanted]


def colourful() -> Tensor:
    """Two images 0..1 whose patches have many mean colours."""
    generator = torch.Generator().manual_seed(6)
    levels = torch.rand(2, 3, 3, 5, generator=generator, dtype=torch.float64)
    levels = levels.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    noise = torch.rand(2, 3, 48, 80, generator=generator, dtype=torch.float64)
    return 0.9 * levels + 0.1 * noise


def test_the_target_is_the_mean_of_the_image_before_normalisation():
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)
    objective = tiny()
    objective.mean, objective.std = mean, std
    pixels = colourful()
    image = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    chosen = [[0, 7, 14], [3, 4, 11]]
    classes = []
    for example, places in enumerate(chosen):
        for place in places:
            row, column = divmod(place, 5)
            patch = pixels[example, :, 16 * row :][:, :16, 16 * column :][:, :, :16]
            red, green, blue = (
                min(int(8 * float(channel.mean())), 7) for channel in patch
            )
            classes.append(64 * red + 8 * green + blue)
    answers = torch.randn(
        2, 3, 512, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    objective.predict = lambda *arguments: answers
    found = objective.forward_corrupted(image, fates(chosen))
    terms = answers.log_softmax(-1).flatten(0, 1)
    loss = -sum(terms[i, c].item() for i, c in enumerate(classes)) / 6
    assert found["loss"].item() == pytest.approx(loss, rel=1e-12)
    right = functional.one_hot(torch.tensor(classes), 512).double().view(2, 3, -1)
    right[1, 2] = 0
    objective.predict = lambda *arguments: right
    found = objective.forward_corrupted(image, fates(chosen))
    assert found["accuracy"].item() == pytest.approx(5 / 6)


def test_a_small_patch_has_sixteen_colours():
    objective = tiny(target="small_patch")
    image = colourful() * 2 - 1
    cells = []
    for example, place in ((0, 7), (1, 14)):
        row, column = divmod(place, 5)
        for cell in range(16):
            down, right = divmod(cell, 4)
            part = image[example, :, 16 * row + 4 * down :, 16 * column + 4 * right :]
            mean = part[:, :4, :4].mean(dim=(1, 2)) * 0.5 + 0.5
            cells.append([min(int(8 * float(value)), 7) for value in mean])
    classes = torch.tensor([64 * r + 8 * g + b for r, g, b in cells]).view(2, 1, 16)
    answers = torch.randn(2, 1, 16, 512, dtype=torch.float64)
    objective.predict = lambda *arguments: answers.flatten(2)
    found = objective.forward_corrupted(image, fates([[7], [14]]))
    loss = -answers.log_softmax(-1).gather(3, classes[..., None]).mean()
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    wanted = (answers.argmax(-1) == classes).double().mean()
    assert float(found["accuracy"]) == pytest.approx(float(wanted))


def test_patches_that_four_does_not_divide_shrink_to_overlapping_cells():
    patches = torch.arange(6.0 * 14 * 3).view(1, 1, -1)
    small = downsample_patches(patches, (6, 14)).view(4, 4, 3)
    # Rows 0..1 of 6 and columns 0..3 of 14 make the first cell, in each channel.
    pixels = patches.view(6, 14, 3)
    torch.testing.assert_close(small[0, 0], pixels[:2, :4].mean(dim=(0, 1)))
    torch.testing.assert_close(small[1, 2], pixels[1:3, 7:11].mean(dim=(0, 1)))


def test_pixels_are_compared_by_their_mean_square():
    objective = tiny(target="pixels")
    image = images()
    answers = torch.randn(2, 1, 768, dtype=torch.float64)
    objective.predict = lambda *arguments: answers
    found = objective.forward_corrupted(image, fates([[6], [2]]))
    one = image[0, :, 16:32, 16:32].permute(1, 2, 0).flatten() * 0.5 + 0.5
    two = image[1, :, :16, 32:48].permute(1, 2, 0).flatten() * 0.5 + 0.5
    loss = (answers[:, 0] - torch.stack([one, two])).square().mean()
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    assert found.keys() == {"loss"}


@pytest.mark.parametrize("target", ["mean_colour", "small_patch"])
def test_a_new_head_loses_ln_512(target):
    objective = MaskedPatch(encoder(), MaskedPatchConfig(target=target)).double()
    loss = objective(batch_of(images()))["loss"].detach()
    assert loss.item() == pytest.approx(6.238325, abs=1e-6)


# What the encoder sees


def test_embeddings_are_replaced_by_the_mask_by_another_or_not():
    objective = tiny()
    patches = torch.randn(2, 15, 24, dtype=torch.float64)
    corruption = fates(
        [[3, 0, 9], [14, 2, 5]],
        masked=torch.tensor([[True, False, False], [False, False, True]]),
        swapped=torch.tensor([[False, True, False], [True, False, False]]),
        source=torch.tensor([[1, 20, 2], [4, 3, 3]]),
    )
    found = objective.corrupt(patches, corruption)
    wanted = patches.clone()
    wanted[0, 3] = wanted[1, 5] = objective.mask_token[0, 0]
    wanted[0, 0] = patches[1, 5]  # number 20 of 2 x 15
    wanted[1, 14] = patches[0, 4]
    assert found.equal(wanted)


def test_patches_are_corrupted_before_positions_are_added():
    objective = tiny()
    corruption = fates([[3, 11]] * 2, masked=torch.ones(2, 2, dtype=torch.bool))
    entering = []
    hook = objective.model.blocks[0].register_forward_pre_hook(
        lambda module, inputs: entering.append(inputs[0])
    )
    objective.predict(images(), corruption)
    hook.remove()
    table = objective.model.pos_embed[0]
    one, other = entering[0][0, 1 + 3], entering[0][0, 1 + 11]
    torch.testing.assert_close(one - other, table[1 + 3] - table[1 + 11])
    torch.testing.assert_close(one, objective.mask_token[0, 0] + table[1 + 3])


def test_a_masked_patch_is_not_seen_but_is_the_target():
    objective = tiny()
    image = images()
    corruption = fates([[3, 11]] * 2, masked=torch.ones(2, 2, dtype=torch.bool))
    patches = to_patches(image, (16, 16)).clone()
    patches[:, 3] += 1.0
    other = from_patches(patches, objective.model.config.grid, (16, 16))
    assert objective.predict(image, corruption).equal(
        objective.predict(other, corruption)
    )
    losses = [
        objective.forward_corrupted(x, corruption)["loss"] for x in (image, other)
    ]
    assert abs((losses[0] - losses[1]).item()) > 1e-3


def test_the_target_of_a_swapped_patch_is_its_own():
    objective = tiny(target="pixels")
    image = images()
    one, other = (
        fates([[3]] * 2, swapped=torch.full((2, 1), on), source=torch.full((2, 1), 20))
        for on in (True, False)
    )
    answers = torch.zeros(2, 1, 768, dtype=torch.float64)
    objective.predict = lambda *arguments: answers
    assert objective.forward_corrupted(image, one) == objective.forward_corrupted(
        image, other
    )


def test_other_places_give_no_loss():
    objective = tiny()
    corruption = fates([[3, 11]] * 2)
    features = []
    hook = objective.model.norm.register_forward_hook(
        lambda module, inputs, output: features.append(output) or output
    )
    image = images()
    loss = objective.forward_corrupted(image, corruption)["loss"]
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, features[0])
    touched = gradient.abs().sum(dim=2) > 0
    assert touched.nonzero().tolist() == [[0, 4], [0, 12], [1, 4], [1, 12]]


@pytest.mark.parametrize("target", TARGETS)
def test_every_parameter_gets_a_gradient(target):
    objective = tiny(target=target).train()
    torch.manual_seed(0)
    objective(batch_of(images()))["loss"].backward()
    assert [n for n, p in objective.named_parameters() if p.grad is None] == []
    assert all(bool(p.grad.any()) for p in objective.parameters())


def test_another_image_size_and_other_patches():
    objective = tiny(model=encoder(patch_size=(16, 8), image_size=(48, 80)))
    assert math.isfinite(objective(batch_of(images(2, 32, 56)))["loss"].item())


# Randomness


def corrupted_by(objective, batch, generator=None) -> Tensor:
    """Which patch embeddings forward changed; masked ones, as all are here."""
    seen = []
    hook = objective.model.pos_drop.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    objective(batch, generator)
    hook.remove()
    clean = objective.model.embed(batch.image).x
    return (seen[0] != clean).any(dim=2)[:, 1:]


def test_corruption_is_a_function_of_the_step_and_the_example():
    objective = tiny(masked=1.0, swapped=0.0).train()
    whole = batch_of(images(4))
    order = [2, 0]
    part = whole._replace(image=whole.image[order], id=("2.png", "0.png"))
    found = []
    for seed, batch in ((3, whole), (3, part), (4, whole)):
        torch.manual_seed(seed)
        found.append(corrupted_by(objective, batch))
    assert found[0].sum(dim=1).tolist() == [8] * 4
    assert found[1].equal(found[0][order])
    assert not found[2].equal(found[0])
    assert not found[0][0].equal(found[0][1])


def test_a_generator_can_be_given_and_evaluation_repeats():
    objective = tiny(masked=1.0, swapped=0.0)
    batch = batch_of(images())
    before = torch.random.get_rng_state()
    for mode in (True, False):
        objective.train(mode)
        one, two, other = (
            corrupted_by(objective, batch, torch.Generator().manual_seed(seed))
            for seed in (8, 8, 9)
        )
        assert one.equal(two)
        assert not one.equal(other)
    assert corrupted_by(objective, batch).equal(corrupted_by(objective, batch))
    assert torch.random.get_rng_state().equal(before)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    def fresh():
        objective = MaskedPatch(encoder(drop_path_rate=0.3), MaskedPatchConfig())
        randomise(objective)
        return objective

    whole = run(fresh(), tmp_path / "whole")
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "killed", kill=True)
    resumed = run(fresh(), tmp_path / "killed", resume=True)
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)
    assert not whole["mask_token"].equal(fresh().state_dict()["mask_token"])


# Learning


def test_loss_falls_on_a_fixed_batch():
    torch.manual_seed(0)
    objective = MaskedPatch(encoder(), MaskedPatchConfig()).train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    shades = torch.tensor([-0.9, -0.3, 0.4, 0.8])[:, None, None, None]
    batch = batch_of(shades.expand(4, 3, 48, 80).contiguous())
    for _ in range(60):
        found = objective(batch)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    # ln 4 would be four colours without an idea of which.
    assert found["loss"].item() < 0.8 * math.log(4)


def test_half_precision_keeps_a_float32_loss():
    objective = MaskedPatch(encoder(), MaskedPatchConfig()).eval()
    nn.init.normal_(objective.head.weight, std=0.05)
    batch = batch_of(images().float())
    whole = objective(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(batch)["loss"]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.02)


# Errors


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"corrupted": 0.0}, "`corrupted` must be above 0 and at most 1: got 0.0."),
        ({"masked": 0.95}, "are shares of one whole: got 0.95 and 0.1."),
        ({"swapped": -0.1}, "are shares of one whole: got 0.8 and -0.1."),
    ],
    ids=["corrupted", "masked", "swapped"],
)
def test_settings_that_cannot_be(settings, sentence):
    with pytest.raises(ConfigError) as caught:
        MaskedPatchConfig(**settings)
    assert sentence in str(caught.value)


def test_a_deviation_that_cannot_be():
    with pytest.raises(ConfigError, match="`std` must be three positive numbers: got"):
        MaskedPatch(encoder(), MaskedPatchConfig(), std=(0.5, 0.0, 0.5))


def test_a_target_that_there_is_not():
    config = MaskedPatchConfig()
    # The type checker of the tests would refuse it first.
    object.__setattr__(config, "target", "colour")
    with pytest.raises(ConfigError, match="'small_patch' or 'pixels': got 'colour'"):
        config.__post_init__()


@pytest.mark.parametrize(
    ("model", "target", "sentence"),
    [
        (tiny_tnt(), "pixels", "takes a plain Vision Transformer: got TNT."),
        (encoder(in_chans=5), "pixels", "got a model of 5 channels"),
        (
            encoder(patch_size=(2, 8), image_size=(6, 40)),
            "small_patch",
            "needs patches of 4 x 4 pixels or more: got (2, 8).",
        ),
    ],
    ids=["TNT", "channels", "small patches"],
)
def test_models_that_cannot_be_trained_so(model, target, sentence):
    with pytest.raises(ConfigError) as caught:
        MaskedPatch(model, MaskedPatchConfig(target=target))
    assert sentence in str(caught.value)


def test_images_that_do_not_fit():
    objective = tiny()
    with pytest.raises(ConfigError, match="takes images of 3 channels: got 5"):
        objective(batch_of(images(channels=5)))
    with pytest.raises(ConfigError, match="multiple of `patch_size`"):
        objective(batch_of(images(2, 50, 80)))
