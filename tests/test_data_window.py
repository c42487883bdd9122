"""Long and thin pictures: no step makes far more than is given to it or kept."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import tv_tensors

from helpers import measure_child
from photos import noise
from server_process import children, request, serving, tiny_model
from vitral.data import Preprocess
from vitral.data.augmentation import Augment, AugmentConfig
from vitral.data.images import CropBox, Size
from vitral.data.images.window import (
    nearest_cells,
    resize_antialiased,
    resize_planes_window,
    resize_window,
    sample_window,
)

GIANTS = ((1, 20_000), (20_000, 1), (3, 60_000), (60_000, 3))
EXTREMES = ((1, 2_000_000), (2_000_000, 1))
"""Where even one axis at the model's size is 2 GB."""
METHODS = ("nearest", "bilinear", "bicubic")
RESIZED, WINDOW = Size(59, 83), CropBox(11, 20, 43, 68)
LIMIT_MB = 1500

WORK = """
import re, sys
from pathlib import Path
from vitral.cli import main
data, out = sys.argv[1:]
small = "--image-size 32 --model vit_mu16 --eval-every 2 --warmup 1".split()
crops = "--crop inception --dihedral --flip 0".split()
for argv in (
    ["train", data, "--out", out, "--steps", "2", *small, *crops],
    ["eval", out],
    ["predict", out, f"{data}/long"],
    ["inspect", out, f"{data}/long", "--what", "rollout", "--out", f"{out}/looked"],
    ["report", out],
):
    code = main(argv)
    # Not getrusage: a process inherits that peak from the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\\s+(\\d+) kB", status)[0]) // 1024
    print("\\nRESULT", argv[0], code, peak)
"""


def strip(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [(41, 61), (97, 31), (121, 201)])
def test_a_window_alone_is_the_window_of_the_whole(source, method):
    image = noise(*source)
    whole = image.resize(
        (RESIZED.width, RESIZED.height), Image.Resampling[method.upper()]
    )
    expected = np.asarray(whole)[WINDOW.top : WINDOW.bottom, WINDOW.left : WINDOW.right]
    found = np.asarray(resize_window(image, RESIZED, WINDOW, method))
    # Pillow rounds the corners of a box to float32: 0.4 % of the values differ by 1.
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= (method != "nearest")
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [(40, 61), (97, 31), (2, 3), (118, 166)])
def test_a_window_without_low_pass_is_that_of_torch(source, method):
    planes = torch.from_numpy(np.array(noise(*source))).permute(2, 0, 1).float()
    mode = "nearest-exact" if method == "nearest" else method
    whole = F.interpolate(planes[None], size=RESIZED, mode=mode)[0]
    expected = whole[:, WINDOW.top : WINDOW.bottom, WINDOW.left : WINDOW.right]
    found = sample_window(planes, RESIZED, WINDOW, method)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    if method == "nearest":
        assert torch.equal(found, expected)


def test_planes_are_resized_as_pictures_are():
    image = noise(40, 61)
    planes = np.array(image).transpose(2, 0, 1).astype(np.float32)
    found = resize_planes_window(planes, RESIZED, WINDOW, "bilinear")
    expected = np.asarray(resize_window(image, RESIZED, WINDOW, "bilinear"))
    difference = found.permute(1, 2, 0).numpy() - expected
    assert np.abs(difference).max() < 1.5  # two roundings to 8 bits


def test_a_tall_strip_takes_its_height_first():
    values = np.repeat(np.arange(224), 10_000).astype(np.uint8)
    pixels = torch.from_numpy(values).reshape(1, 1, -1, 1)
    found = resize_antialiased(pixels, Size(224, 32), "bilinear")[0, 0]
    # Of the mean over 20,000 rows about the middle of a part, 3/4 are its own.
    expected = torch.arange(1, 223)[:, None].expand(222, 32)
    assert torch.equal(found[1:-1].long(), expected)
    ordinary = torch.from_numpy(np.array(noise(97, 31))).permute(2, 0, 1)[None]
    expected = F.interpolate(ordinary, size=(20, 50), mode="bilinear", antialias=True)
    assert torch.equal(resize_antialiased(ordinary, Size(20, 50), "bilinear"), expected)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_the_centre_of_a_strip_by_hand(tall, antialias):
    values = np.random.default_rng(3).integers(0, 256, 20_000).astype(np.uint8)
    gray = values[:, None] if tall else values[None]
    preprocess = Preprocess(
        image_size=(224, 224), resize="crop", crop_fraction=0.875, antialias=antialias
    )
    result = preprocess.resize_and_crop(Image.fromarray(gray).convert("RGB"))
    line = result[1, :, 100] if tall else result[1, 100]
    # 256 pixels for one of the file, from that numbered 9999 to that numbered 10000.
    share = (np.arange(224) + 16 + 0.5) / 256
    start, end = float(values[9999]), float(values[10_000])
    expected = start + (end - start) * share
    np.testing.assert_allclose(line.numpy(), expected, atol=1.01 if antialias else 1e-2)


@pytest.mark.parametrize("shape", [(1, 20_000), (60_000, 3)])
def test_masks_and_targets_move_with_a_strip(shape):
    image = strip(*shape)
    preprocess = Preprocess(image_size=(32, 32), resize="crop", antialias=True)
    geometry = preprocess.geometry(Size(*shape))
    labels = torch.from_numpy(np.array(image)[..., 0].copy())
    mask = geometry.apply(tv_tensors.Mask(labels))
    assert mask.shape == (32, 32)
    rows, columns = (
        ((np.arange(start, end) + 0.5) * old / new).astype(int)
        for start, end, old, new in zip(
            geometry.window[:2],
            geometry.window[2:],
            shape,
            geometry.resized,
            strict=True,
        )
    )
    assert torch.equal(mask, labels[rows][:, columns])
    picture = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    moved = geometry.apply(picture).float()
    seen = preprocess.resize_and_crop(image)
    assert (moved - seen).abs().max() <= 1


def test_the_cell_under_the_centre():
    # Twice as many: the second of each two lies under the centre of none.
    rows, columns = nearest_cells(Size(6, 4), Size(3, 4), CropBox(0, 0, 3, 4))
    assert rows.flatten().tolist() == [1, 3, 5]
    assert columns.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("shape", [*GIANTS, *EXTREMES])
def test_no_transform_makes_a_giant(shape, antialias, resize):
    image = strip(*shape)

    def every() -> None:
        torch.set_num_threads(1)
        for method in METHODS:
            preprocess = Preprocess(
                resize=resize,
                antialias=antialias,
                interpolation=method,
                crop_fraction=0.875,
            )
            assert preprocess(image).shape == (3, 224, 224)
            for crop in ("none", "inception", "window"):
                config = AugmentConfig(crop=crop, dihedral=True, flip=0.0)
                vary = Augment(config=config, preprocess=preprocess)
                assert vary(image, "x", 1).shape == (3, 224, 224)

    assert measure_child(every)[1] < 200


def test_every_command_takes_strips(tmp_path: Path):
    for number in range(6):
        for name in ("long", "plain"):
            folder = tmp_path / "data" / name
            folder.mkdir(parents=True, exist_ok=True)
            shape = GIANTS[number % 4] if name == "long" else (20, 30)
            strip(*shape).save(folder / f"{number}.png")
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "data"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = re.findall(r"^RESULT (\S+) (\d+) (\d+)$", done.stdout, re.M)
    assert [line[:2] for line in lines] == [
        (verb, "0") for verb in ("train", "eval", "predict", "inspect", "report")
    ], done.stdout + done.stderr
    assert all(int(peak) < LIMIT_MB for *_, peak in lines), lines


def test_the_server_takes_strips(tmp_path: Path):
    folder = tiny_model(tmp_path / "model")
    with serving(folder, "--threads", "1") as server:
        for number, shape in enumerate((*GIANTS, *EXTREMES)):
            file = tmp_path / f"{number}.png"
            strip(*shape).save(file)
            headers = {"content-type": "image/png"}
            reply = server.ask(request(file.read_bytes(), headers=headers))
            assert reply.status == 200, reply
        pids = [server.process.pid, *children(server.process.pid), server.worker()]
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024
            assert peak < LIMIT_MB, (pid, peak)
