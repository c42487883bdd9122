"""The files of DINO, DINOv2 and MAE, as their authors' code has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

import vitral as vt
import vitral.weights
from helpers import assert_near, images, randomise
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import DeiTConfig, ViT, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import open_file
from vitral.weights.layouts.facebook import dino, mae
from vitral.weights.layouts.layout import ModelSpec

SIZES: dict[str, Any] = {
    "img_size": 48,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
    "num_classes": 0,
    "dynamic_img_size": True,
}
OURS: dict[str, Any] = {
    "image_size": 48,
    "num_classes": 0,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 40,
    "act": "gelu",
}


def made(seed: int = 0, **changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, **changes})
    randomise(model, seed)
    return model.double().eval()


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    file = folder / "foreign.safetensors"
    save_file({name: part.contiguous() for name, part in tensors.items()}, file)
    return file


def same_features(model, theirs, image, rtol=1e-10) -> None:
    """Equal tokens after the final norm; timm keeps registers, we do not."""
    with torch.no_grad():
        found, wanted = model.forward_features(image), theirs.forward_features(image)
    assert_near(found.cls, wanted[:, 0], rtol)
    prefix = theirs.num_prefix_tokens
    assert_near(found.patches.flatten(1, 2), wanted[:, prefix:], rtol)


def foreign(layout, model) -> dict[str, torch.Tensor]:
    """`model` as the layout writes it."""
    assert layout.unsupported_reason(model.config) == ""
    ours, tensors = model.state_dict(), {}
    for rule in layout.mappings(model.config):
        tensors |= zip(rule.theirs, rule.to_foreign(ours[rule.ours]), strict=True)
    preprocess = Preprocess(image_size=model.config.image_hw)
    new = layout.make_output(ModelSpec(config=model.config, preprocess=preprocess)).new
    assert not tensors.keys() & new.keys()
    return tensors | dict(new)


def taken_by(file: Path) -> list[str]:
    opened = LayoutInput(file=open_file(file))
    return [
        n
        for n, layout in vitral.weights.available_layouts().items()
        if layout.detect(opened)
    ]


# DINO


def training_checkpoint() -> tuple[VisionTransformer, dict[str, torch.Tensor]]:
    """The teacher, and a file with a student beside it that is another model."""
    teacher, student = made(), made(seed=1)
    tensors = {f"teacher/backbone.{n}": t for n, t in teacher.state_dict().items()}
    tensors |= {
        f"student/module.backbone.{n}": t for n, t in student.state_dict().items()
    }
    for who in ("teacher/head", "student/module.head"):
        tensors[f"{who}.mlp.0.weight"] = torch.randn(5, 24)
        tensors[f"{who}.last_layer.weight_g"] = torch.randn(9, 1)
    tensors["optimizer/state/0/exp_avg"] = torch.randn(3)
    tensors["dino_loss/center"] = torch.randn(1, 9)
    return teacher, tensors


def test_the_teacher_of_a_training_checkpoint_is_read(tmp_path):
    teacher, tensors = training_checkpoint()
    file = saved(tmp_path, tensors)
    assert taken_by(file) == ["dino"]
    model, preprocess, ledger = vt.load(file, num_heads=3)
    same_features(model, teacher, images(2, 48, 48))
    reasons = {
        line.name: line.detail for line in ledger.lines if line.action != "copied"
    }
    head = "the projection head of the pre-training"
    assert reasons["teacher/head.mlp.0.weight"] == head
    assert reasons["student/module.head.last_layer.weight_g"] == head
    student = "the student: the teacher is its average over time"
    assert reasons["student/module.backbone.cls_token"] == student
    assert reasons["dino_loss/center"] == "of the training, not of the model"
    assert reasons["optimizer/state/0/exp_avg"] == "of the training, not of the model"
    assert len(reasons) == len(teacher.state_dict()) + 6
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert (preprocess.resize, preprocess.crop_fraction) == ("crop", 0.875)


def test_a_student_without_a_teacher_is_read_and_said(tmp_path):
    _, tensors = training_checkpoint()
    alone = {n: t for n, t in tensors.items() if n.startswith("student/")}
    model, _, ledger = vt.load(saved(tmp_path, alone), num_heads=3)
    same_features(model, made(seed=1), images(2, 48, 48))
    assert any("which has no teacher" in note for note in ledger.notes)


def test_an_unknown_tensor_of_the_teacher_is_refused(tmp_path):
    _, tensors = training_checkpoint()
    tensors["teacher/backbone.adapter.weight"] = torch.randn(2)
    with pytest.raises(
        WeightsError, match=r"has adapter\.weight that the model has no"
    ):
        vt.load(saved(tmp_path, tensors), num_heads=3)


# DINOv2


def dinov2(swiglu: bool, registers: int, chunked: bool):
    """timm's model, and the file of DINOv2 that gives it."""
    changes: dict[str, Any] = {"init_values": 1e-5, "reg_tokens": registers}
    if swiglu:
        from timm.layers import SwiGLUPacked

        changes |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
        changes["mlp_ratio"] = 80 / 24
    changes["no_embed_class"] = registers > 0
    theirs = made(**changes)
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        new = name.replace("reg_token", "register_tokens")
        if swiglu:
            new = new.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        if chunked and new.startswith("blocks."):
            number = new.split(".")[1]
            new = new.replace(f"blocks.{number}.", f"blocks.{int(number)}.{number}.")
        tensors[new] = tensor
    if registers:
        # timm has added the class token's position to the token itself.
        row = torch.randn(1, 1, 24, dtype=torch.float64)
        tensors["cls_token"] = tensors["cls_token"] - row
        tensors["pos_embed"] = torch.cat([row, tensors["pos_embed"]], dim=1)
    tensors["mask_token"] = torch.randn(1, 24, dtype=torch.float64)
    return theirs, tensors


@pytest.mark.parametrize(
    ("swiglu", "registers", "chunked"),
    [(False, 4, False), (True, 0, False), (True, 2, True), (False, 0, True)],
)
def test_dinov2_backbones_give_timm_features(tmp_path, swiglu, registers, chunked):
    theirs, tensors = dinov2(swiglu, registers, chunked)
    file = saved(tmp_path, tensors)
    assert taken_by(file) == ["dino"]
    model, _, ledger = vt.load(file, num_heads=3)
    assert ledger.layout == "DINOv2"
    same_features(model, theirs, images(2, 48, 48))
    assert ledger.counts() == {"copied": len(tensors) - 1, "dropped": 1}
    if registers:
        # Both low-pass when they resize positions; timm does so in float32.
        same_features(model, theirs, images(2, 64, 112), 1e-5)
    else:
        assert model.config.position_resize == "bicubic"
        assert any("an offset of a tenth" in note for note in ledger.notes)


@pytest.mark.parametrize(("swiglu", "registers"), [(False, 4), (True, 0), (True, 2)])
def test_dinov2_there_and_back_changes_no_bit(tmp_path, swiglu, registers):
    theirs, tensors = dinov2(swiglu, registers, chunked=False)
    model = vt.load(saved(tmp_path, tensors), num_heads=3).model
    back = foreign(dino.LAYOUT, model)
    assert back.keys() == tensors.keys()
    assert not back["mask_token"].any()
    for name in tensors.keys() - {"mask_token"}:
        assert torch.equal(back[name], tensors[name]), name
    theirs.load_state_dict(checkpoint_filter_fn(dict(back), theirs), strict=True)
    same_features(model, theirs, images(2, 48, 48))
    again = vt.load(saved(tmp_path, back), num_heads=3).model
    assert again.config == model.config


def test_a_plain_backbone_is_written_in_names_that_timm_reads(tmp_path):
    model = ViT(ViTConfig(**OURS, init_values=0.1)).double()
    randomise(model)
    file = saved(tmp_path, foreign(dino.LAYOUT, model))
    assert taken_by(file) == ["timm"]
    again = vt.load(file, num_heads=3).model.state_dict()
    assert again.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_classes": 7}, "backbones have no head"),
        ({"position": "none"}, "its positions are learned"),
        ({"position_at": "every_layer"}, "added at the stem"),
        ({"class_token": False, "global_pool": "avg"}, "have a class token"),
        ({"no_embed_class": True}, "with a position of its own"),
        ({"reg_tokens": 2}, "registers have no positions"),
        ({"global_pool": "avg"}, "features are those of the class token"),
        ({"representation_size": 20}, "no tanh layer"),
        ({"qk_norm": True}, "does not normalise queries"),
        ({"head_dim": 32}, "heads together are as wide"),
        ({"patch_norm": True}, "patches have no norms"),
        ({"norm_after_pool": True}, "comes before pooling"),
        ({"image_size": (48, 80)}, "those of square grids"),
    ],
    ids=str,
)
def test_dinov2_refusals_say_why(changes, reason):
    assert reason in dino.LAYOUT.unsupported_reason(ViTConfig(**{**OURS, **changes}))


def test_a_backbone_of_the_first_dino_gets_no_mask_token():
    model = ViT(ViTConfig(**OURS))
    tensors = foreign(dino.LAYOUT, model)
    assert tensors.keys() == made().state_dict().keys()


def test_dinov2_notes_say_what_differs():
    config = ViTConfig(**OURS, reg_tokens=2, no_embed_reg=True, init_values=0.1)
    held = ModelSpec(config=config, preprocess=Preprocess(image_size=(48, 48)))
    text = "\n".join(dino.LAYOUT.make_output(held).notes)
    assert "the mask token is zeros" in text
    assert "bicubic interpolation with a low-pass, this model by the official" in text
    assert "GELU" not in text
    assert "ImageNet's mean and deviation, which are not those of this model" in text


# MAE


def mae_file() -> tuple[VisionTransformer, dict[str, torch.Tensor]]:
    theirs = made()
    tensors = dict(theirs.state_dict())
    decoder = {
        "mask_token": (1, 1, 8),
        "decoder_embed.weight": (8, 24),
        "decoder_embed.bias": (8,),
        "decoder_pos_embed": (1, 10, 8),
        "decoder_blocks.0.norm1.weight": (8,),
        "decoder_norm.weight": (8,),
        "decoder_pred.weight": (768, 8),
    }
    tensors |= {name: torch.randn(shape) for name, shape in decoder.items()}
    return theirs, tensors


@pytest.mark.parametrize("wrapper", ["", "model/"])
def test_the_encoder_of_mae_is_read_without_its_decoder(tmp_path, wrapper):
    theirs, tensors = mae_file()
    file = saved(tmp_path, {f"{wrapper}{name}": part for name, part in tensors.items()})
    model, preprocess, ledger = vt.load(file, num_heads=3)
    assert ledger.layout == "MAE"
    same_features(model, theirs, images(2, 48, 48))
    dropped = {
        line.name: line.detail for line in ledger.lines if line.action == "dropped"
    }
    assert len(dropped) == 7
    drawing = "the decoder, which draws the hidden patches"
    assert dropped["decoder_embed.weight"] == drawing
    assert "stands for a hidden patch" in dropped["mask_token"]
    assert model.config.global_pool == "token"
    assert model.config.position_resize == "bicubic"
    assert any("the authors' linear probe" in note for note in ledger.notes)
    assert preprocess.mean == (0.485, 0.456, 0.406)


def test_mae_files_are_taken_by_one_layout_and_come_back(tmp_path):
    theirs, tensors = mae_file()
    file = saved(tmp_path, tensors)
    assert taken_by(file) == ["mae"]
    model = vt.load(file, num_heads=3).model
    back = foreign(mae.LAYOUT, model)
    assert back.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back[name], tensor), name
    theirs.load_state_dict(back, strict=True)
    assert taken_by(saved(tmp_path, back)) == ["timm"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_classes": 7}, "its pre-training files have no head"),
        ({"position": "sincos_2d"}, "its positions are one row a patch"),
        ({"position_at": "every_layer"}, "added at the stem"),
        ({"class_token": False, "global_pool": "avg"}, "have a class token"),
        ({"no_embed_class": True}, "with a position of its own"),
        ({"reg_tokens": 2}, "no registers"),
        ({"global_pool": "avg"}, "features are those of the class token"),
        ({"mlp": "swiglu"}, "perceptrons are plain"),
        ({"qkv_bias": False}, "biases everywhere"),
        ({"proj_bias": False}, "biases everywhere"),
        ({"qk_norm": True}, "does not normalise queries"),
        ({"init_values": 0.1}, "no LayerScale"),
        ({"representation_size": 20}, "no tanh layer"),
        ({"head_dim": 32}, "heads together are as wide"),
        ({"patch_norm": True}, "patches have no norms"),
        ({"norm_after_pool": True}, "final norm before pooling"),
        ({"patch_size": (16, 8)}, "its patches are square"),
        ({"image_size": (48, 80)}, "its grids are square"),
        ({"in_chans": 1}, "three channels"),
    ],
    ids=str,
)
def test_mae_refusals_say_why(changes, reason):
    assert reason in mae.LAYOUT.unsupported_reason(ViTConfig(**{**OURS, **changes}))


def test_mae_notes_say_what_is_missing():
    config = ViTConfig(**{**OURS, "act": "gelu_tanh"}, position_resize="bicubic")
    held = ModelSpec(config=config, preprocess=Preprocess(image_size=(48, 48)))
    text = "\n".join(mae.LAYOUT.make_output(held).notes)
    assert "the authors' code computes the exact GELU, this model the tanh" in text
    assert "resizes positions" not in text
    assert "drawing hidden patches, and pre-training on, need the decoder" in text
    assert "ImageNet's mean and deviation, which are not those of this model" in text


@pytest.mark.parametrize("layout", [dino.LAYOUT, mae.LAYOUT])
def test_another_family_is_refused(layout):
    assert "no such family" in layout.unsupported_reason(DeiTConfig())
