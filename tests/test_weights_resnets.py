"""Weights of hybrids and BiT: the peers' own logits, what they read, and refusals."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import HybridEmbed, StdConv2d, StdConv2dSame
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import BitConfig, BitForImageClassification, BitModel

import vitral as vt
import vitral.weights
from helpers import TINY, images
from memory_file import MemoryFile
from photos import tiny_config
from vitral.data import AugmentConfig, Preprocess
from vitral.data.images import Size
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import (
    HybridConfig,
    ModelConfig,
    ResNetConfig,
    ViTConfig,
    build_model,
    families,
)
from vitral.models.base import VisionModel
from vitral.weights import available_layouts
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.convert import convert
from vitral.weights.layouts.timm import arguments as timm_arguments
from vitral.weights.mismatch import check

TIMMS = {"group_norm_eps": 1e-5, "std_eps": 1e-8, "std_eps_at": "variance"}
"""The numbers of timm and Hugging Face, in our names."""
BIT = {"image_size": (48, 80), "num_classes": 7, "units": (1, 2), "stem_width": 32}
PREPROCESS = Preprocess(
    image_size=(48, 80), mean=(0.1, 0.2, 0.3), resize="crop", crop_fraction=0.9
)


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers everywhere, biases around 0: every ReLU cuts and nothing is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(noise * 0.3 + scale)
    return model.eval()


def ours(config: ModelConfig, seed: int = 0) -> VisionModel:
    model = build_model(config)
    fill(model, seed)
    return model


def hybrid(**changes: Any) -> HybridConfig:
    return HybridConfig(**{**TINY, "units": (1, 2), "stem_width": 32, **changes})


def bit(**changes: Any) -> ResNetConfig:
    return ResNetConfig(**{**BIT, **changes})


def timm_hybrid(units: tuple[int, ...], patch: int, **changes: Any) -> nn.Module:
    """timm's own classes, at widths that its functions do not offer."""
    conv = partial(StdConv2dSame, eps=1e-8)
    backbone: nn.Module = create_resnetv2_stem(
        3, 32, stem_type="same", preact=False, conv_layer=conv
    )
    if units:
        backbone = ResNetV2(
            layers=list(units),
            channels=tuple(128 * 2**stage for stage in range(len(units))),
            stem_chs=32,
            num_classes=0,
            global_pool="",
            preact=False,
            stem_type="same",
            conv_layer=conv,
        )
    sizes = {"img_size": (48, 80), "embed_dim": 24, "depth": 2, "num_heads": 3}
    return VisionTransformer(
        embed_layer=partial(HybridEmbed, backbone=backbone),
        patch_size=patch,
        **{**sizes, "mlp_ratio": 40 / 24, "num_classes": 7, **changes},
    )


def timm_bit(units: tuple[int, ...] = (1, 2), width: int = 32, **changes: Any) -> Any:
    made = ResNetV2(
        layers=list(units),
        channels=tuple(4 * width * 2**stage for stage in range(len(units))),
        stem_chs=width,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
        **{"num_classes": 7, **changes},
    )
    return fill(made)


def saved(folder: Path, tensors: Any, name: str = "w.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    kept = {k: v.contiguous() for k, v in tensors.items()}
    save_file(kept, folder / name)
    return folder / name


def npz(file: Path, arrays: dict[str, np.ndarray]) -> Path:
    with file.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    return file


def agree(
    mine: nn.Module, theirs: nn.Module, *sizes: tuple[int, int], wide: float = 1e-10
) -> None:
    """Equal logits: up to 1e-5 of the largest in float32, to `wide` in float64."""
    for height, width in sizes:
        image = images(2, height, width)
        with torch.no_grad():
            mine.float(), theirs.float()
            first, second = mine(image.float()), theirs(image.float())
            assert first.std() > 1e-3
            near = 1e-5 * max(1.0, second.abs().max().item())
            torch.testing.assert_close(first, second, rtol=0, atol=near)
            mine.double(), theirs.double()
            torch.testing.assert_close(mine(image), theirs(image), rtol=0, atol=wide)


# timm


@pytest.mark.parametrize(
    ("units", "patch", "changes"),
    [
        ((1, 2), 2, {}),
        ((2, 1), 1, {"global_pool": "avg", "class_token": False}),
        ((1, 1, 1), 1, {"num_classes": 5}),
        ((), 4, {}),
    ],
    ids=str,
)
def test_a_hybrid_of_timm(tmp_path, units, patch, changes):
    theirs = fill(timm_hybrid(units, patch, **changes))
    stride = 4 * 2 ** max(len(units) - 1, 0)
    grid = (48 // (stride * patch), 80 // (stride * patch))
    loaded = vt.load(saved(tmp_path, theirs.state_dict()), grid=grid, num_heads=3)
    config = loaded.model.config
    assert isinstance(config, HybridConfig)
    assert (config.units, config.width, config.grid) == (units, 32, Grid(*grid))
    assert config.patch_hw == (stride * patch, stride * patch)
    assert (config.image_hw, config.num_groups) == ((48, 80), 32)
    assert loaded.ledger.counts() == {"copied": len(theirs.state_dict())}
    agree(loaded.model, theirs, (48, 80))


def test_a_hybrid_of_timm_on_larger_images(tmp_path):
    theirs = fill(timm_hybrid((1, 2), 2, dynamic_img_size=True))
    file = saved(tmp_path, theirs.state_dict())
    loaded = vt.load(file, grid=(3, 5), num_heads=3)
    # timm resizes its positions in float32.
    agree(loaded.model, theirs, (64, 112), wide=1e-6)


@pytest.mark.parametrize(
    ("units", "width", "changes"),
    [
        ((1, 2), 32, {}),
        ((2, 1, 1), 32, {"num_classes": 0}),
        ((1, 1), 64, {"in_chans": 2}),
    ],
    ids=str,
)
def test_a_bit_of_timm(tmp_path, units, width, changes):
    theirs = timm_bit(units, width, **changes)
    loaded = vt.load(saved(tmp_path, theirs.state_dict()))
    config = loaded.model.config
    assert isinstance(config, ResNetConfig)
    assert (config.units, config.width, config.std_eps) == (units, width, 1e-8)
    assert config.num_classes == changes.get("num_classes", 7)
    chans = changes.get("in_chans", 3)
    for size in ((48, 80), (67, 45)):
        image = images(2, *size, chans)
        with torch.no_grad():
            theirs.double(), loaded.model.double()
            torch.testing.assert_close(
                loaded.model(image), theirs(image), rtol=0, atol=1e-10
            )
    usual = Preprocess(
        image_size=(224, 224), resize="crop", crop_fraction=0.875, antialias=True
    )
    assert loaded.preprocess == usual.with_channels(chans)
    notes = " ".join(loaded.ledger.notes)
    assert "images of 224 x 224 pixels assumed" in notes
    assert "pixel mean and deviation of 0.5 and a crop of 0.875" in notes


def test_config_json_of_timm_tells_pixels(tmp_path):
    saved(tmp_path, timm_bit().state_dict(), "model.safetensors")
    about = {"input_size": [3, 96, 64], "mean": [0.1, 0.2, 0.3], "std": [0.4] * 3}
    about |= {"crop_pct": 0.5, "interpolation": "bilinear"}
    text = json.dumps({"architecture": "resnetv2_50x1_bit", "pretrained_cfg": about})
    (tmp_path / "config.json").write_text(text)
    loaded = vt.load(tmp_path)
    assert loaded.preprocess.image_size == (96, 64)
    assert loaded.preprocess.mean == (0.1, 0.2, 0.3)
    assert loaded.preprocess.crop_fraction == 0.5
    assert loaded.ledger.notes == ()


@pytest.mark.parametrize(
    ("config", "architecture", "first_conv"),
    [
        (
            hybrid(units=(), stem_width=64, **TIMMS, act="gelu"),
            "vit_tiny_r_s16_p8_224",
            "patch_embed.backbone.conv",
        ),
        (
            hybrid(
                units=(2, 2, 2, 2),
                stem_width=64,
                image_size=(64, 96),
                patch_size=32,
                **TIMMS,
            ),
            "vit_small_r26_s32_224",
            "patch_embed.backbone.stem.conv",
        ),
        (bit(units=(3,), **TIMMS), "resnetv2_50x1_bit", "stem.conv"),
        (bit(units=(3, 8), num_classes=0, **TIMMS), "resnetv2_152x2_bit", "stem.conv"),
    ],
    ids=str,
)
def test_timm_opens_our_folder(tmp_path, config, architecture, first_conv):
    mine = ours(config)
    vt.save(tmp_path, mine, PREPROCESS)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["architecture"] == architecture
    assert about["vitral"]["timm"] is True
    cfg = about["pretrained_cfg"]
    assert cfg["first_conv"] == first_conv
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    known = theirs.get_submodule(first_conv)
    assert known.weight.shape == (config.width, 3, 7, 7)
    last = cfg["classifier"]
    assert last == ("head.fc" if isinstance(config, ResNetConfig) else "head")
    assert theirs.get_submodule(last) is theirs.get_classifier()
    agree(mine, theirs, config.image_hw)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("bit_r50x1", "resnetv2_50x1_bit"),
        ("bit_r50x3", "resnetv2_50x1_bit"),
        ("bit_r101x3", "resnetv2_101x1_bit"),
        ("bit_r152x1", "resnetv2_152x2_bit"),
        ("bit_r152x4", "resnetv2_152x2_bit"),
        ("r_vit_ti16", "vit_tiny_r_s16_p8_224"),
        ("r26_vit_b32", "vit_small_r26_s32_224"),
        ("r50_vit_b16", "vit_base_r50_s16_224"),
        ("r50_vit_l32", "vit_large_r50_s32_224"),
    ],
)
def test_timm_makes_every_size_with_our_tensors(name, architecture):
    config = vitral.models.get_config(name, {**TIMMS, "num_classes": 7})
    found = timm_arguments.find_timm_model(config)
    assert found is not None
    assert found.architecture == architecture
    arguments = dict(found.arguments)
    if isinstance(config, HybridConfig):
        # A forward pass of the backbone, which timm makes, needs real tensors.
        arguments["depth"] = 1
        config = vitral.models.replace_config(config, {"depth": 1})
    with torch.device("meta"):
        theirs = timm.create_model(
            architecture, pretrained=False, num_classes=7, **arguments
        )
    shapes = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    assert shapes == dict(vitral.models.tensor_shapes(config))


@pytest.mark.parametrize("name", ["bit_r26x1", "bit_r200x3"])
def test_timm_has_no_function_for_some_sizes(name):
    config = vitral.models.get_config(name, TIMMS)
    assert timm_arguments.find_timm_model(config) is None
    assert available_layouts()["timm"].unsupported_reason(config) == ""
    assert timm_arguments.notes(config) == (
        "timm's create_model makes no model of these sizes: its class must be built by "
        "hand to take the tensors",
    )


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        (
            bit(units=(3,)),
            ["timm standardises weights with an epsilon of 1e-08 at the variance, n"],
        ),
        (
            hybrid(units=(), stem_width=64),
            [
                "timm's GroupNorm has an epsilon of 1e-05, not 1e-06: logits will",
                "timm standardises weights with an epsilon of 1e-08 at the variance, "
                "not 1e-05 at the deviation: logits will differ slightly there",
            ],
        ),
        (
            ViTConfig(**TINY, norm_eps=1e-5),
            ["timm has an epsilon of 1e-06 in its LayerNorms, this model 1e-05: "],
        ),
        (
            hybrid(units=(), stem_width=64, norm_eps=1e-5, **TIMMS),
            ["timm has an epsilon of 1e-06 in its LayerNorms, this model 1e-05: "],
        ),
    ],
    ids=str,
)
def test_an_epsilon_is_a_note_and_no_architecture(tmp_path, config, notes):
    mine = ours(config)
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    about = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert about["vitral"]["timm"] is False
    assert "architecture" not in about
    there = convert(tmp_path / "ours", tmp_path / "there", "timm")
    own = [n for n in there.ledger.notes if "resizes positions" not in n]
    assert len(own) == len(notes)
    for found, wanted in zip(own, notes, strict=True):
        assert found.startswith(wanted)
    assert "architecture" not in json.loads(
        (tmp_path / "there" / "config.json").read_text()
    )


# Google's hybrids


def google_arrays(model: VisionModel) -> dict[str, np.ndarray]:
    """The ResNet's arrays under Flax's names, mapped here by hand."""
    state = {n: t.double().numpy() for n, t in model.state_dict().items()}
    arrays = {}
    for name, value in state.items():
        if not name.startswith("patch_embed.backbone."):
            continue
        parts = name.removeprefix("patch_embed.backbone.").split(".")
        if "stages" in parts:
            _, stage, _, unit, *rest = parts
            at = f"block{int(stage) + 1}/unit{int(unit) + 1}/"
        else:
            at, rest = "", parts[1:] if parts[0] == "stem" else parts
        kind = rest[-1]
        layer = rest[-2]
        if rest[0] == "downsample":
            word = {"conv": "conv_proj", "norm": "gn_proj"}[layer]
        elif at:
            word = layer.replace("norm", "gn")
        else:
            word = {"conv": "conv_root", "norm": "gn_root"}[layer]
        last = {"weight": "kernel" if "conv" in word else "scale", "bias": "bias"}
        turned = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        arrays[f"{at}{word}/{last[kind]}"] = turned
    return arrays


@pytest.mark.parametrize("units", [(1, 2), (), (1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("old", [False, True])
def test_a_hybrid_of_google(tmp_path, units, old):
    """Numbers of the official code; the oldest norms have shape (1, 1, 1, C)."""
    stride = 4 * 2 ** max(len(units) - 1, 0)
    side = max(stride, 16)
    config = hybrid(units=units, patch_size=(side, side), image_size=(64, 96))
    mine = ours(config).double()
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    written = convert(tmp_path / "ours", tmp_path / "w.npz", "google")
    assert written.ledger.notes == ()
    with np.load(written.path) as found:
        arrays = dict(found)
    resnet = google_arrays(mine)
    found = {n for n in arrays if re.match(r"conv_root|gn_root|block\d", n)}
    assert found == resnet.keys()
    for name, value in resnet.items():
        assert np.array_equal(arrays[name], value), name
        if old and "gn" in name:
            arrays[name] = value.reshape(1, 1, 1, -1)
    file = npz(tmp_path / "other.npz", arrays)
    loaded = vt.load(file, grid=tuple(config.grid))
    assert loaded.model.config == config
    assert loaded.ledger.layout == "vision_transformer"
    for size in ((64, 96), (96, 160)):
        image = images(2, *size)
        with torch.no_grad():
            assert torch.equal(loaded.model(image), mine(image))


@pytest.mark.parametrize(
    ("units", "patch", "name"),
    [
        ((), 4, None),
        ((1, 2), 2, None),
        ((2, 2, 2, 2), 1, "vit_small_r26_s32_224"),
        ((3, 4, 9), 1, "vit_base_r50_s16_224"),
    ],
    ids=str,
)
def test_timm_reads_our_npz_of_a_hybrid(tmp_path, units, patch, name):
    """Square, and with timm's numbers: what its own reader of these files needs."""
    stride = 4 * 2 ** max(len(units) - 1, 0)
    side = stride * patch * 3
    config = hybrid(
        units=units,
        image_size=side,
        patch_size=stride * patch,
        stem_width=64 if name else 32,
        act="gelu",
        **TIMMS,
    )
    sizes = {"img_size": side, "embed_dim": 24, "depth": 2, "num_heads": 3}
    sizes |= {"mlp_ratio": 40 / 24, "num_classes": 7}
    theirs = (
        timm.create_model(name, **sizes)
        if name
        else timm_hybrid(units, patch, img_size=side)
    )
    mine = ours(config)
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    written = convert(tmp_path / "ours", tmp_path / "w.npz", "google")
    assert any("the official code's GroupNorm" in n for n in written.ledger.notes)
    assert any("with an epsilon of 1e-05 at" in n for n in written.ledger.notes)
    fill(theirs, seed=5).load_pretrained(str(written.path))
    agree(mine, theirs, (side, side))


# BiT


def bit_arrays(model: nn.Module, prefix: str = "resnet/") -> dict[str, np.ndarray]:
    """Arrays as the project publishes them, mapped here by hand."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        turned = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        parts = name.split(".")
        kind = {"weight": "gamma", "bias": "beta"}[parts[-1]]
        if name.startswith("head."):
            theirs = f"head/conv2d/{'kernel' if kind == 'gamma' else 'bias'}"
        elif name.startswith("norm."):
            theirs = f"group_norm/{kind}"
        elif name.startswith("stem."):
            theirs = "root_block/standardized_conv2d/kernel"
        else:
            at = f"block{int(parts[1]) + 1}/unit0{int(parts[3]) + 1}"
            letter = {"1": "a", "2": "b", "3": "c"}.get(parts[4][-1], "a/proj")
            last = f"group_norm/{kind}"
            if tensor.ndim == 4:
                last = "standardized_conv2d/kernel"
            theirs = f"{at}/{letter}/{last}"
        arrays[prefix + theirs] = turned
    return arrays


def test_a_published_bit(tmp_path):
    """Arrays of timm's model, mapped by hand; its epsilon is the only difference."""
    theirs = timm_bit((2, 1))
    file = npz(tmp_path / "bit.npz", bit_arrays(theirs))
    source = vitral.weights.read(file)
    assert source.layout == "BiT"
    assert source.preprocess == Preprocess(image_size=(224, 224))
    assert isinstance(source.config, ResNetConfig)
    assert source.config.std_eps == 1e-10
    loaded = vt.load(file)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(loaded.model.state_dict()[name], tensor)
    same = vitral.models.replace_config(source.config, TIMMS)
    agree(vitral.weights.build(source, same).model, theirs, (48, 80), (67, 45))


def test_timm_reads_our_npz_of_a_bit(tmp_path):
    mine = ours(bit(**TIMMS))
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    written = convert(tmp_path / "ours", tmp_path / "w.npz", "bit")
    assert written.ledger.notes == (
        "the official code standardises weights with an epsilon of 1e-10 at the "
        "variance, not 1e-08 at the variance: logits will differ slightly there",
    )
    with np.load(written.path) as found:
        arrays = bit_arrays(mine)
        assert set(found.files) == set(arrays)
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    theirs = timm_bit()
    fill(theirs, seed=5)
    theirs.load_pretrained(str(written.path))
    agree(mine, theirs, (48, 80), (67, 45))


def test_a_head_of_zeros_and_another_number_of_classes(tmp_path):
    arrays = bit_arrays(timm_bit())
    kernel, bias = "resnet/head/conv2d/kernel", "resnet/head/conv2d/bias"
    arrays[kernel] = np.zeros_like(arrays[kernel])
    file = npz(tmp_path / "zero.npz", arrays)
    loaded = vt.load(file)
    with torch.no_grad():
        logits = loaded.model(images().float())
    assert torch.equal(logits, torch.from_numpy(arrays[bias]).expand(2, 7))
    loaded = vt.load(file, num_classes=5, image_size=(48, 80))
    assert loaded.model.head.fc.weight.shape == (5, 256, 1, 1)
    assert not loaded.model.head.fc.weight.any()
    assert loaded.preprocess.image_size == (48, 80)
    without = {n: a for n, a in arrays.items() if "/head/" not in n}
    assert vt.load(npz(tmp_path / "no.npz", without)).model.config.num_classes == 0


# Hugging Face


def hugging_face(**changes: Any) -> BitConfig:
    sizes = {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 2]}
    return BitConfig(**{**sizes, "num_labels": 7, **changes})


class Logits(nn.Module):
    """A model of Hugging Face's that answers with a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.model(image)
        return out.logits if "logits" in out else out.pooler_output.flatten(1)


@pytest.mark.parametrize(
    ("headed", "changes"),
    [(True, {}), (False, {}), (True, {"num_groups": 8, "num_channels": 2})],
    ids=str,
)
def test_a_bit_of_hugging_face(tmp_path, headed, changes):
    config = hugging_face(id2label=dict(enumerate("abcdefg")), **changes)
    theirs = fill((BitForImageClassification if headed else BitModel)(config))
    theirs.save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 96},
        "crop_size": {"height": 64, "width": 64},
        "resample": 3,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    source = vitral.weights.read(tmp_path)
    assert source.layout == "Hugging Face BiT"
    assert source.classes == (tuple("abcdefg") if headed else ())
    loaded = vt.load(tmp_path)
    assert loaded.ledger.notes == ()
    pixels = loaded.preprocess
    assert (pixels.image_size, pixels.resize) == ((64, 64), "crop")
    assert pixels.size_before_crop(Size(48, 96)) == (96, 192)
    assert (pixels.interpolation, pixels.antialias) == ("bicubic", True)
    if "num_channels" in changes:
        assert pixels.mean == pytest.approx((0.2, 0.2))
        assert pixels.std == pytest.approx((0.5, 0.5))
    else:
        assert (pixels.mean, pixels.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    mine = loaded.model.double()
    theirs = Logits(theirs.double())
    for size in ((48, 80), (67, 45)):
        image = images(2, *size, changes.get("num_channels", 3))
        with torch.no_grad():
            torch.testing.assert_close(mine(image), theirs(image), rtol=0, atol=1e-10)


@pytest.mark.parametrize("headed", [True, False])
def test_hugging_face_reads_what_is_written(tmp_path, headed):
    mine = ours(bit(**TIMMS, num_classes=7 if headed else 0))
    classes = tuple("abcdefg") if headed else ()
    vt.save(tmp_path / "ours", mine, PREPROCESS, classes=classes)
    place = convert(tmp_path / "ours", tmp_path / "hf", "huggingface_bit").path
    kind = BitForImageClassification if headed else BitModel
    theirs, info = kind.from_pretrained(place, output_loading_info=True)
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[name], info
    agree(mine, Logits(theirs.eval()), (48, 80), (67, 45))
    assert vitral.weights.read(place).classes == classes
    about = json.loads((place / "config.json").read_text())
    assert about["model_type"] == "bit"
    if headed:
        assert theirs.config.id2label[3] == "d"


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(image_size=(64, 64), resize="crop", crop_fraction=0.875),
        Preprocess(image_size=(48, 80), mean=(0.1, 0.2, 0.3)),
        Preprocess(image_size=(48, 80), crop_fraction=0.8, interpolation="bicubic"),
    ],
    ids=str,
)
def test_the_image_processor_keeps_what_pixels_are(tmp_path, preprocess):
    vt.save(tmp_path / "ours", ours(bit()), replace(preprocess, antialias=True))
    place = convert(tmp_path / "ours", tmp_path / "hf", "huggingface_bit").path
    back = vt.load(place).preprocess
    for source in ((50, 90), (120, 70)):
        known = preprocess.size_before_crop(Size(*source))
        assert back.size_before_crop(Size(*source)) == known
    fraction = back.crop_fraction
    assert replace(back, crop_fraction=preprocess.crop_fraction) == replace(
        preprocess, antialias=True
    )
    assert abs(fraction - preprocess.crop_fraction) < 0.02


# every size that has a name, shapes alone


def named_sizes() -> list[tuple[str, str]]:
    known = {"resnet": ("bit", "huggingface_bit", "timm"), "hybrid": ("google", "timm")}
    return [
        (name, layout)
        for family, there in known.items()
        for name in families()[family].sizes
        for layout in there
    ]


@pytest.mark.parametrize(("name", "at"), named_sizes())
def test_shapes_tell_the_size(name, at):
    changes = {"num_classes": 21, "image_size": (256, 384)}
    config, layout = vitral.models.get_config(name, changes), available_layouts()[at]
    shapes = vitral.models.tensor_shapes(config)
    tensors = {
        theirs: torch.empty(shape, device="meta")
        for rule in layout.mappings(config)
        for theirs, shape in zip(
            rule.theirs, rule.expected_shapes(shapes[rule.ours]), strict=True
        )
    }
    file = MemoryFile(tensors, Path("shapes.npz"))
    source = layout.read(LayoutInput(file=file, grid=config.grid))
    assert vitral.models.get_model_name(source.config) == name
    assert source.config.grid == config.grid
    assert source.config.image_hw == (256, 384)
    official = at in ("bit", "google")
    numerics = {} if official else {**TIMMS}
    if at == "timm" and isinstance(config, HybridConfig):
        numerics |= {"act": "gelu", "position_resize": "bicubic_antialias"}
    wanted = vitral.models.replace_config(config, numerics)
    if isinstance(wanted, HybridConfig):
        wanted = replace(wanted, patch_size=wanted.patch_hw)
    assert replace(source.config, image_size=(256, 384)) == wanted
    check(source)


# what is refused


@pytest.mark.parametrize(
    ("to", "config", "because"),
    [
        ("timm", bit(padding="same"), "its convolutions pad both sides of an image"),
        ("timm", bit(num_groups=16), "its GroupNorms have 32 groups"),
        ("timm", hybrid(padding="fixed"), "its convolutions pad as TensorFlow's SAME"),
        ("timm", hybrid(position="learned_2d"), "its positions are learned, one row"),
        ("google", hybrid(num_groups=8), "its GroupNorms have 32 groups"),
        ("google", hybrid(padding="fixed"), "its convolutions pad as TensorFlow's"),
        ("google", hybrid(reg_tokens=2), "it has no register tokens"),
        ("google", bit(), "its ViT and its hybrids are all that it has"),
        ("big_vision", hybrid(), "its ViT is all that vitral writes for it"),
        ("bit", bit(padding="same"), "its convolutions pad both sides of an image al"),
        ("bit", bit(num_groups=16), "its GroupNorms have 32 groups"),
        ("bit", hybrid(), "its ResNets are all that it has"),
        ("huggingface_bit", bit(padding="same"), "its convolutions pad both sides"),
        (
            "huggingface_bit",
            bit(num_groups=3, stem_width=12),
            "it rounds every width to a multiple of 8",
        ),
        ("huggingface_bit", hybrid(), "it is for the ResNets of BiT alone"),
    ],
    ids=str,
)
def test_what_a_layout_cannot_hold(tmp_path, to, config, because):
    vt.save(tmp_path / "ours", build_model(config), PREPROCESS)
    place = "no.npz" if available_layouts()[to].container == "npz" else "no"
    with pytest.raises(ConfigError, match=f"because {because}") as caught:
        convert(tmp_path / "ours", tmp_path / place, to)
    assert not (tmp_path / place).exists()
    assert "Layouts that can hold it: " in str(caught.value)
    assert "native" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnetv2_50", "holds a ResNet of BatchNorm. vitral has BiT's: units of Grou"),
        ("resnetv2_18", "holds a ResNet of BatchNorm. vitral has BiT's"),
        ("basic", "holds a ResNet of basic blocks. vitral has BiT's"),
        ("post", "holds a ResNet of units that are activated after their sum; such a"),
        ("resnet26d", "it is a hybrid, but tensor patch_embed.backbone.conv.weight is"),
    ],
)
def test_other_resnets_are_refused(tmp_path, name, sentence):
    kinds: dict[str, Any] = {
        "basic": lambda: timm_bit(basic=True, bottle_ratio=1.0),
        "post": lambda: timm_bit(preact=False),
        "resnet26d": lambda: timm.create_model(
            "vit_small_resnet26d_224", embed_dim=24, num_heads=3, depth=1, img_size=32
        ),
    }
    made = kinds.get(name, lambda: timm.create_model(name, num_classes=3))()
    file = saved(tmp_path, made.state_dict())
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        vt.load(file)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layer_type": "bottleneck"}, "layer_type 'bottleneck': units that are activ"),
        ({"global_padding": "SAME"}, "global_padding 'SAME': another padding of the"),
        ({"embedding_dynamic_padding": True}, "embedding_dynamic_padding True: ano"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu': another activation"),
        ({"output_stride": 4}, "output_stride 4: dilated convolutions"),
    ],
    ids=str,
)
def test_what_config_json_turns_into_another_function(tmp_path, changes, sentence):
    BitForImageClassification(hugging_face(**changes)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=f"config.json has {sentence}"):
        vt.load(tmp_path)


UNIT = "resnet/block2/unit01/a/standardized_conv2d/kernel"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({UNIT: None}, f"lacks {UNIT} and has nothing that the model"),
        (
            {UNIT: lambda a: a.transpose(3, 2, 1, 0)},
            rf"tensor {UNIT} has shape \(64, 128, 1, 1\), expected \(1, 1, 128, 64\):"
            " it is transposed",
        ),
        ({f"{UNIT}s": "renamed"}, f"{UNIT}s looks like {UNIT}, renamed"),
        (
            {"resnet/block2/unit01/a/proj/standardized_conv2d/kernel": None},
            "lacks resnet/block2/unit01/a/proj/standardized_conv2d/kernel",
        ),
        (
            {"resnet/group_norm/gamma": lambda a: a.reshape(1, 1, 1, -1)},
            r"resnet/group_norm/gamma has shape \(1, 1, 1, 256\), expected \(256,\)",
        ),
        (
            {"block": 2},
            "it has 2 units of a ResNet, but no tensor of unit 1 of stage 2",
        ),
        ({"width": 24}, "has 24 channels, which the 32 groups of a GroupNorm do not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "array",
)
def test_arrays_that_do_not_fit(tmp_path, changes, sentence):
    arrays = bit_arrays(timm_bit((1, 1)))
    name, change = next(iter(changes.items()))
    if change is None:
        del arrays[name]
    elif callable(change):
        arrays[name] = change(arrays[name])
    elif change == "renamed":
        arrays[name] = arrays.pop(name[:-1])
    elif name == "block":
        arrays = {n.replace("block2", "block3"): a for n, a in arrays.items()}
    else:
        root = "resnet/root_block/standardized_conv2d/kernel"
        arrays[root] = arrays[root][..., :change]
    with pytest.raises(WeightsError, match=sentence):
        vt.load(npz(tmp_path / "bad.npz", arrays))


def test_a_hybrid_that_lacks_an_array(tmp_path):
    config = hybrid(act="gelu")
    vt.save(tmp_path / "ours", ours(config), PREPROCESS)
    file = convert(tmp_path / "ours", tmp_path / "w.npz", "google").path
    with np.load(file) as found:
        arrays = dict(found)
    name = "block2/unit1/gn_proj/scale"
    whole = arrays.pop(name)
    with pytest.raises(WeightsError, match=f"lacks {name} and has nothing"):
        vt.load(npz(tmp_path / "bad.npz", arrays), grid=(3, 5))
    arrays[name] = whole.reshape(2, -1)
    with pytest.raises(WeightsError, match=rf"{name} has shape \(2, 128\), expected"):
        vt.load(npz(tmp_path / "bad.npz", arrays), grid=(3, 5))


# a run


NARROW = {"stem_width": 8, "num_groups": 4}
RUNS: dict[str, dict[str, Any]] = {
    "bit_r26x1": NARROW,
    "r26_vit_s32": {
        **NARROW,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_dim": 40,
    },
}


@pytest.mark.parametrize("model", RUNS)
@pytest.mark.usefixtures("no_report")
def test_train_save_open(tmp_path, few_photos, model):
    fields: dict[str, Any] = {"image_size": (32, 64), "batch_size": 9, "epochs": 2.0}
    config = tiny_config(few_photos, **fields, model=model, model_changes=RUNS[model])
    run = vt.train(config, tmp_path / "run")
    known = {**RUNS[model], "image_size": (32, 64), "num_classes": 3}
    loaded = vt.load(run.path)
    assert loaded.model.config == vitral.models.get_config(model, known)
    image = next(few_photos.rglob("*.png"))
    with torch.no_grad():
        logits = loaded.model(loaded.preprocess(image)[None])
    answer = vt.open(run.path).predict([image])[0]
    assert answer.label == run.classes[int(logits.argmax())]
    depth = loaded.model.config.num_blocks - 1
    frozen = tiny_config(
        few_photos,
        **fields,
        model="",
        model_changes={},
        weights=str(run.path),
        freeze=depth,
        cache=True,
        augment=AugmentConfig(views=2),
    )
    again = vt.train(frozen, tmp_path / "frozen")
    before, after = loaded.model.state_dict(), vt.load(again.path).model.state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert before.keys() - same == {
        n for n in before if loaded.model.layer_index(n) > depth
    }
