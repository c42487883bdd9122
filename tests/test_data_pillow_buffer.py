"""vitral.data.images.uint8: an image's memory as an array."""

import gc

import numpy as np
from PIL import Image

from vitral.data.images.uint8 import as_rgbx_view


def photo(height: int, width: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def test_the_pixels_are_read_where_they_lie():
    image = photo(5, 7)
    pixels = as_rgbx_view(image)
    assert pixels.shape == (5, 7, 4)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[..., :3], np.asarray(image))


def test_writing_to_them_changes_the_image():
    image = photo(5, 7)
    as_rgbx_view(image)[2, 3] = (1, 2, 3, 255)
    assert image.getpixel((3, 2)) == (1, 2, 3)


def test_they_outlive_the_image():
    image = photo(300, 400)
    expected = np.asarray(image)
    pixels = as_rgbx_view(image)[10:20, 30:50]
    del image
    gc.collect()
    others = [Image.new("RGB", (400, 300), "white") for _ in range(20)]
    np.testing.assert_array_equal(pixels[..., :3], expected[10:20, 30:50])
    assert len(others) == 20


def test_their_memory_is_freed():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(20):
        as_rgbx_view(Image.new("RGB", (1000, 1000)))
    before = resident()
    for _ in range(100):
        as_rgbx_view(Image.new("RGB", (1000, 1000)))
    assert resident() - before < 40e6  # of 400


def test_other_images_and_those_in_pieces_have_none():
    assert as_rgbx_view(photo(5, 7).convert("L")) is None
    assert as_rgbx_view(photo(5, 7).convert("RGBA")) is None
    assert as_rgbx_view(Image.new("RGB", (0, 7))) is None
    assert as_rgbx_view(Image.new("RGB", (3000, 2000))) is None
