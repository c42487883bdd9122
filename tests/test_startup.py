"""What starting costs, held by counting what is imported, not by the clock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vitral as vt
from helpers import TINY, randomise
from photos import photo
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig

SOURCE = Path(__file__).parents[1] / "src"
SLOW = ("torchvision", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib")
SLOW += ("jinja2", "rich", "tyro", "pandas", "torch._dynamo", "torch._inductor")
SLOW += ("torch.distributed.fsdp", "sympy", "onnx", "openvino", "nncf", "fastapi")


def imported(code: str) -> tuple[set[str], str]:
    """The modules that `code` leaves imported, and what it prints."""
    tail = "\nimport sys, json; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + tail],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("startup")
    network = ViT(ViTConfig(**TINY))
    randomise(network)
    vt.save(folder / "model", network, Preprocess(image_size=(48, 80)))
    photo(0, 1).save(folder / "one.jpg")
    return folder


def test_predict_imports_torch_and_little_else(model):
    words = ["predict", str(model / "model"), str(model / "one.jpg")]
    found, printed = imported(f"from vitral.cli import main; assert main({words}) == 0")
    assert json.loads(printed)["label"]
    assert not found & set(SLOW)
    alone, _ = imported("import torch")
    more = {name for name in found - alone if not name.startswith("vitral")}
    assert len(more) < 450, sorted({name.split(".")[0] for name in more})


def test_the_check_can_fail():
    found, _ = imported("import vitral.workflows.train.train")
    assert found & set(SLOW)


@pytest.mark.parametrize("code", ["import vitral", "import vitral, vitral.cli"])
def test_import_is_the_standard_library(code):
    found, _ = imported(code)
    bare, _ = imported("pass")
    more = {name for name in found - bare if not name.startswith("vitral")}
    assert "torch" not in more
    assert "numpy" not in more
    assert len(more) < 60


def test_a_model_of_shapes_has_the_tensors_of_one_with_numbers():
    from vitral.models.meta_init import meta_init

    with meta_init():
        empty = ViT(ViTConfig(**TINY)).state_dict()
    full = ViT(ViTConfig(**TINY)).state_dict()
    assert all(tensor.is_meta for tensor in empty.values())
    assert {name: t.shape for name, t in empty.items()} == {
        name: t.shape for name, t in full.items()
    }
