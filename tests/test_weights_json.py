"""JSON files beside foreign weights: each field is understood, or refused by its name.

Every key of the files is given a set of wrong values. The weights load as the same
function, or one sentence names the field.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models import VisionTransformer
from timm.models._hub import save_for_hf

import vitral as vt
from helpers import assert_near, images, randomise
from vitral.errors import WeightsError

SIZES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
}
WRONG: tuple[Any, ...] = (
    None,
    7,
    -1,
    0.3,
    "much",
    True,
    [],
    [1, 2],
    ["a", None, "c"],
    {},
    {"height": "x"},
)
UNDERSTOOD = [("layer_norm_eps", 7), ("layer_norm_eps", 0.3)]
"""Values that are right for another function: the file's word counts."""


def timm_folder(folder: Path, **arguments: Any) -> VisionTransformer:
    """Write a folder as timm's `save_for_hf` does; return timm's model."""
    arguments = {**SIZES, **arguments}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    randomise(model)
    model = model.double().eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, at(folder))
    height, width = model.patch_embed.img_size
    content = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "num_features": 24,
        "global_pool": model.global_pool,
        "label_names": ["cat", "dog", "cow"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, height, width],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 3,
        },
    }
    (folder / "config.json").write_text(json.dumps(content))
    return model


def at(folder: Path) -> Path:
    return folder / "model.safetensors"


def edit(file: Path, keys: tuple[str, ...], value: Any) -> None:
    content = inner = json.loads(file.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(content))


def paths(content: dict[str, Any], *before: str):
    for key, value in content.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, *before, key)


def mutate_each_field(folder: Path, name: str, theirs: torch.nn.Module) -> int:
    """Load under every wrong value of every field; return how many were refused."""
    file, refused = folder / name, list[str]()
    whole, image = file.read_text(), images(1, 32, 32)
    with torch.no_grad():
        wanted = theirs(image)
    wanted = getattr(wanted, "logits", wanted)
    for keys in paths(json.loads(whole)):
        for value in WRONG:
            edit(file, keys, value)
            try:
                loaded = vt.load(folder)
            except WeightsError as error:
                refused.append(str(error))
            else:
                with torch.no_grad():
                    found = loaded.model.double()(image)
                assert found.shape == wanted.shape, (keys, value)
                near = (found - wanted).abs().max() < 1e-6
                assert near or (keys[-1], value) in UNDERSTOOD, (keys, value)
            file.write_text(whole)
    assert all(str(folder) in message for message in refused)
    return len(refused)


def test_every_field_of_timms_file_is_checked(tmp_path):
    model = timm_folder(tmp_path, global_pool="token", qkv_bias=True, reg_tokens=0)
    assert mutate_each_field(tmp_path, "config.json", model) > 130


def hugging_face(folder: Path) -> torch.nn.Module:
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=32,
        patch_size=16,
        num_labels=3,
        id2label={0: "cat", 1: "dog", 2: "cow"},
    )
    model = transformers.ViTForImageClassification(config)
    randomise(model)
    model.double().eval().save_pretrained(folder)
    processor = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "do_center_crop": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 36, "width": 36},
        "crop_size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_every_field_of_hugging_faces_files_is_checked(tmp_path, name):
    model = hugging_face(tmp_path)
    assert mutate_each_field(tmp_path, name, model) > 60


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("act_layer", "relu"),
        ("act_layer", "silu"),
        ("act_layer", "hard_swish"),
        ("global_pool", "max"),
        ("global_pool", "avgmax"),
        ("norm_layer", "rmsnorm"),
        ("attn_layer", "diff"),
        ("block_fn", "ResPostBlock"),
        ("pre_norm", True),
        ("not_yet_known", 3),
    ],
)
def test_arguments_of_another_function_are_refused(tmp_path, argument, value):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", ("model_args", argument), value)
    with pytest.raises(WeightsError, match=rf"config\.json: `model_args\.{argument}` "):
        vt.load(tmp_path)


def test_a_pool_over_registers_is_refused(tmp_path):
    changes = {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2}
    timm_folder(tmp_path, **changes, pool_include_prefix=True)
    with pytest.raises(WeightsError, match=r"pool_include_prefix` is True, expected f"):
        vt.load(tmp_path)


def test_the_top_of_the_file_names_a_pool_too(tmp_path):
    timm_folder(tmp_path)
    edit(tmp_path / "config.json", ("global_pool",), "prr")
    with pytest.raises(WeightsError, match=r"`global_pool` is 'prr', expected token"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"act_layer": "gelu_tanh"},
        {"global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg"},
        {"global_pool": "avg", "pool_include_prefix": True},
        {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True},
        {"global_pool": "map", "class_token": False},
        {"global_pool": "avg", "class_token": False, "pool_include_prefix": True},
        {"num_heads": 2},
        {"norm_layer": "layernorm"},
        {"img_size": [48, 96]},
        # As many patches as a square with the class row, less one: 12 x 14.
        {"img_size": [24, 28], "patch_size": 2},
        {"img_size": [24, 28], "patch_size": 2, "no_embed_class": True},
        {"img_size": [16, 256], "no_embed_class": True, "reg_tokens": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["img_size", "input_size"])
def test_what_the_model_can_be_is_read(tmp_path, changes, where):
    theirs = timm_folder(tmp_path, **changes)
    if where == "input_size":
        # Older files have no arguments that pretrained_cfg implies.
        content = json.loads((tmp_path / "config.json").read_text())
        del content["model_args"]["img_size"]
        (tmp_path / "config.json").write_text(json.dumps(content))
    model, preprocess, _ = vt.load(tmp_path)
    image = images(2, *theirs.patch_embed.img_size)
    assert preprocess.image_size == theirs.patch_embed.img_size
    with torch.no_grad():
        assert_near(model.double()(image), theirs(image), 1e-10)


def test_labels_by_number_are_names(tmp_path):
    timm_folder(tmp_path)
    names = {"0": "cat", "2": "cow"}
    edit(tmp_path / "config.json", ("label_names",), names)
    assert vt.weights.read(tmp_path).classes == ("cat", "class 1", "cow")
    edit(tmp_path / "config.json", ("label_names",), ["cat", "dog"])
    source = vt.weights.read(tmp_path)
    assert source.classes == ()
    assert any("2 `label_names` left out" in note for note in source.notes)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_r_s16_p8_224", {"embed_dim": 24, "num_heads": 3, "img_size": 64}),
        ("vit_small_r26_s32_224", {"embed_dim": 24, "num_heads": 3, "img_size": 64}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
        ("vit_base_patch16_siglip_gap_224", {"embed_dim": 24, "num_heads": 3}),
        ("resnetv2_50x1_bit", {"stem_chs": 32, "channels": [128, 256]}),
        ("tnt_s_patch16_224", {}),
    ],
)
def test_folders_that_timm_writes_load(tmp_path, name, changes):
    changes |= {} if name.startswith(("res", "deit")) else {"depth": 1}
    theirs = timm.create_model(name, num_classes=3, **changes)
    randomise(theirs)
    theirs = theirs.double().eval()
    # Arguments that every architecture has are written too.
    arguments = {**changes, "in_chans": 3}
    save_for_hf(theirs, tmp_path, model_args=arguments)
    height, width = vt.load(tmp_path).preprocess.image_size
    image = images(2, height, width)
    with torch.no_grad():
        assert_near(vt.load(tmp_path).model(image), theirs(image), 1e-8)
    edit(tmp_path / "config.json", ("model_args", "in_chans"), 5)
    with pytest.raises(WeightsError, match=r"model_args\.in_chans` is 5, but the"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_patch16_224", {"embed_dim": 96}),
        ("vit_so400m_patch14_siglip_224", {"embed_dim": 128}),
        ("vit_giant_patch14_dinov2", {"embed_dim": 192}),
        ("deit_small_patch16_224", {"embed_dim": 96}),
        ("vit_wee_patch16_reg1_gap_256", {"embed_dim": 128}),
    ],
)
def test_heads_are_those_of_the_architecture_with_another_width(
    tmp_path, name, changes
):
    changes |= {"depth": 1, "img_size": 32, "patch_size": 16}
    theirs = timm.create_model(name, num_classes=3, **changes)
    randomise(theirs)
    theirs = theirs.double().eval()
    save_for_hf(theirs, tmp_path, model_args=changes)
    image = images(2, 32, 32)
    with torch.no_grad():
        assert_near(vt.load(tmp_path).model(image), theirs(image), 1e-10)
