"""The image size of probes: weights of many pixels look at small pictures in less."""

import json
from pathlib import Path

import pytest
import torch

import vitral.data
from helpers import captured_log
from photos import noise
from vitral.cli import main
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig
from vitral.weights import load, save
from vitral.workflows.features import cache, extract_splits
from vitral.workflows.features.image_size import choose_image_size


def config_of(side: int, patch: int = 14, **changes) -> ViTConfig:
    fields = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, **changes}
    return ViTConfig(image_size=side, patch_size=patch, num_classes=2, **fields)


def folder_of(root: Path, height: int, width: int, count: int = 12) -> Path:
    for number in range(count):
        for name in "ab":
            (root / name).mkdir(parents=True, exist_ok=True)
            noise(height, width).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("side", "patch", "height", "width", "expected"),
    [
        (518, 14, 64, 64, 224),  # DINOv2's weights
        (518, 14, 300, 200, 308),  # the next multiple of a patch
        (518, 14, 500, 600, None),
        (384, 16, 32, 32, 224),
        (384, 16, 370, 100, None),
        (448, 32, 225, 5, 256),
        (224, 16, 8, 8, None),
        (96, 16, 8, 8, None),
    ],
)
def test_the_size_by_hand(side, patch, height, width, expected, tmp_path):
    dataset = vitral.data.open(folder_of(tmp_path, height, width, 2))
    with captured_log() as lines:
        found = choose_image_size(config_of(side, patch), dataset)
    assert found == expected
    said = [line for line in lines if "features are computed at" in line]
    assert len(said) == (expected is not None)
    if said:
        assert f"have {height} x {width} pixels" in said[0]
        assert f"`--image-size {side}`" in said[0]


def test_positions_that_cannot_be_resized_keep_their_size(tmp_path):
    dataset = vitral.data.open(folder_of(tmp_path, 32, 32, 2))
    assert choose_image_size(config_of(518, position="relative"), dataset) is None


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = ViT(config_of(448, 32)).eval()
    save(tmp_path / "model", model, Preprocess(image_size=(448, 448)))
    return tmp_path / "model"


def test_the_features_are_those_of_that_size(weights, tmp_path, capsys):
    data = folder_of(tmp_path / "data", 40, 30)
    flags = [str(weights), str(data), "--protocol", "knn", "--k", "2", "--json"]
    flags += ["--cache-dir", str(tmp_path / "cache")]
    assert main(["eval", *flags]) == 0
    assert "features are computed at 224 x 224" in capsys.readouterr().err
    kept = {file.name for file in (tmp_path / "cache").glob("*.json")}
    assert main(["eval", *flags, "--image-size", "224"]) == 0
    assert "computed at" not in capsys.readouterr().err
    assert {file.name for file in (tmp_path / "cache").glob("*.json")} == kept
    assert main(["eval", *flags, "--image-size", "448"]) == 0
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2 * len(kept)
    assert json.loads(capsys.readouterr().out)
    found = extract_splits(weights, data, folder=tmp_path / "cache")
    loaded = load(weights, image_size=224)
    pixels = loaded.preprocess.load(data / found.train.ids[0])[None]
    with torch.no_grad():
        expected = loaded.model.forward_pool(loaded.model.forward_features(pixels))
    torch.testing.assert_close(found.train.x[:1], expected, atol=1e-5, rtol=0)


def test_progress_is_said(monkeypatch):
    monkeypatch.setattr(cache, "PROGRESS_SECONDS", 0.0)
    with captured_log() as lines:
        batches = list(cache.log_progress(iter([torch.zeros(4, 2)] * 3), 12))
    assert len(batches) == 3
    assert [line.split(" in ")[0] for line in lines] == [
        "features: 4 of 12 images",
        "features: 8 of 12 images",
    ]
