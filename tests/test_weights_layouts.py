"""Every layout against every other: there and back, bit by bit."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import vitral as vt
from helpers import TINY, randomise
from memory_file import MemoryFile
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import (
    DeiTConfig,
    HybridConfig,
    ModelConfig,
    ResNetConfig,
    TimeSformerConfig,
    TNTConfig,
    ViTConfig,
    build_model,
    families,
)
from vitral.models.vitc import ViTCConfig
from vitral.weights import available_layouts, read
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.convert import (
    adapt_config,
    convert,
    get_layout,
    read_tensors,
    to_foreign_tensors,
)
from vitral.weights.detect import detect_layout
from vitral.weights.file_metadata import make_metadata
from vitral.weights.layouts.layout import ModelSpec

WORDS: dict[str, int] = {"inner_dim": 12, "inner_num_heads": 2, "inner_mlp_dim": 48}
MODELS: dict[str, ModelConfig] = {
    "plain": ViTConfig(**TINY),
    "plain with a hidden layer": ViTConfig(**TINY, representation_size=20),
    "headless": ViTConfig(**{**TINY, "num_classes": 0}),
    "headless with a hidden layer": ViTConfig(
        **{**TINY, "num_classes": 0}, representation_size=24
    ),
    "class token without a row": ViTConfig(**TINY, no_embed_class=True),
    "mean": ViTConfig(**TINY, class_token=False, global_pool="avg"),
    "mean, then norm": ViTConfig(**TINY, global_pool="avg", norm_after_pool=True),
    "attention pooling": ViTConfig(**TINY, class_token=False, global_pool="map"),
    "DINOv2": ViTConfig(**{**TINY, "num_classes": 0}, init_values=0.1),
    "DINOv2 with registers": ViTConfig(
        **{**TINY, "num_classes": 0}, init_values=0.1, reg_tokens=4, no_embed_reg=True
    ),
    "DINOv2 with a head": ViTConfig(
        **TINY, init_values=0.1, global_pool="token_avg", mlp="swiglu"
    ),
    "no bias of queries": ViTConfig(**TINY, qkv_bias=False),
    "vit-pytorch": ViTConfig(
        **TINY, head_dim=5, qkv_bias=False, patch_norm=True, norm_eps=1e-5
    ),
    "vit-pytorch, mean": ViTConfig(
        **TINY,
        qkv_bias=False,
        patch_norm=True,
        class_token=False,
        global_pool="avg",
    ),
    "SimpleViT": ViTConfig(
        **TINY,
        qkv_bias=False,
        proj_bias=False,
        patch_norm=True,
        class_token=False,
        global_pool="avg",
        position="sincos_2d",
    ),
    "fixed positions": ViTConfig(
        **TINY, class_token=False, global_pool="avg", position="sincos_2d"
    ),
    "relative positions": ViTConfig(**TINY, position="relative"),
    "square, exact GELU": ViTConfig(**{**TINY, "image_size": 48, "act": "gelu"}),
    "square, exact GELU, headless": ViTConfig(
        **{**TINY, "image_size": 48, "act": "gelu", "num_classes": 0}
    ),
    "DINOv2, square": ViTConfig(
        **{**TINY, "image_size": 48, "num_classes": 0, "mlp_dim": 48},
        init_values=0.1,
        reg_tokens=4,
        no_embed_reg=True,
        act="gelu",
    ),
    "DINOv2 with a head, square": ViTConfig(
        **{**TINY, "image_size": 48, "mlp_dim": 48},
        init_values=0.1,
        global_pool="token_avg",
    ),
    "CLIP without projection": ViTConfig(
        **{**TINY, "image_size": 32, "patch_size": 16, "num_classes": 0},
        norm_pre=True,
        norm_eps=1e-5,
    ),
    "DINOv3": ViTConfig(
        **{**TINY, "image_size": 32, "patch_size": 16, "num_classes": 0},
        position="rotary",
        reg_tokens=2,
        init_values=0.1,
        norm_eps=1e-5,
        qkv_bias=False,
    ),
    "BEiT": ViTConfig(
        **{**TINY, "image_size": 48, "global_pool": "avg"},
        position="relative_bias",
        init_values=0.1,
        norm_after_pool=True,
        k_bias=False,
    ),
    "EVA-02": ViTConfig(
        **{**TINY, "image_size": 48, "global_pool": "avg"},
        position="learned_rotary",
        mlp="swiglu",
        mlp_norm=True,
        norm_after_pool=True,
        k_bias=False,
    ),
    "AIMv2": ViTConfig(
        **{**TINY, "image_size": 48, "global_pool": "avg", "num_classes": 0},
        class_token=False,
        mlp="swiglu",
        norm="rms",
        qkv_bias=False,
        proj_bias=False,
    ),
    "a norm in the gate": ViTConfig(
        **{**TINY, "image_size": 48}, mlp="swiglu", mlp_norm=True
    ),
    "keys without a bias": ViTConfig(**{**TINY, "image_size": 48}, k_bias=False),
    "DeiT": DeiTConfig(**TINY),
    "DeiT with one head": DeiTConfig(**TINY, distillation_head=False),
    "hybrid": HybridConfig(**TINY, units=(1, 2), stem_width=32),
    "hybrid of a stem": HybridConfig(
        **TINY, units=(), stem_width=32, class_token=False, global_pool="avg"
    ),
    "ViT_C": ViTCConfig(**{**TINY, "patch_size": 4}),
    "TimeSformer": TimeSformerConfig(**TINY, num_frames=3),
    "TimeSformer, axial": TimeSformerConfig(
        **TINY, num_frames=3, attention_type="axial"
    ),
    "TimeSformer, square": TimeSformerConfig(
        **{**TINY, "image_size": 48}, num_frames=3, qkv_bias=False
    ),
    "TimeSformer, joint": TimeSformerConfig(
        **{**TINY, "image_size": 48}, num_frames=3, attention_type="joint"
    ),
    "TimeSformer, space, headless": TimeSformerConfig(
        **{**TINY, "image_size": 48, "num_classes": 0}, attention_type="space"
    ),
    "BiT": ResNetConfig(
        image_size=(48, 80), num_classes=7, units=(2, 1), stem_width=32
    ),
    "BiT, headless": ResNetConfig(
        image_size=(48, 80), num_classes=0, units=(1, 2), stem_width=32
    ),
    "TNT": TNTConfig(**{**TINY, "patch_size": (16, 8), "mlp_dim": 96}, **WORDS),
    "TNT, mean, headless": TNTConfig(
        **{**TINY, "num_classes": 0}, **WORDS, global_pool="avg", qkv_bias=True
    ),
}
PLAIN_NAMES = ("dino", "mae")
"""Layouts whose encoders alone have exactly timm's names, and are read as such."""


def holders_of(config: ModelConfig) -> list[str]:
    """Layouts that hold exactly this model, no row moved."""
    return [
        name
        for name, layout in available_layouts().items()
        if not layout.unsupported_reason(config)
        and adapt_config(config, layout) == config
    ]


class Case(NamedTuple):
    model: str
    first: str
    second: str


def cases() -> Iterator[Case]:
    for model, config in MODELS.items():
        held = holders_of(config)
        for first in held:
            yield from (
                Case(model, first, second) for second in held if second != first
            )


CASES = list(cases())


@cache
def tensors(model: str) -> dict[str, torch.Tensor]:
    made = build_model(MODELS[model])
    randomise(made)
    return {name: tensor.detach() for name, tensor in made.state_dict().items()}


def arguments(config: ModelConfig) -> dict[str, Any]:
    return {"grid": tuple(config.grid), "num_heads": getattr(config, "num_heads", None)}


def place(folder: Path, name: str, at: str) -> Path:
    suffix = {"npz": ".npz", "safetensors": ".safetensors", "folder": ""}
    return folder / (at + suffix[available_layouts()[name].container])


@pytest.mark.parametrize("case", CASES, ids="|".join)
def test_there_and_back(tmp_path, case):
    config = MODELS[case.model]
    model = build_model(config)
    model.load_state_dict(tensors(case.model))
    vt.save(tmp_path / "ours", model, Preprocess(image_size=config.image_hw))
    ways = arguments(config)
    there = tmp_path / "ours"
    stops = []
    for number, name in enumerate((case.first, case.second, case.first)):
        there = convert(there, place(tmp_path, name, f"at{number}"), name, **ways).path
        stops.append(there)
    ways["grid"] = config.grid
    first, last = (read(stop, **ways) for stop in (stops[0], stops[2]))
    assert first.file.names() == last.file.names()
    for name in first.file.names():
        before, after = first.file.read(name), last.file.read(name)
        assert before.dtype == after.dtype, name
        assert torch.equal(before, after), name
    ours = read_tensors(last)
    assert ours.keys() == tensors(case.model).keys()
    assert all(torch.equal(ours[name], t) for name, t in tensors(case.model).items())
    assert last.config.grid == config.grid


def test_the_pairs_are_many():
    """A layout that refuses everything would make the test above an empty one."""
    met = {case.first for case in CASES}
    assert met == set(available_layouts()), set(available_layouts()) - met
    assert len(CASES) > 150


@pytest.mark.parametrize("model", MODELS)
def test_exactly_one_layout_claims_a_file(model):
    config = MODELS[model]
    for name in holders_of(config):
        layout = available_layouts()[name]
        made = layout.pack(to_foreign_tensors(layout, config, tensors(model)))
        held = ModelSpec(
            config=config, preprocess=Preprocess(image_size=config.image_hw)
        )
        about = layout.make_output(held)
        file = MemoryFile({**made, **about.new})
        # Space attention leaves its trace there alone.
        file.metadata = make_metadata(config)
        opened = LayoutInput(
            file=file, config_json=about.sidecar_files.get("config.json", {})
        )
        claims = [
            other for other, it in available_layouts().items() if it.detect(opened)
        ]
        if name in PLAIN_NAMES and claims == ["timm"]:
            assert made.keys() == tensors(model).keys()
            continue
        assert claims == [name] or name == "native", (name, claims)
        assert detect_layout(opened) is layout


def test_an_unknown_layout_names_the_nearest():
    with pytest.raises(ConfigError, match=r"layout `goggle`\. Did you mean goo"):
        get_layout("goggle")


def test_every_family_has_a_model_here():
    kinds = {type(config) for config in MODELS.values()}
    assert kinds == {family.config for family in families().values()}
