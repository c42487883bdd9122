"""Images that stay 8 bits until the batch: the bits of converting at once."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from vitral.data import Augment, AugmentConfig, EvalTransform, Preprocess
from vitral.data.images.uint8 import (
    normalize,
    normalize_batch,
    resize,
    to_image,
    to_planes,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(height: int, width: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def of_torch(image: Image.Image | torch.Tensor) -> torch.Tensor:
    """(x / 255 - mean) / std by torch, in float32."""
    if isinstance(image, Image.Image):
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = image.float()
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (pixels / 255 - mean[:, None, None]) / std[:, None, None]


def test_every_value_of_every_channel_has_the_bits_of_torch():
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(
        np.stack([levels, levels[::-1], levels.T.reshape(8, 32)], 2)
    )
    expected = of_torch(image)
    assert len(np.unique(np.array(image)[..., 2])) == 256
    found = to_planes(image)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(image))
    assert np.array_equal(np.array(to_image(found)), np.array(image))
    assert torch.equal(normalize(found, MEAN, STD), expected)
    interleaved = found.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(normalize(interleaved, MEAN, STD), expected)
    whole = Preprocess(mean=MEAN, std=STD).normalize(found)
    assert torch.equal(whole, expected)


def test_a_batch_is_its_images_in_order():
    images = [to_planes(photo(5, 7, seed)) for seed in range(3)]
    expected = torch.stack([of_torch(image) for image in images])
    assert torch.equal(normalize_batch(images, MEAN, STD), expected)
    assert torch.equal(normalize_batch(torch.stack(images), MEAN, STD), expected)
    # A transform may give 8 bits for some and numbers for others.
    mixed = [images[0], expected[1], images[2]]
    assert torch.equal(normalize_batch(mixed, MEAN, STD), expected)


def test_a_large_batch_has_the_same_bits_and_is_as_any_tensor():
    images = [to_planes(photo(300, 400, seed)) for seed in range(4)]
    found = normalize_batch(images, MEAN, STD)
    assert found.nbytes > 2**22
    assert torch.equal(found, torch.stack([of_torch(image) for image in images]))
    part = found[1:3].mul_(2)  # a view of it keeps its memory, written or not
    expected = 2 * of_torch(images[2])
    del found
    assert torch.equal(part[1], expected)


def test_images_of_two_sizes_make_no_batch():
    with pytest.raises(RuntimeError, match="equal size"):
        normalize_batch(
            [to_planes(photo(5, 7, 0)), to_planes(photo(7, 5, 1))], MEAN, STD
        )


@pytest.mark.parametrize("size", [(24, 40), (70, 90), (48, 33)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_as_near_to_the_exact_result_as_pillow(interpolation, size):
    """Exact: a float64 sum over the whole filter, made 8 bits once, at the end."""
    rocket = skimage.data.rocket()
    ours, pillows = [], []
    for top in range(0, 300, 60):
        image = Image.fromarray(rocket[top : top + 57, top : top + 81])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
        exact = torch.nn.functional.interpolate(
            pixels, size, mode=interpolation, antialias=True, align_corners=False
        )[0].clamp(0, 255)
        found = resize(image, size, interpolation)
        height, width = size
        method = Image.Resampling[interpolation.upper()]
        pillow = to_planes(image.resize((width, height), method))
        assert found.shape == pillow.shape == (3, *size)
        different = (found.int() - pillow.int()).abs()
        assert (different > 1).float().mean() < 1e-3
        assert different.max() <= (1 if interpolation == "bilinear" else 8)
        ours.append((found - exact).abs().mean())
        pillows.append((pillow - exact).abs().mean())
    assert sum(ours) < 1.02 * sum(pillows)
    assert sum(ours) / len(ours) < 0.3


@pytest.mark.parametrize("size", [(60, 50), (2400, 2000)])  # the second in pieces
def test_a_part_is_resized_as_if_it_were_cut_out_first(size):
    image = photo(*size, 3)
    top, left, bottom, right = 7, 11, 47, 45
    part = image.crop((left, top, right, bottom))
    found = resize(image, (20, 30), "bicubic", (top, left, bottom, right))
    assert found.is_contiguous()
    assert torch.equal(found, resize(part, (20, 30), "bicubic"))


def test_a_view_of_the_first_size_keeps_its_pixels():
    preprocess = Preprocess(image_size=(24, 40), antialias=True)
    config = AugmentConfig(crop="window", crop_area=(1.0, 1.0), flip=0.0)
    image = photo(24, 40, 0)
    found = Augment(config=config, preprocess=preprocess).pixels(image, "a", 0)
    assert torch.equal(found, to_planes(image))


def test_training_without_a_crop_shows_what_evaluation_shows():
    preprocess = Preprocess(image_size=(24, 40), antialias=True, mean=MEAN, std=STD)
    vary = Augment(config=AugmentConfig(flip=0.0), preprocess=preprocess)
    image = photo(48, 70, 0)
    assert torch.equal(vary(image, "a", 3), preprocess(image))
    method = Image.Resampling.BILINEAR
    assert torch.equal(
        vary.pixels(image, "a", 3), to_planes(image.resize((40, 24), method))
    )


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(crop="inception"),
        AugmentConfig(crop="window", crop_area=(0.6, 1.0), flip=1.0),
        AugmentConfig(dihedral=True),
        AugmentConfig(rand_augment=2),
        AugmentConfig(rand_augment=2, policy="rand_original"),
        AugmentConfig(color_jitter=0.4),
    ],
)
def test_pixels_are_the_result_before_it_is_normalised(config):
    preprocess = Preprocess(image_size=(24, 40), antialias=True, mean=MEAN, std=STD)
    vary = Augment(config=config, preprocess=preprocess, seed=3)
    image = photo(48, 80, 0)
    found = [vary.pixels(image, f"{number}", 1) for number in range(4)]
    for number, pixels in enumerate(found):
        assert pixels is not None
        assert torch.equal(of_torch(pixels), vary(image, f"{number}", 1))


@pytest.mark.parametrize("crop", ["none", "inception", "window"])
def test_the_float_path_draws_the_same(crop):
    config = AugmentConfig(crop=crop, crop_area=(0.5, 1.0))
    preprocess = Preprocess(image_size=(24, 40), antialias=True, mean=MEAN, std=STD)
    # Erasing that never happens keeps the numbers float from the start.
    other = AugmentConfig(crop=crop, crop_area=(0.5, 1.0), random_erasing=1e-9)
    image = photo(48, 80, 1)
    for number in range(6):
        eight = Augment(config=config, preprocess=preprocess).pixels(image, "a", number)
        slow = Augment(config=other, preprocess=preprocess)
        assert eight is not None
        assert slow.pixels(image, "a", number) is None
        assert torch.equal(of_torch(eight), slow(image, "a", number))


def test_no_image_of_8_bits_without_antialias():
    plain = EvalTransform(preprocess=Preprocess(image_size=(24, 40)))
    assert plain.pixels(photo(48, 80, 0), "a", 0) is None
    crop = Preprocess(image_size=(24, 40), antialias=True, resize="crop")
    sharp = EvalTransform(preprocess=crop)
    pixels = sharp.pixels(photo(70, 80, 0), "a", 0)
    assert pixels is not None
    assert pixels.shape == (3, 24, 40)
    result = sharp(photo(70, 80, 0), "a", 0)
    assert torch.equal(crop.normalize(crop.resize_and_crop(photo(70, 80, 0))), result)
