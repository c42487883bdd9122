"""vitral.data.images.preprocess: sizes, filters, normalisation and the hash."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from photos import noise
from vitral.data import Preprocess
from vitral.data.images import Size
from vitral.errors import ConfigError, ImageError


def test_black_is_minus_one_white_is_one_and_the_middle_zero():
    preprocess = Preprocess(image_size=(3, 5))
    pixels = torch.tensor([0, 255, 128], dtype=torch.uint8)[:, None, None]
    result = preprocess.normalize(pixels.expand(3, 3, 5))
    assert result[0].unique().tolist() == [-1.0]
    assert result[1].unique().tolist() == [1.0]
    assert preprocess.normalize(torch.full((3, 3, 5), 127.5)).unique().tolist() == [0.0]
    assert torch.allclose(result[2], torch.tensor(0.5 / 127.5), atol=1e-7)


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.485, 0.456, 0.406)])
def test_inverse_is_exact_for_all_256_values(mean):
    preprocess = Preprocess(image_size=(16, 48), mean=mean, std=(0.229, 0.224, 0.5))
    pixels = torch.arange(256).repeat(9).reshape(3, 16, 48).to(torch.uint8)
    assert torch.equal(preprocess.denormalize(preprocess.normalize(pixels)), pixels)
    batch = torch.stack([pixels, 255 - pixels])
    assert torch.equal(preprocess.denormalize(preprocess.normalize(batch)), batch)


def test_statistics_belong_to_their_channels():
    preprocess = Preprocess(
        image_size=(2, 3), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)
    )
    result = preprocess(np.zeros((2, 3, 3), dtype=np.uint8))
    assert torch.allclose(result[:, 1, 2], torch.tensor([-0.2, -0.2, -0.15]))


def test_default_squash_is_bilinear_without_antialias():
    image = noise(31, 97)
    result = Preprocess(image_size=(24, 40)).resize_and_crop(image)
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None]
    expected = F.interpolate(
        source, size=(24, 40), mode="bilinear", align_corners=False
    )
    assert torch.equal(result, expected[0])
    # One pixel by hand: row 5 of 24 from 31, column 9 of 40 from 97.
    y, x = (5 + 0.5) * 31 / 24 - 0.5, (9 + 0.5) * 97 / 40 - 0.5
    top, left, down, right = int(y), int(x), y - int(y), x - int(x)
    corners = source[0, 1, top : top + 2, left : left + 2]
    rows = torch.tensor([1 - down, down])
    columns = torch.tensor([1 - right, right])
    assert torch.allclose(result[1, 5, 9], rows @ corners @ columns, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_antialias_is_pillow(interpolation):
    image = noise(120, 90)
    preprocess = Preprocess(
        image_size=(24, 40), interpolation=interpolation, antialias=True
    )
    method = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(image.resize((40, 24), method)).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess.resize_and_crop(image).numpy(), expected)


def test_nearest_and_bicubic_without_antialias():
    image = noise(8, 12)
    nearest = Preprocess(image_size=(4, 6), interpolation="nearest").resize_and_crop(
        image
    )
    # The centre of output pixel i lies at 2 i + 0.5: the pixel right of the border.
    expected = np.asarray(image)[1::2, 1::2].transpose(2, 0, 1)
    np.testing.assert_array_equal(nearest.numpy(), expected)
    sharp = Image.fromarray(np.tile(np.array([0, 0, 255, 255], np.uint8), (6, 2)))
    cubic = Preprocess(image_size=(12, 20), interpolation="bicubic")
    result = cubic.resize_and_crop(sharp.convert("RGB"))
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.parametrize(
    ("source", "size", "fraction", "expected"),
    [
        ((60, 100), (24, 40), 1.0, (24, 40)),
        ((60, 120), (24, 40), 1.0, (24, 48)),
        ((90, 100), (24, 40), 1.0, (36, 40)),
        ((60, 100), (24, 40), 0.8, (30, 50)),
        ((300, 200), (32, 32), 0.9, (52, 35)),
    ],
)
def test_crop_covers_the_size(source, size, fraction, expected):
    preprocess = Preprocess(image_size=size, resize="crop", crop_fraction=fraction)
    assert preprocess.size_before_crop(Size(*source)) == expected
    assert preprocess(noise(*source)).shape == (3, *size)


@pytest.mark.parametrize("source", [(60, 97), (131, 60), (33, 33)])
def test_crop_equals_torchvision_on_a_square(source):
    image = noise(*source)
    preprocess = Preprocess(
        image_size=(28, 28), resize="crop", crop_fraction=0.875, antialias=True
    )
    reference = v2.Compose([v2.Resize(32), v2.CenterCrop(28)])
    expected = np.asarray(reference(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess.resize_and_crop(image).numpy(), expected)


def test_squash_with_a_crop_fraction_cuts_the_centre():
    image = noise(30, 50)
    preprocess = Preprocess(image_size=(24, 40), crop_fraction=0.8)
    expected = np.asarray(image)[3:27, 5:45].transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess.resize_and_crop(image).numpy(), expected)


def test_path_bytes_pillow_and_array_agree(tmp_path):
    image = noise(31, 50)
    path = tmp_path / "a.png"
    image.save(path)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    preprocess = Preprocess(image_size=(24, 40))
    expected = preprocess(image)
    for same in (path, str(path), buffer.getvalue(), np.asarray(image)):
        assert torch.equal(preprocess(same), expected)
    assert expected.dtype == torch.float32
    grey = np.asarray(image)[..., 0]
    assert torch.equal(preprocess(grey), preprocess(grey[..., None].repeat(3, 2)))


def test_deep_pillow_images_are_scaled_too():
    image = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert Preprocess(image_size=(1, 2))(image)[0].tolist() == [[-1.0, 1.0]]


def test_arrays_of_other_kinds_are_refused():
    preprocess = Preprocess(image_size=(24, 40))
    for array in (np.zeros((4, 5, 3)), np.zeros((3, 4, 5), np.uint8)):
        with pytest.raises(ConfigError, match="must be uint8 \\[height, width, 3\\]"):
            preprocess(array)
    with pytest.raises(ImageError, match="empty"):
        preprocess(b"")


def test_hash_changes_with_every_field_and_survives_json():
    base = Preprocess(image_size=(24, 40))
    variants = [
        Preprocess(image_size=(40, 24)),
        Preprocess(image_size=(24, 40), resize="crop"),
        Preprocess(image_size=(24, 40), crop_fraction=0.9),
        Preprocess(image_size=(24, 40), interpolation="bicubic"),
        Preprocess(image_size=(24, 40), antialias=True),
        Preprocess(image_size=(24, 40), mean=(0.5, 0.5, 0.501)),
        Preprocess(image_size=(24, 40), std=(0.5, 0.501, 0.5)),
    ]
    hashes = {variant.hash for variant in (base, *variants)}
    assert len(hashes) == 8
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)
    for variant in variants:
        assert Preprocess.from_dict(variant.to_dict()) == variant
        assert Preprocess.from_dict(variant.to_dict()).hash == variant.hash
    assert Preprocess.from_dict({"mean": [0, 0, 0]}).mean == (0.0, 0.0, 0.0)
    # Hashes are stored in files: a change of this number breaks every one of them.
    assert Preprocess().hash == "f11c94ac659a8341"


def test_wrong_fields_are_named():
    with pytest.raises(
        ConfigError, match="no field 'size'; expected some of image_size"
    ):
        Preprocess.from_dict({"size": [24, 40]})
    with pytest.raises(
        ConfigError,
        match=r"`Preprocess.mean` must be a finite number for each .*: got 0.5",
    ):
        Preprocess.from_dict({"mean": 0.5})
    for field, value, sentence in (
        ("image_size", (0, 5), "two positive numbers"),
        ("image_size", (5,), "two positive numbers"),
        ("resize", "pad", "'squash' or 'crop'"),
        ("crop_fraction", 0.0, "at least 0.02 and at most 1"),
        ("interpolation", "lanczos", "'nearest', 'bilinear' or 'bicubic'"),
        ("mean", (0.5, float("inf")), "a finite number for each channel"),
        ("std", (0.5, 0.0, 0.5), "a positive number for each channel"),
        ("value_range", (5.0, 5.0), "two finite numbers, the lower first, or none"),
    ):
        with pytest.raises(
            ConfigError, match=f"`Preprocess.{field}` must be {sentence}"
        ):
            Preprocess.from_dict({field: value})
