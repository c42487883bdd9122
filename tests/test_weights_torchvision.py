"""torchvision's layout: equal logits, equal tensors, there and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import VisionTransformer

import vitral as vt
import vitral.weights
from helpers import assert_near, images, randomise
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import DeiTConfig, ViT, ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import open_file
from vitral.weights.layouts import torchvision
from vitral.weights.layouts.layout import ModelSpec

SIZES: dict[str, Any] = {
    "image_size": 48,
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 24,
    "mlp_dim": 40,
    "num_classes": 7,
}


def made(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, **changes})
    randomise(model)
    return model.double().eval()


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    file = folder / "vit.safetensors"
    save_file(tensors, file)
    return file


def foreign(model: ViT) -> dict[str, torch.Tensor]:
    ours, tensors = model.state_dict(), {}
    for rule in torchvision.mappings(model.config):
        tensors |= zip(rule.theirs, rule.to_foreign(ours[rule.ours]), strict=True)
    return tensors


@pytest.mark.parametrize(
    "changes", [{}, {"representation_size": 20}, {"image_size": 64}], ids=str
)
def test_there_and_back_with_equal_logits(tmp_path, changes):
    theirs = made(**changes)
    file = saved(tmp_path, theirs.state_dict())
    model, preprocess, ledger = vt.load(file, num_heads=3)
    assert ledger.layout == "torchvision"
    assert ledger.counts() == {"copied": len(theirs.state_dict())}
    side = changes.get("image_size", 48)
    assert preprocess.image_size == (side, side)
    image = images(2, side, side)
    with torch.no_grad():
        assert_near(model(image), theirs(image), 1e-10)
        assert_near(model.float()(image.float()), theirs(image).float(), 1e-5)
    back = foreign(vt.load(file, num_heads=3).model)
    assert back.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back[name], tensor), name
    again = VisionTransformer(**{**SIZES, **changes}).double().eval()
    again.load_state_dict(back, strict=True)
    with torch.no_grad():
        assert torch.equal(again(image), theirs(image))


def test_other_sizes_than_torchvision_takes_are_resized(tmp_path):
    model = vt.load(saved(tmp_path, made().state_dict()), num_heads=3).model
    assert model(images(2, 64, 112)).shape == (2, 7)
    assert model.config.position_resize == "bicubic"


def test_names_of_older_versions(tmp_path):
    theirs = made()
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): part
        for name, part in theirs.state_dict().items()
    }
    assert old.keys() != theirs.state_dict().keys()
    model, _, ledger = vt.load(saved(tmp_path, old), num_heads=3)
    with torch.no_grad():
        assert_near(model(images(2, 48, 48)), theirs(images(2, 48, 48)), 1e-10)
    place = "encoder.layers.encoder_layer_1.mlp.linear_1.weight"
    assert f"blocks.1.mlp.fc1.weight  from {place}" in str(ledger)


def test_our_model_loads_strictly(tmp_path):
    config = ViTConfig(
        image_size=48,
        num_classes=7,
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_dim=40,
        act="gelu",
    )
    model = ViT(config)
    randomise(model)
    assert torchvision.LAYOUT.unsupported_reason(config) == ""
    theirs = VisionTransformer(**SIZES)
    theirs.load_state_dict(foreign(model), strict=True)
    image = images(2, 48, 48).float()
    with torch.no_grad():
        assert_near(theirs.eval()(image), model.eval()(image), 1e-5)


@pytest.mark.parametrize(
    ("side", "patch", "width", "fraction", "interpolation"),
    [
        (224, 16, 768, 224 / 256, "bilinear"),
        (224, 32, 1024, 224 / 256, "bilinear"),
        (224, 16, 1024, 224 / 242, "bilinear"),
        (384, 16, 768, 1.0, "bicubic"),
        (224, 14, 1280, 1.0, "bicubic"),
    ],
)
def test_images_of_the_published_weights(side, patch, width, fraction, interpolation):
    """torchvision's own transforms: 256 (or 242) bilinear, or SWAG's bicubic."""
    config = ViTConfig(
        image_size=side, patch_size=patch, embed_dim=width, num_heads=width // 64
    )
    notes: list[str] = []
    assert torchvision.default_preprocess(config, notes) == Preprocess(
        image_size=(side, side),
        resize="crop",
        crop_fraction=fraction,
        interpolation=interpolation,
        antialias=True,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    assert ("IMAGENET1K_V1" in notes[0]) == (interpolation == "bilinear")


def test_only_its_own_files_are_taken(tmp_path):
    file = saved(tmp_path, made().state_dict())
    taken = [
        name
        for name, layout in vitral.weights.available_layouts().items()
        if layout.detect(LayoutInput(file=open_file(file)))
    ]
    assert taken == ["torchvision"]


def test_a_missing_tensor_is_named(tmp_path):
    tensors = load_file(saved(tmp_path, made().state_dict()))
    tensors["encoder.norm.weight"] = tensors.pop("encoder.ln.weight")
    with pytest.raises(WeightsError, match=r"lacks encoder\.ln\.weight and has"):
        vt.load(saved(tmp_path, tensors), num_heads=3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"position": "sincos_2d"}, "its positions are learned"),
        ({"position_at": "every_layer"}, "added at the stem"),
        ({"class_token": False, "global_pool": "avg"}, "have a class token"),
        ({"no_embed_class": True}, "with a position of its own"),
        ({"global_pool": "avg"}, "looks at the class token"),
        ({"reg_tokens": 2}, "no registers"),
        ({"mlp": "swiglu"}, "perceptrons are plain"),
        ({"qkv_bias": False}, "biases everywhere"),
        ({"proj_bias": False}, "biases everywhere"),
        ({"qk_norm": True}, "does not normalise queries"),
        ({"init_values": 0.1}, "no LayerScale"),
        ({"head_dim": 32}, "heads together are as wide"),
        ({"patch_norm": True}, "patches have no norms"),
        ({"norm_after_pool": True}, "comes before pooling"),
        ({"patch_size": (16, 8)}, "its patches are square"),
        ({"image_size": (48, 80)}, "its images are square"),
        ({"in_chans": 1}, "three channels"),
        ({"representation_size": 20, "num_classes": 0}, "before a head only"),
    ],
    ids=str,
)
def test_refusals_say_why(changes, reason):
    config = ViTConfig(**{"act": "gelu", **changes})
    assert reason in torchvision.LAYOUT.unsupported_reason(config)


def test_another_family_is_refused():
    assert "no such family" in torchvision.LAYOUT.unsupported_reason(DeiTConfig())


def test_what_the_file_cannot_say_is_noted():
    preprocess = Preprocess(image_size=(48, 48), mean=(0.1, 0.2, 0.3))
    config = ViTConfig(image_size=48, num_classes=0, norm_eps=1e-12)
    held = ModelSpec(config=config, preprocess=preprocess, classes=("cat",))
    text = "\n".join(torchvision.LAYOUT.make_output(held).notes)
    assert "images of 48 x 48 pixels only" in text
    assert "squashed with bilinear interpolation, then normalised by mean 0.1" in text
    assert "no names of classes" in text
    assert "torchvision computes the exact GELU, this model the tanh form" in text
    assert "an epsilon of 1e-06 in its LayerNorms, this model 1e-12: logits" in text
    assert "has no head" in text
