"""vitral.data.augmentation.augment and mix: what may vary, how far, and what it
depends on."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import affine_transform
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from photos import noise
from vitral.data import Augment, AugmentConfig, MixConfig, Preprocess
from vitral.data.augmentation.draw import inception_crop
from vitral.data.augmentation.mixup import cutmix_box, mix
from vitral.data.images import Size
from vitral.data.images.affine import Warp, warp_image, warp_points
from vitral.data.images.geometry import SYMMETRIES
from vitral.data.rng import generator_for
from vitral.data.targets import blend_with_previous
from vitral.errors import ConfigError

HEIGHT, WIDTH = 24, 40
OFF = AugmentConfig(flip=0.0)
ALL = AugmentConfig(
    crop="inception",
    flip=0.5,
    shift=0.1,
    rotate=15.0,
    rand_augment=2,
    color_jitter=0.4,
    random_erasing=0.5,
)


def augment(config: AugmentConfig, seed: int = 0) -> Augment:
    preprocess = Preprocess(image_size=(HEIGHT, WIDTH))
    return Augment(config=config, preprocess=preprocess, seed=seed)


def test_everything_off_is_the_preprocess():
    transform = augment(OFF)
    expected = transform.preprocess(noise())
    for epoch in range(3):
        assert torch.equal(transform(noise(), "a.jpg", epoch), expected)


def test_a_view_is_a_function_of_seed_epoch_and_id():
    first = augment(ALL)(noise(), "a.jpg", 4)
    torch.rand(7)
    assert torch.equal(augment(ALL)(noise(), "a.jpg", 4), first)
    for other in (
        augment(ALL)(noise(), "a.jpg", 5),
        augment(ALL)(noise(), "b.jpg", 4),
        augment(ALL, seed=1)(noise(), "a.jpg", 4),
    ):
        assert other.shape == (3, HEIGHT, WIDTH)
        assert not torch.equal(other, first)


def test_no_global_generator_moves():
    torch.manual_seed(5)
    np.random.seed(5)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    augment(ALL)(noise(), "a.jpg", 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_views_repeat_after_their_number():
    transform = augment(AugmentConfig(crop="inception", rand_augment=1, views=3))
    seen = [transform(noise(), "a.jpg", epoch) for epoch in range(7)]
    for epoch in range(7):
        assert torch.equal(seen[epoch], seen[epoch % 3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (30, 30)])
def test_eight_views_show_the_eight_symmetries_once(size):
    config = AugmentConfig(dihedral=True, views=8)
    preprocess = Preprocess(image_size=size)
    transform = Augment(config=config, preprocess=preprocess, seed=3)
    image = noise()
    array = np.asarray(image)
    turns = [np.rot90(array, k) for k in range(4)]
    mirrored = [np.rot90(array[:, ::-1], k) for k in range(4)]
    expected = {
        preprocess(np.ascontiguousarray(turned)).numpy().tobytes()
        for turned in turns + mirrored
    }
    assert len(expected) == 8
    for name in ("a.jpg", "b.jpg"):
        views = {
            transform(image, name, epoch).numpy().tobytes() for epoch in range(5, 13)
        }
        assert views == expected
    starts = {transform.symmetry(f"{number}.jpg", 0) for number in range(100)}
    assert starts == set(range(8))
    assert len(SYMMETRIES) == 8


def test_flip_is_left_right_with_its_probability():
    transform = augment(AugmentConfig(flip=0.5))
    image = noise()
    plain = transform.preprocess(image)
    flips = 0
    for number in range(400):
        result = transform(image, f"{number}.jpg", 0)
        flipped = torch.equal(result, plain.flip(-1))
        assert flipped or torch.equal(result, plain)
        flips += flipped
    # Four standard deviations of a binomial with 400 draws.
    assert abs(flips - 200) < 40
    always = augment(AugmentConfig(flip=1.0))
    assert torch.equal(always(image, "a", 0), plain.flip(-1))


def test_inception_crop_keeps_its_ranges():
    source = Size(300, 500)
    config = AugmentConfig(crop="inception")
    shares, aspects, tops = [], [], []
    for number in range(3000):
        box = inception_crop(source, config, generator_for("test", number))
        height, width = box.bottom - box.top, box.right - box.left
        assert 0 <= box.top < box.bottom <= 300
        assert 0 <= box.left < box.right <= 500
        shares.append(height * width / (300 * 500))
        aspects.append(width / height)
        tops.append(box.top)
    assert 0.05 <= min(shares) < 0.08
    # 300 x 400 is the largest rectangle of an aspect up to 4/3.
    assert 0.75 < max(shares) <= 0.8
    assert 0.75 <= min(aspects) < 0.76
    assert 1.32 < max(aspects) <= 4 / 3 + 1e-9
    # Small enough to always fit: uniform area, so the mean of 0.05..0.35 is 0.2.
    small = AugmentConfig(crop="inception", crop_area=(0.05, 0.35))
    areas = []
    for number in range(3000):
        box = inception_crop(source, small, generator_for("small", number))
        areas.append((box.bottom - box.top) * (box.right - box.left) / 150_000)
    assert np.mean(areas) == pytest.approx(0.2, abs=0.01)
    assert np.quantile(areas, 0.25) == pytest.approx(0.125, abs=0.01)


def test_inception_crop_falls_back_to_the_whole_image():
    config = AugmentConfig(crop="inception", crop_area=(0.9, 1.0))
    # No rectangle of aspect 3/4..4/3 covers 90 % of a strip.
    box = inception_crop(Size(10, 400), config, generator_for("strip"))
    assert box == (0, 0, 10, 400)
    transform = augment(AugmentConfig(crop="inception", crop_area=(0.9, 1.0), flip=0.0))
    image = noise(10, 400)
    expected = transform.preprocess(image)
    assert torch.equal(transform(image, "a", 0), expected)
    assert transform(noise(1, 1), "a", 0).shape == (3, HEIGHT, WIDTH)


def test_crop_resizes_with_the_filter_of_the_preprocess():
    config = AugmentConfig(crop="inception", flip=0.0)
    for antialias in (False, True):
        preprocess = Preprocess(
            image_size=(HEIGHT, WIDTH), interpolation="bicubic", antialias=antialias
        )
        transform = Augment(config=config, preprocess=preprocess, seed=2)
        image = noise(200, 300)
        generator = generator_for("augment", 2, 0, "a")
        box = inception_crop(Size(200, 300), config, generator)
        part = image.crop((box.left, box.top, box.right, box.bottom))
        found, expected = transform(image, "a", 0), preprocess(part)
        if not antialias:
            assert torch.equal(found, expected)
            continue
        # Training's kernel for 8 bits rounds where Pillow, evaluation's, does not.
        steps = ((found - expected).abs() * 255 * preprocess.std[0]).round()
        assert 0 < (steps > 0).float().mean() < 0.2
        assert (steps > 1).float().mean() < 1e-3


def test_a_shift_of_whole_pixels_repeats_the_edge():
    pixels = torch.from_numpy(np.array(noise(HEIGHT, WIDTH))).permute(2, 0, 1).double()
    for down, right in ((3, -5), (0, 1), (-HEIGHT + 1, 2)):
        rows = (torch.arange(HEIGHT) - down).clamp(0, HEIGHT - 1)
        columns = (torch.arange(WIDTH) - right).clamp(0, WIDTH - 1)
        found = warp_image(pixels, Warp(down=down, right=right))
        assert torch.allclose(found, pixels[:, rows][:, :, columns], atol=1e-9)


@pytest.mark.parametrize(
    "warp",
    [
        Warp(down=1.25, right=-2.5),
        Warp(degrees=33.0),
        Warp(zoom=1.7),
        Warp(down=-0.3, right=4.1, degrees=-12.0, zoom=0.8),
    ],
    ids=str,
)
def test_a_warp_is_that_of_scipy(warp):
    pixels = np.random.default_rng(0).uniform(0, 255, (3, HEIGHT, WIDTH))
    center = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    angle = np.deg2rad(warp.degrees)
    # Rows and columns, y down: shift, then turn against the clock, then zoom.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    backward = np.linalg.inv(warp.zoom * turn)
    offset = center - backward @ center - np.array([warp.down, warp.right])
    expected = [
        affine_transform(plane, backward, offset, order=1, mode="nearest")
        for plane in pixels
    ]
    found = warp_image(torch.from_numpy(pixels), warp).numpy()
    assert np.abs(found - np.stack(expected)).max() < 1e-9
    # A bright pixel lands where its place is mapped to.
    x, y = 9, 7
    dot = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.float64)
    dot[0, y, x] = 1
    moved = warp_image(dot, warp)[0]
    place = warp_points(
        torch.tensor([x + 0.5, y + 0.5], dtype=torch.float64), warp, HEIGHT, WIDTH
    )
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij"
    )
    mass = moved / moved.sum()
    centroid = torch.stack([(mass * columns).sum(), (mass * rows).sum()])
    assert torch.allclose(centroid, place, atol=0.35)


def test_drawn_warps_stay_in_their_ranges():
    limits = AugmentConfig(flip=0.0, shift=0.2, rotate=10.0, zoom=0.1)
    transform, image = augment(limits), noise(HEIGHT, WIDTH)
    warps = [transform.geometry(image, f"{n}", 0).warp for n in range(300)]
    for values, largest in (
        ([it.down / HEIGHT for it in warps], 0.2),
        ([it.right / WIDTH for it in warps], 0.2),
        ([it.degrees for it in warps], 10.0),
        ([math.log(it.zoom) for it in warps], 0.1),
    ):
        assert max(map(abs, values)) <= largest
        assert min(values) < -0.9 * largest
        assert max(values) > 0.9 * largest
        assert abs(np.mean(values)) < 0.15 * largest


def test_rotation_keeps_size_and_invents_no_colour():
    transform = augment(AugmentConfig(flip=0.0, rotate=180.0))
    image = Image.new("RGB", (WIDTH, HEIGHT), (250, 120, 60))
    for number in range(10):
        result = transform.preprocess.denormalize(transform(image, f"{number}", 0))
        values = result.float().amax((1, 2)) - torch.tensor([250.0, 120.0, 60.0])
        assert values.abs().max() <= 1
        assert result.float().amin((1, 2))[2] >= 59
    image = noise(HEIGHT, WIDTH)
    plain = transform.preprocess(image)
    assert not torch.equal(transform(image, "a", 0), plain)


@pytest.mark.parametrize("degrees", [-180.0, -33.0, 0.0, 7.0, 90.0, 121.0])
def test_a_turn_is_that_of_torchvision_on_an_image_whose_edges_are_repeated(degrees):
    pixels = torch.from_numpy(np.array(noise(HEIGHT, WIDTH))).permute(2, 0, 1).float()
    margin = 60  # no corner is empty after any turn
    wide = F.pad(pixels[None], (margin,) * 4, mode="replicate")[0]
    expected = rotate(wide, degrees, interpolation=InterpolationMode.BILINEAR)
    inner = expected[:, margin:-margin, margin:-margin]
    found = warp_image(pixels, Warp(degrees=degrees))
    assert found.shape == inner.shape
    # Places are float32 on both sides: some 1e-5 pixels, times steps of up to 255.
    assert (found - inner).abs().max() < 0.02
    if degrees == 0:
        assert torch.allclose(found, pixels, atol=1e-2)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(flip=0.0, policy="auto"),
        AugmentConfig(flip=0.0, rand_augment=2, rand_augment_magnitude=20),
        AugmentConfig(flip=0.0, rand_augment=2, policy="rand_original"),
        AugmentConfig(flip=0.0, color_jitter=0.5),
        AugmentConfig(flip=0.0, random_erasing=1.0),
    ],
)
def test_drawn_operations_change_pixels_within_range(config):
    transform = augment(config)
    plain = transform.preprocess(noise())
    changed = 0
    for number in range(8):
        result = transform(noise(), f"{number}", 0)
        assert result.shape == plain.shape
        assert result.dtype == torch.float32
        assert result.min() >= -1
        assert result.max() <= 1
        changed += not torch.equal(result, plain)
    assert changed >= 6


def test_erasing_leaves_the_mean_colour():
    transform = augment(AugmentConfig(flip=0.0, random_erasing=1.0))
    plain = transform.preprocess(noise())
    result = transform(noise(), "a", 0)
    erased = result != plain
    assert 0 < erased.float().mean() < 0.5
    assert result[erased].unique().tolist() == [0.0]


def test_wrong_settings_are_named():
    for values, sentence in (
        ({"crop_area": (0.0, 1.0)}, "`augment.crop_area` must be 0 < smallest"),
        ({"flip": 1.5}, "`augment.flip` must be a probability: got 1.5"),
        ({"shift": 1.0}, "`augment.shift` must be a share from 0 to below 1"),
        ({"rotate": -1.0}, "`augment.rotate` must be 0 to 180 degrees"),
        ({"zoom": 2.0}, "`augment.zoom` must be 0 to 1: got 2.0"),
        ({"rand_augment": -1}, "`augment.rand_augment` must be a number of operations"),
        (
            {"rand_augment_magnitude": 31},
            "`augment.rand_augment_magnitude` must be 0 to",
        ),
        ({"color_jitter": -0.1}, "`augment.color_jitter` must be 0 or more"),
        ({"random_erasing": 2.0}, "`augment.random_erasing` must be a probability"),
        ({"views": -1}, "`augment.views` must be 0 or a number of views"),
        (
            {"policy": "auto", "rand_augment": 2},
            "AutoAugment, which draws its own number .* to 0, got 2",
        ),
    ):
        with pytest.raises(ConfigError, match=sentence):
            AugmentConfig(**values)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(5, 3, HEIGHT, WIDTH, generator=generator)
    return image, torch.eye(7)[torch.tensor([0, 1, 2, 3, 4])]


def test_mixup_rolls_by_one_and_leads_with_the_own_label():
    image, target = batch()
    weights = []
    for number in range(200):
        generator = generator_for("mixup", number)
        mixed = mix(image, target, MixConfig(mixup=0.8), generator, blend_with_previous)
        weight = mixed.weight
        weights.append(weight)
        expected = weight * image + (1 - weight) * torch.roll(image, 1, 0)
        assert torch.allclose(mixed.image, expected)
        assert torch.allclose(mixed.target.sum(1), torch.ones(5))
        assert mixed.target[2, 2] == pytest.approx(weight)
        assert mixed.target[2, 1] == pytest.approx(1 - weight, abs=1e-6)
        assert mixed.target[0, 4] == pytest.approx(1 - weight, abs=1e-6)
    assert 0.5 <= min(weights) < 0.55
    # E[max(l, 1 - l)] of Beta(0.8, 0.8), by numerical integration.
    grid = (np.arange(200_000) + 0.5) / 200_000
    density = (grid * (1 - grid)) ** -0.2
    mean = (np.maximum(grid, 1 - grid) * density).sum() / density.sum()
    assert np.mean(weights) == pytest.approx(mean, abs=0.04)


def test_weight_one_and_both_off_are_the_identity():
    image, target = batch()

    class One(np.random.Generator):
        def beta(self, a, b):
            return 1.0

    result = mix(
        image,
        target,
        MixConfig(mixup=0.2),
        One(np.random.Philox(key=1)),
        blend_with_previous,
    )
    assert torch.equal(result.image, image)
    assert torch.equal(result.target, target)
    off = mix(image, target, MixConfig(), generator_for("off"), blend_with_previous)
    assert torch.equal(off.image, image)
    assert off.weight == 1


def test_cutmix_weight_is_the_exact_share_of_pixels():
    image, target = batch()
    for number in range(100):
        mixed = mix(
            image,
            target,
            MixConfig(cutmix=1.0),
            generator_for("c", number),
            blend_with_previous,
        )
        own = (mixed.image == image).all(1)
        other = (mixed.image == image.roll(1, 0)).all(1)
        assert (own | other).all()
        share = own.float().mean((1, 2))
        assert torch.allclose(share, torch.full((5,), mixed.weight))
        assert torch.allclose(mixed.target[3, 3], torch.tensor(mixed.weight))
        assert torch.allclose(mixed.target[3, 2], torch.tensor(1 - mixed.weight))
        assert torch.equal(own, own[:1].expand_as(own))


def test_cutmix_box_is_cut_at_the_border():
    for number in range(200):
        box = cutmix_box(24, 40, 0.3, generator_for("box", number))
        assert 0 <= box.top <= box.bottom <= 24
        assert 0 <= box.left <= box.right <= 40
        assert box.area <= 0.7 * 24 * 40
    full = 2 * (int(24 * math.sqrt(0.7)) // 2) * 2 * (int(40 * math.sqrt(0.7)) // 2)
    areas = [
        cutmix_box(24, 40, 0.3, generator_for("box", number)).area
        for number in range(200)
    ]
    assert max(areas) == full


def test_a_coin_decides_when_both_are_on():
    image, target = batch()
    config = MixConfig(mixup=1.0, cutmix=1.0)
    cut = 0
    for number in range(200):
        mixed = mix(
            image, target, config, generator_for("coin", number), blend_with_previous
        )
        pure = (mixed.image == image) | (mixed.image == image.roll(1, 0))
        cut += bool(pure.all())
    assert abs(cut - 100) < 29


def test_tokens_and_wrong_alphas_are_refused():
    with pytest.raises(
        ConfigError, match=r"need images \[batch, channels, height, widt"
    ):
        mix(
            torch.zeros(5, 9, 24),
            torch.eye(7)[:5],
            MixConfig(mixup=0.2),
            generator_for("tokens"),
            blend_with_previous,
        )
    with pytest.raises(ConfigError, match=r"`cutmix` must be 0 \(off\) or an alpha"):
        MixConfig(cutmix=-1.0)
