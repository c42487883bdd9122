"""Precisions of weights files: float64 computes, quantized integers are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vitral as vt
from helpers import assert_near, images, randomise, tiny_tnt, tiny_vit
from vitral.cli import main
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import HybridConfig, ResNetConfig, VisionModel, build_model

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_dim": 40}


def resnet() -> VisionModel:
    config = ResNetConfig(image_size=64, num_classes=3, units=(1, 1), stem_width=32)
    return build_model(config).double()


def hybrid() -> VisionModel:
    fields = {**SIZES, "image_size": 64, "patch_size": 32, "num_classes": 3}
    return build_model(HybridConfig(**fields, units=(1,), stem_width=32)).double()


@pytest.mark.parametrize("make", [tiny_vit, tiny_tnt, resnet, hybrid])
def test_a_float64_model_takes_float32_images(tmp_path, make):
    theirs = make()
    randomise(theirs)
    theirs.eval()
    chans, height, width = theirs.config.input_shape
    preprocess = Preprocess(image_size=(height, width), antialias=True)
    vt.save(tmp_path / "m", theirs, preprocess.with_channels(chans))
    model, _, ledger = vt.load(tmp_path / "m")
    image = images(2, height, width, chans).float()
    with torch.no_grad():
        assert_near(model(image), theirs(image.double()), 1e-12)
        narrow = vt.load(tmp_path / "m", dtype=torch.float32)
        assert_near(narrow.model(image).double(), theirs(image.double()), 1e-3)
    assert narrow.model(image).dtype == torch.float32
    assert "the model computes in float64, as its tensors are stored" in ledger.notes
    assert "tensors of float64 are used in float32" in narrow.ledger.notes


def image_folder(root: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def foreign_float64(folder: Path) -> Path:
    model = tiny_vit(image_size=(32, 32), num_classes=2, embed_dim=64, num_heads=1)
    file = folder / "float64.safetensors"
    save_file(model.state_dict(), file)
    return file


def test_float64_weights_train_and_give_features(tmp_path, capsys):
    weights, data = foreign_float64(tmp_path), image_folder(tmp_path / "data")
    run = tmp_path / "run"
    argv = ["train", str(data), "--weights", str(weights)]
    assert main([*argv, "--steps", "1", "--warmup", "0", "--out", str(run)]) == 0
    said = capsys.readouterr()
    assert "tensors of float64 are used in float32" in said.out + said.err
    stored = vt.load(run).model.state_dict()
    assert {value.dtype for value in stored.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_quantized_weights_without_a_scale_are_refused(tmp_path, dtype):
    state = tiny_vit().state_dict()
    name = "blocks.1.attn.qkv.weight"
    state[name] = (state[name] * 127).to(dtype)
    save_file(state, tmp_path / "w.safetensors")
    stored = str(dtype).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"{name} is stored as {stored}, expected"):
        vt.load(tmp_path / "w.safetensors", grid=(3, 5), num_heads=3)
    with pytest.raises(WeightsError, match="is stored as"):
        vt.convert(
            tmp_path / "w.safetensors",
            tmp_path / "out",
            "native",
            grid=(3, 5),
            num_heads=3,
        )


def test_float8_without_a_scale_is_a_note(tmp_path):
    theirs = tiny_vit(act="gelu", norm_eps=1e-6)
    state = theirs.state_dict()
    for name in [name for name in state if name.endswith("mlp.fc1.weight")]:
        state[name] = state[name].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "w.safetensors")
    model, _, ledger = vt.load(tmp_path / "w.safetensors", grid=(3, 5), num_heads=3)
    theirs.load_state_dict({name: value.double() for name, value in state.items()})
    with torch.no_grad():
        assert_near(model(images()), theirs(images()), 1e-12)
    assert any("float8_e4m3fn are used as they are" in note for note in ledger.notes)
