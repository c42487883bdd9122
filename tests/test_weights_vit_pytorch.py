"""vit-pytorch's ViT and SimpleViT: the same logits, there and back bit by bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vit_pytorch import SimpleViT
from vit_pytorch import ViT as TheirViT

import vitral as vt
from helpers import images, randomise
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid, sincos_2d
from vitral.weights import convert

SIZES: dict[str, Any] = {
    "image_size": (48, 80),
    "patch_size": 16,
    "num_classes": 7,
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "mlp_dim": 40,
}


def theirs(kind: type, **changes: Any) -> torch.nn.Module:
    model = kind(**{**SIZES, **changes})
    randomise(model)
    return model.double().eval()


def saved(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(
        {k: v.contiguous() for k, v in state.items()}, folder / "theirs.safetensors"
    )
    return folder / "theirs.safetensors"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (TheirViT, {"dim_head": 8}),
        (TheirViT, {"dim_head": 5}),
        (TheirViT, {"dim_head": 5, "pool": "mean"}),
        (SimpleViT, {"dim_head": 8}),
        (SimpleViT, {"dim_head": 5, "image_size": (80, 112)}),
    ],
)
def test_same_logits_and_bit_equal_there_and_back(tmp_path, kind, changes):
    other = theirs(kind, **changes)
    file = saved(tmp_path, other.state_dict())
    height, width = changes.get("image_size", (48, 80))
    grid = (height // 16, width // 16)
    model, _, ledger = vt.load(file, grid=grid, num_heads=3)
    image = images(2, height, width)
    if kind is SimpleViT:
        # Theirs computes the table in float32; ours, in float64, is that but finer.
        fine = sincos_2d(Grid(*grid), 24, image)
        torch.testing.assert_close(other.pos_embedding, fine.float(), rtol=0, atol=1e-6)
        other.pos_embedding = fine
    with torch.no_grad():
        wanted = other(image)
        torch.testing.assert_close(model(image), wanted, rtol=1e-10, atol=1e-10)
        half = model.float()(image.float())
        torch.testing.assert_close(half.double(), wanted, rtol=1e-4, atol=1e-4)
    assert {"copied", "transposed"} <= set(ledger.counts())
    to = "simple_vit" if kind is SimpleViT else "vit_pytorch"
    native = convert(file, tmp_path / "ours", "native", grid=grid, num_heads=3).path
    back = load_file(convert(native, tmp_path / "back.safetensors", to).path)
    before = load_file(file)
    assert back.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(back[name], tensor), name


def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of versions that wrapped every layer in a PreNorm."""
    names = {}
    for name, tensor in state.items():
        new = name.replace(".0.to_", ".0.fn.to_")
        for number, old in (("1", "0"), ("4", "3")):
            new = new.replace(f".1.net.{number}.", f".1.fn.net.{old}.")
        new = new.replace(".1.net.0.", ".1.norm.") if name == new else new
        new = new.replace("transformer.norm", "mlp_head.0")
        names[new.replace("mlp_head.w", "mlp_head.1.w").replace("d.b", "d.1.b")] = (
            tensor
        )
    names["pos_embedding"] = state["pos_embedding"][None]
    names["cls_token"] = state["cls_token"][None]
    return names


def test_an_older_version_is_the_same_model_for_its_class_token(tmp_path):
    """Older versions normalise the pooled token only, which is the same for it."""
    other = theirs(TheirViT, dim_head=8)
    file = saved(tmp_path, older(other.state_dict()))
    model = vt.load(file, grid=(3, 5), num_heads=3).model
    assert model.config.norm_after_pool
    with torch.no_grad():
        torch.testing.assert_close(
            model(images()), other(images()), rtol=1e-10, atol=1e-10
        )


def test_heads_of_64_channels_are_the_default(tmp_path):
    other = theirs(TheirViT, heads=2)
    file = saved(tmp_path, other.state_dict())
    loaded = vt.load(file, grid=(3, 5))
    assert loaded.model.config.num_heads == 2
    assert "2 heads of 64 channels assumed" in loaded.ledger.summary()
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(images()), other(images()), rtol=1e-10, atol=1e-10
        )


def test_heads_that_cannot_be_known(tmp_path):
    file = saved(tmp_path, theirs(TheirViT, dim_head=5).state_dict())
    with pytest.raises(WeightsError, match=r"together 15 channels wide.* `num_heads`"):
        vt.load(file, grid=(3, 5))


def test_patches_that_cannot_be_known(tmp_path):
    other = theirs(TheirViT, dim_head=8, patch_size=(16, 8))
    file = saved(tmp_path, other.state_dict())
    with pytest.raises(WeightsError, match="have 384 values, which are not square"):
        vt.load(file, grid=(3, 10), num_heads=3)


@pytest.mark.parametrize(
    ("to", "because"),
    [
        ("vit_pytorch", "its patches have norms"),
        ("simple_vit", "its patches"),
    ],
)
def test_an_ordinary_model_cannot_be_written_so(tmp_path, to, because):
    from helpers import tiny_vit
    from vitral.data import Preprocess

    vt.save(tmp_path / "ours", tiny_vit(), Preprocess(image_size=(48, 80)))
    with pytest.raises(ConfigError, match=because):
        convert(tmp_path / "ours", tmp_path / "x.safetensors", to)
