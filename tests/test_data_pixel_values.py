"""Pixels that are not 8-bit red, green and blue: range, channels, statistics."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import vitral as vt
from photos import tiny_config
from vitral.cli import main
from vitral.data import Preprocess, check
from vitral.data.augmentation import AugmentConfig
from vitral.data.augmentation.augment import Augment
from vitral.data.images import decode, raster_of
from vitral.errors import ConfigError, DataError, ImageError
from vitral.weights.channels import adapt_channels
from vitral.workflows.train import train

RAMP = np.linspace(0, 4095, 24 * 32).reshape(24, 32).astype(np.uint16)
RED, GREEN, BLUE, INFRARED = 200, 100, 50, 7


def four_bands(path: Path, **tags) -> Path:
    bands = np.full((6, 5, 4), (RED, GREEN, BLUE, INFRARED), np.uint8)
    bands[0, 0] = (1, 2, 3, 4)
    tifffile.imwrite(path, bands, photometric="rgb", **tags)
    return path


def folder(root: Path, write, count: int = 12) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for index in range(count):
            write(root / name / str(index), name, index)
    return root


def write_deep(path, name, index):
    scaled = RAMP // (1 if name == "a" else 2) + index
    Image.fromarray(scaled.clip(0, 4095).astype(np.uint16)).save(f"{path}.png")


def write_bands(path, name, index):
    rng = np.random.default_rng(index)
    bands = rng.integers(0, 256 if name == "a" else 128, (24, 32, 5)).astype(np.uint8)
    tifffile.imwrite(
        f"{path}.tif", bands, photometric="minisblack", planarconfig="contig"
    )


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_every_level_of_a_16_bit_file_reaches_the_model(tmp_path, bits):
    file = tmp_path / "deep.png"
    top = 2**bits - 1
    values = np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(file)
    preprocess = Preprocess(
        image_size=(64, 64), antialias=True, value_range=(0.0, float(top))
    )
    pixels = preprocess(file)
    assert len(pixels[0].unique()) == len(np.unique(values))
    assert pixels.min() == -1
    assert pixels.max() == 1
    expected = (values.astype(np.float64) / top - 0.5) / 0.5
    np.testing.assert_allclose(pixels[2].double(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_every_level_of_16_bit_colour_too(tmp_path, kind):
    file = tmp_path / f"deep.{kind}"
    values = np.stack([RAMP, RAMP[::-1], RAMP.T.reshape(24, 32)], -1)
    if kind == "png":
        write_deep_png(file, values)
    else:
        tifffile.imwrite(file, values, photometric="rgb", compression="zlib")
    raster = raster_of(decode(file).image)
    np.testing.assert_array_equal(raster.values, values)
    preprocess = Preprocess(image_size=(24, 32), value_range=(0.0, 4095.0))
    assert len(preprocess(file)[1].unique()) == len(np.unique(RAMP))


def write_deep_png(file: Path, values: np.ndarray) -> None:
    """Write 16 bits a colour, which Pillow cannot: header, one chunk, end."""

    def chunk(name: bytes, body: bytes) -> bytes:
        code = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", code)

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_infrared_is_no_opacity(tmp_path):
    bands = four_bands(tmp_path / "nir.tif", extrasamples=["unspecified"])
    decoded = decode(bands)
    assert decoded.image.getpixel((3, 3)) == (RED, GREEN, BLUE)
    assert decoded.notes == ("4 channels: a picture shows the first three",)
    raster = raster_of(decoded.image)
    assert raster.values[3, 3].tolist() == [RED, GREEN, BLUE, INFRARED]
    assert raster.planes(4, None)[:, 0, 0].tolist() == [1, 2, 3, 4]
    # A file that calls the fourth band opacity: on white, but a model may take it.
    opaque = decode(four_bands(tmp_path / "a.tif", extrasamples=["unassalpha"]))
    assert opaque.notes == ("transparency composited on white",)
    assert opaque.image.getpixel((3, 3))[2] > 240
    assert raster_of(opaque.image).planes(4, None)[3, 3, 3] == INFRARED


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_bands_of_any_number_type_are_read(tmp_path, dtype, separate):
    values = np.arange(6 * 5 * 5).reshape(6, 5, 5).astype(dtype)
    stored = values.transpose(2, 0, 1) if separate else values
    tifffile.imwrite(
        tmp_path / "five.tif",
        stored,
        photometric="minisblack",
        planarconfig="separate" if separate else "contig",
    )
    raster = raster_of(decode(tmp_path / "five.tif").image)
    np.testing.assert_array_equal(raster.values, values)
    low, high = raster.container
    planes = raster.planes(5, (0.0, 200.0) if dtype != "uint8" else None)
    top = 255 if dtype == "uint8" else 200
    np.testing.assert_allclose(planes[4, 5, 4], 149 / top * 255, rtol=1e-6)
    assert low <= 0
    assert high >= 149


def test_orientation_turns_values_as_the_picture(tmp_path):
    values = np.arange(6 * 5 * 5).reshape(6, 5, 5).astype(np.uint8)
    for orientation in range(1, 9):
        tifffile.imwrite(
            tmp_path / "a.tif",
            values,
            photometric="minisblack",
            planarconfig="contig",
            extratags=[(274, "H", 1, orientation, True)],
        )
        grey = Image.fromarray(values[..., 0])
        exif = grey.getexif()
        exif[274] = orientation
        grey.save(tmp_path / "grey.png", exif=exif)
        upright = np.asarray(decode(tmp_path / "grey.png").image)[..., 0]
        raster = raster_of(decode(tmp_path / "a.tif").image)
        np.testing.assert_array_equal(raster.values[..., 0], upright)


def test_a_tiff_that_is_too_large_or_packed_too_well_is_refused(tmp_path):
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file,
        np.zeros((50, 60, 5), np.uint8),
        planarconfig="contig",
        photometric="minisblack",
        compression="zlib",
    )
    with pytest.raises(ImageError, match="header claims 60 x 50 = 3,000 pixels"):
        decode(file, max_pixels=2999)
    decode(file)
    content = file.read_bytes()
    bomb = zlib.compress(bytes(4_000_000))
    with tifffile.TiffFile(file) as opened:
        tags = opened.pages.first.tags
        places = tags[273].valueoffset, tags[279].valueoffset
    content += bomb
    for place, value in zip(places, (len(content) - len(bomb), len(bomb)), strict=True):
        content = content[:place] + struct.pack("<I", value)[:4] + content[place + 4 :]
    with pytest.raises(ImageError, match="a strip holds more values"):
        decode(content)
    tifffile.imwrite(file, np.full((5, 6), np.nan))
    with pytest.raises(ImageError, match="not finite"):
        decode(file)


def test_channels_are_chosen_by_the_model_or_refused():
    bands = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    size = {"image_size": (2, 3)}
    plain = Preprocess(**size)
    four = plain.with_channels(4)
    assert four.mean == (0.5,) * 4
    assert torch.equal(four.normalize(torch.zeros(4, 2, 3)), -torch.ones(4, 2, 3))
    np.testing.assert_allclose(
        four(bands), (bands.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6
    )
    assert (
        four.denormalize(four(bands)).tolist()
        == bands[..., :3].transpose(2, 0, 1).tolist()
    )
    with pytest.raises(ImageError, match=r"has 3 channel\(s\), and the model takes 4"):
        four(bands[..., :3])
    grey = plain.with_channels(1)
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 100
    np.testing.assert_allclose(grey(red)[0] * 0.5 + 0.5, 29.9 / 255, atol=1e-6)
    deep = Preprocess(**size, value_range=(0.0, 4095.0))
    with pytest.raises(ImageError, match=r"8-bit values, and .* from 0 to 4095"):
        deep(red)


def test_range_is_stored_and_leaves_older_folders_alone():
    plain, deep = Preprocess(), Preprocess(value_range=(3.0, 4095.0))
    assert "value_range" not in plain.to_dict()
    assert plain.hash != deep.hash
    assert Preprocess.from_dict(json.loads(json.dumps(deep.to_dict()))) == deep
    with pytest.raises(ConfigError, match="one number for each channel: got 2 and 3"):
        Preprocess(mean=(0.5, 0.5))


def test_patch_weights_by_hand():
    weight = torch.tensor([[1.0, 2.0, 6.0], [0.0, 3.0, 3.0]], dtype=torch.float64)
    weight = weight[:, :, None, None]

    def adapted(channels, how):
        result = adapt_channels(weight, channels, how)
        assert result.dtype == torch.float64
        return result[:, :, 0, 0].tolist()

    assert adapted(1, "average") == [[9.0], [6.0]]
    assert adapted(4, "average") == [[2.25] * 4, [1.5] * 4]
    assert adapted(4, "repeat") == [[0.75, 1.5, 4.5, 0.75], [0, 2.25, 2.25, 0]]
    assert adapted(5, "zero") == [[1.0, 2.0, 6.0, 0, 0], [0, 3.0, 3.0, 0, 0]]
    assert adapted(2, "zero") == [[1.0, 2.0], [0, 3.0]]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("crop", ["none", "inception", "window"])
def test_augmentation_of_values_moves_them_as_it_moves_8_bits(antialias, crop):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (40, 52, 3)).astype(np.uint8)
    config = AugmentConfig(
        crop=crop, crop_area=(0.5, 1.0), dihedral=True, shift=0.1, rotate=9.0
    )
    plain = Preprocess(image_size=(24, 24), antialias=antialias)
    deep = dataclasses.replace(plain, value_range=(0.0, 2550.0))
    picture = Image.fromarray(pixels)
    values = decode(_tiff(pixels.astype(np.uint16) * 10)).image
    for draw in range(8):
        ours = Augment(config=config, preprocess=deep)(values, "x", draw)
        theirs = Augment(config=config, preprocess=plain)(picture, "x", draw)
        # Eight bits round after each pass.
        assert (ours - theirs).abs().max() < 3 / 127.5
    with pytest.raises(ConfigError, match="Colour operations change red, green"):
        Augment(
            config=AugmentConfig(color_jitter=0.2), preprocess=plain.with_channels(4)
        )


def _tiff(values):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, photometric="rgb")
    return stream.getvalue()


def test_one_range_for_all_files_is_measured_and_said(tmp_path):
    data = vt.data.open(str(folder(tmp_path / "deep", write_deep)), val=0.2, test=0.2)
    audit = check(data)
    assert audit.values.value_range == (0.0, 4095.0)
    assert any(
        note.startswith("uint16 values from 0 to 4095: training scales all files by")
        for note in audit.notes
    )
    bands = vt.data.open(str(folder(tmp_path / "bands", write_bands)), val=0.2)
    audit = check(bands)
    assert audit.values.value_range is None
    assert audit.values.channels == 5
    assert any("`--channels 5` takes all of 5" in note for note in audit.notes)


@pytest.mark.parametrize(
    ("write", "channels", "value_range"),
    [
        (write_deep, 3, (0.0, 4095.0)),
        (write_deep, 1, (0.0, 4095.0)),
        (write_bands, 5, None),
    ],
    ids=["deep", "grey", "bands"],
)
def test_train_keeps_range_and_statistics_with_the_model(
    tmp_path, no_report, write, channels, value_range
):
    data = folder(tmp_path / "data", write)
    config = tiny_config(data, epochs=1.0)
    changes = {**config.model_changes, "in_chans": channels}
    config = dataclasses.replace(config, model_changes=changes)
    train(config, tmp_path / "run")
    run = vt.Run(tmp_path / "run")
    assert run.preprocess.value_range == value_range
    assert run.preprocess.channels == channels
    suffix = "png" if write is write_deep else "tif"
    files = [data / name / f"{i}.{suffix}" for name in "ab" for i in range(12)]
    pixels = torch.stack([run.preprocess(file) for file in files])
    assert pixels.shape[1] == channels
    # Of all files, those of training included: mean 0 and deviation 1 within noise.
    assert pixels.mean().abs() < 0.15
    assert abs(pixels.std() - 1) < 0.6
    assert len(run.predict(files[:2])) == 2
    report = vt.export.onnx(run, tmp_path / "run.onnx")
    assert report is not None
    exported = vt.open(tmp_path / "run.onnx")
    assert exported.preprocess == run.preprocess
    # Weights of other channels start a model of three.
    source = vt.load(tmp_path / "run")
    assert source.model.config.in_chans == channels


def test_weights_start_a_model_of_other_channels(tmp_path, no_report):
    data = folder(tmp_path / "data", write_bands)
    config = tiny_config(data, epochs=1.0)
    train(dataclasses.replace(config), tmp_path / "first")
    weights = vt.load(tmp_path / "first").model.state_dict()["patch_embed.proj.weight"]
    five = dataclasses.replace(
        config,
        model="",
        weights=str(tmp_path / "first"),
        model_changes={"in_chans": 5},
        channel_init="zero",
    )
    bundle_run = train(five, tmp_path / "second")
    assert bundle_run.preprocess.channels == 5
    assert weights.shape[1] == 3
    log = (tmp_path / "second" / "config.json").read_text()
    assert '"channel_init": "zero"' in log
    with pytest.raises(DataError, match=r"no training file has the 6 channel\(s\)"):
        train(
            dataclasses.replace(five, model_changes={"in_chans": 6}), tmp_path / "third"
        )


def test_the_range_is_given_on_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "deep" / f"c{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 2000, (24, 24)) + 2000 * (index % 2)
        Image.fromarray(values.astype(np.uint16)).save(folder / f"{index}.png")
    words = ["train", str(tmp_path / "deep"), "--out", str(tmp_path / "run")]
    words += ["--channels", "1", "--model", "vit_mu8", "--image-size", "24"]
    words += ["--steps", "2", "--warmup", "1", "--device", "cpu"]
    assert main([*words, "--set", "value_range=[0,4095]"]) == 0
    run = vt.Run(tmp_path / "run")
    assert run.preprocess.value_range == (0.0, 4095.0)
