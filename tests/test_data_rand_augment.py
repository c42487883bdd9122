"""vitral.data.augmentation.rand_augment_tf: operations by hand, and by Pillow where
they are equal."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vitral.data import Augment, AugmentConfig, Preprocess
from vitral.data.augmentation import rand_augment_tf as ops
from vitral.data.rng import generator_for

NAMES = (
    "AutoContrast Equalize Invert Rotate Posterize Solarize Color Contrast Brightness "
    "Sharpness ShearX ShearY TranslateX TranslateY Cutout SolarizeAdd"
)


def picture(height: int = 50, width: int = 70) -> np.ndarray:
    generator = np.random.default_rng([height, width])
    return generator.integers(0, 256, (height, width, 3)).astype(np.uint8)


def grey_row(*values: int) -> np.ndarray:
    """One row of pixels with three equal channels."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def row(pixels: np.ndarray) -> list[int]:
    return pixels[0, :, 0].tolist()


class Fixed(np.random.Generator):
    """Gives the numbers that it was told, and remembers what was asked."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(np.random.Philox(key=0))
        self.numbers = list(numbers)
        self.bounds: list[int] = []

    def integers(self, bound: int) -> int:
        self.bounds.append(bound)
        return self.numbers.pop(0)


def applied(name: str, pixels: np.ndarray, magnitude: int, *numbers: int):
    share = magnitude / 10
    return ops.OPERATIONS[name](pixels, share, Fixed(*numbers))


def test_the_sixteen_operations():
    assert " ".join(ops.OPERATIONS) == NAMES


def test_autocontrast():
    # 255 / (60 - 10) = 5.1: 10 to 0, 25 to 76.5, 60 to 255; digits are cut off.
    image = grey_row(10, 25, 60)
    image[0, :, 1] = 7  # a channel of one value stays
    found = ops.autocontrast(image)
    assert row(found) == [0, 76, 255]
    assert found[0, :, 1].tolist() == [7, 7, 7]


def test_equalize():
    # 1,024 pixels of which 510 are the brightest: step (1024 - 510) // 255 = 2.
    image = np.repeat(grey_row(*([3] * 4 + [9] * 510 + [200] * 510)), 1, axis=0)
    found = row(ops.equalize(image))
    # Before 3 there is nothing: (0 + 1) // 2; before 9: (4 + 1) // 2; the rest clipped.
    assert (found[0], found[4], found[-1]) == (0, 2, 255)
    few = grey_row(4, 90, 200)  # step 0: as it is
    assert np.array_equal(ops.equalize(few), few)
    for size in ((50, 70), (31, 200)):
        expected = ImageOps.equalize(Image.fromarray(picture(*size) // 3))
        assert np.array_equal(ops.equalize(picture(*size) // 3), np.array(expected))


def test_invert():
    assert row(applied("Invert", grey_row(0, 100, 255), 3)) == [255, 155, 0]


@pytest.mark.parametrize(
    ("magnitude", "bits"), [(2, 0), (3, 1), (5, 2), (9, 3), (10, 4), (15, 6), (20, 8)]
)
def test_posterize(magnitude, bits):
    values = (0, 1, 16, 127, 128, 200, 255)
    step = 2 ** (8 - max(bits, 1))
    expected = [value // step * step for value in values]
    assert row(applied("Posterize", grey_row(*values), magnitude)) == expected
    if bits:
        pillow = ImageOps.posterize(Image.fromarray(picture()), bits)
        assert np.array_equal(ops.posterize(picture(), bits), np.array(pillow))


@pytest.mark.parametrize(
    ("magnitude", "threshold"), [(0, 0), (2, 51), (5, 128), (10, 0), (15, 128), (20, 0)]
)
def test_solarize_compares_with_a_byte(magnitude, threshold):
    # int(0.2 * 256) = 51; 256, 384 and 512 are 0, 128 and 0 as bytes.
    values = (0, 50, 51, 127, 128, 255)
    expected = [v if v < threshold else 255 - v for v in values]
    assert row(applied("Solarize", grey_row(*values), magnitude)) == expected


def test_solarize_add():
    # int(0.5 * 110) = 55 is added below 128 only; at 20 it is 220, up to 255.
    values = (0, 100, 127, 128, 250)
    assert row(applied("SolarizeAdd", grey_row(*values), 5)) == [55, 155, 182, 128, 250]
    assert row(applied("SolarizeAdd", grey_row(*values), 20)) == [
        *[220, 255, 255, 128, 250]
    ]


def test_grey_and_color():
    # 0.2989 r + 0.587 g + 0.114 b, times 255.5 / 255, digits cut off.
    image = np.array([[[200, 100, 50], [255, 255, 255]]], np.uint8)
    luma = (0.2989 * 200 + 0.587 * 100 + 0.114 * 50) * 255.5 / 255
    assert math.floor(luma) == 124
    assert ops.grayscale(image).tolist() == [[[124] * 3, [255] * 3]]
    # 124 + 1.9 * (200 - 124) = 268.4, 124 - 45.6 = 78.4, 124 - 140.6 < 0.
    assert applied("Color", image, 10)[0, 0].tolist() == [255, 78, 0]
    # 124 + 0.1 * 76 = 131.6; 124 - 2.4 = 121.6; 124 - 7.4 = 116.6.
    assert applied("Color", image, 0)[0, 0].tolist() == [131, 121, 116]
    assert np.array_equal(applied("Color", image, 5), image)  # factor 1


def test_contrast_keeps_its_bug():
    # 20 x 30 = 600 pixels: towards 600 / 256 = 2, whatever the colours' mean.
    image = np.full((20, 30, 3), 100, np.uint8)
    found = applied("Contrast", image, 0)  # factor 0.1: 2 + 9.8
    assert np.unique(found).tolist() == [11]
    # 320 x 224 pixels over 256 are 280, as a byte at most 255: 255 - 15.5.
    found = applied("Contrast", np.full((320, 224, 3), 100, np.uint8), 0)
    assert np.unique(found).tolist() == [239]
    assert np.unique(applied("Contrast", image, 10)).tolist() == [188]  # 2 + 186.2


def test_brightness():
    # Factors 0.1, 0.82 (of 4), 1.9 and 3.7 (of 20).
    for magnitude, expected in ((0, [0, 10, 25]), (4, [0, 82, 205])):
        assert row(applied("Brightness", grey_row(0, 100, 250), magnitude)) == expected
    assert row(applied("Brightness", grey_row(0, 100, 250), 10)) == [0, 190, 255]
    assert row(applied("Brightness", grey_row(0, 40, 250), 20)) == [0, 148, 255]


def test_sharpness():
    image = np.full((4, 5, 3), 26, np.uint8)
    image[1, 2] = 91
    smooth = np.full((4, 5), 26)
    # (8 * 26 + 5 * 91) / 13 = 51 in the middle; (12 * 26 + 91) / 13 = 31 beside it.
    smooth[1:3, 1:4] = [[31, 51, 31], [31, 31, 31]]
    expected = np.floor(smooth + 0.1 * (image[..., 0] - smooth.astype(float)) + 1e-4)
    found = applied("Sharpness", image, 0)
    assert found[..., 0].tolist() == expected.tolist()
    assert found[1, 2].tolist() == [55] * 3
    assert found[2, 2].tolist() == [30] * 3
    assert np.array_equal(found[0], image[0])  # the border stays
    tiny = picture(2, 9)
    assert np.array_equal(applied("Sharpness", tiny, 10), tiny)


def test_moves_are_in_pixels_and_leave_grey():
    image = grey_row(*range(10, 40))
    # 0.1 * 100 = 10 pixels at magnitude 1.
    left = applied("TranslateX", image, 1, 1)
    assert row(left) == [*range(20, 40), *[128] * 10]
    right = applied("TranslateX", image, 1, 0)
    assert row(right) == [*[128] * 10, *range(10, 30)]
    upright = image.transpose(1, 0, 2)
    assert applied("TranslateY", upright, 1, 1)[:, 0, 0].tolist() == row(left)
    assert applied("TranslateY", upright, 1, 0)[:, 0, 0].tolist() == row(right)
    assert np.unique(applied("TranslateX", image, 3, 1)).tolist() == [128]


def test_shears():
    # Magnitude 10: row y from 0.3 y further right, 0, 0.3, 0.6 and 0.9 rounded.
    image = np.repeat(grey_row(1, 2, 3, 4, 5), 4, axis=0)
    found = applied("ShearX", image, 10, 1)[..., 0]
    moved = [2, 3, 4, 5, 128]
    assert found.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], moved, moved]
    found = applied("ShearX", image, 10, 0)[..., 0]
    moved = [128, 1, 2, 3, 4]
    assert found.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], moved, moved]
    turned = image.transpose(1, 0, 2)
    found = applied("ShearY", turned, 10, 0)[..., 0].T
    assert found.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], moved, moved]


def test_rotations():
    image = picture(5, 7)
    assert np.array_equal(ops.rotate(image, 180.0), image[::-1, ::-1])
    square = picture(6, 6)
    assert np.array_equal(ops.rotate(square, 90.0), np.rot90(square))
    grey = (128, 128, 128)
    for degrees, sign in ((30.0, 1), (-30.0, 0)):
        pillow = Image.fromarray(picture()).rotate(degrees, fillcolor=grey)
        found = applied("Rotate", picture(), 10, sign)
        # Pillow counts in 16-bit fractions: a few pixels lie on the edge of two.
        assert (found != np.array(pillow)).any(-1).mean() < 0.01
    twice = applied("Rotate", picture(), 20, 1)
    assert np.array_equal(twice, ops.rotate(picture(), 60.0))


def test_cutout():
    image = np.zeros((30, 50, 3), np.uint8)
    # int(0.2 * 40) = 8 around (20, 5): rows 12..28, columns 0..13.
    found = applied("Cutout", image, 2, 20, 5)
    expected = np.zeros((30, 50))
    expected[12:28, :13] = 128
    assert np.array_equal(found[..., 1], expected)
    assert not image.any()
    draw = Fixed(3, 4)
    ops.cutout(image, 8, draw)
    assert draw.bounds == [30, 50]
    assert np.unique(applied("Cutout", image, 20, 15, 20)).tolist() == [128]  # of 160


def test_what_is_drawn():
    draw = Fixed(2, 8, 10, 1)  # Invert, then Brightness, then ShearX with its sign
    image = picture(7, 9)
    found = ops.rand_augment(image, 3, 10, draw)
    assert draw.bounds == [16, 16, 16, 2]
    expected = ops.shift(ops.brightness(255 - image, 1.9), "x", slope=0.3)
    assert np.array_equal(found, expected)
    assert np.array_equal(ops.rand_augment(image, 0, 10, Fixed()), image)
    for number in range(64):
        made = ops.rand_augment(image, 2, 20, generator_for("test", number))
        assert made.shape == image.shape
        assert made.dtype == np.uint8


def test_all_operations_are_drawn_equally_often(monkeypatch):
    seen: list[str] = []
    for name in ops.OPERATIONS:
        monkeypatch.setitem(
            ops.OPERATIONS,
            name,
            lambda pixels, share, draw, name=name: seen.append(name) or pixels,
        )
    ops.rand_augment(picture(3, 4), 3200, 9, generator_for("often"))
    counts = [seen.count(name) for name in ops.OPERATIONS]
    # Five standard deviations of 200 expected draws.
    assert max(abs(count - 200) for count in counts) < 5 * math.sqrt(200)


def test_in_the_augmentation():
    preprocess = Preprocess(image_size=(50, 70))
    config = AugmentConfig(
        flip=0.0, rand_augment=2, rand_augment_magnitude=5, policy="rand_original"
    )
    vary = Augment(config=config, preprocess=preprocess, seed=4)
    image = picture()
    state = torch.get_rng_state()
    for number in range(6):
        draw = generator_for("augment", 4, number, "a")
        draw.random()  # the flip's
        expected = ops.rand_augment(image, 2, 5, draw)
        found = vary(Image.fromarray(image), "a", number)
        assert torch.equal(found, preprocess(Image.fromarray(expected)))
    assert torch.equal(torch.get_rng_state(), state)
    other = Augment(
        config=AugmentConfig(flip=0.0, rand_augment=2, rand_augment_magnitude=5),
        preprocess=preprocess,
        seed=4,
    )
    assert any(
        not torch.equal(
            other(Image.fromarray(image), "a", number),
            vary(Image.fromarray(image), "a", number),
        )
        for number in range(3)
    )
