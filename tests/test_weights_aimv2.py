"""AIMv2: RMSNorm, no biases; timm's and transformers' names."""

import json
import math

import onnxruntime
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.aimv2 import modeling_aimv2

import vitral as vt
from test_weights_clip import gap, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export.to_onnx import to_onnx
from vitral.models import ViT, ViTConfig
from vitral.weights.numerics import CLIP_MEAN

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 16,
}
TIMM = {
    "img_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "patch_size": 16,
    "dynamic_img_size": True,
}
VIT = {
    "image_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 96,
    "mlp": "swiglu",
    "norm": "rms",
    "norm_eps": 1e-5,
    "num_classes": 5,
    "class_token": False,
    "global_pool": "avg",
    "qkv_bias": False,
    "proj_bias": False,
}


def timm_folder(folder, classes=5, **changes):
    arguments = {**TIMM, **changes}
    name = "aimv2_large_patch14_224"
    theirs = randomise(timm.create_model(name, num_classes=classes, **arguments))
    timm.models._hub.save_config_for_hf(
        theirs, folder / "config.json", {}, model_args=arguments
    )
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs


@pytest.mark.parametrize("classes", [5, 0])
def test_timms_model_both_ways(classes, tmp_path):
    theirs = timm_folder(tmp_path, classes)
    model, preprocess, _ = vt.load(tmp_path, dtype=torch.float64)
    assert preprocess.mean == CLIP_MEAN
    with torch.no_grad():
        for size, tolerance in (((64, 64), 1e-10), ((96, 96), 1e-6), ((48, 80), 1e-6)):
            assert gap(model(images(*size)), theirs(images(*size))) < tolerance
    vt.convert(tmp_path, tmp_path / "native", "native")
    file = tmp_path / "timm.safetensors"
    vt.convert(tmp_path / "native", file, "timm_aimv2")
    before, after = theirs.state_dict(), load_file(file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert vt.load(file).model.config == model.config


class Wide(nn.Module):
    """transformers' RMSNorm without its cast to float32."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def widen(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, modeling_aimv2.Aimv2RMSNorm):
                setattr(module, name, Wide(child))
    return model


def test_transformers_model_both_ways(tmp_path):
    config = transformers.Aimv2VisionConfig(**SIZES, use_head=False)
    theirs = randomise(transformers.Aimv2VisionModel(config))
    theirs.save_pretrained(tmp_path / "theirs")
    model, preprocess, _ = vt.load(tmp_path / "theirs", dtype=torch.float64)
    assert preprocess.mean == CLIP_MEAN
    vt.convert(tmp_path / "theirs", tmp_path / "native", "native")
    made = vt.convert(tmp_path / "native", tmp_path / "out", "huggingface_aimv2")
    assert "images of one size only" in made.ledger.summary()
    again = transformers.Aimv2VisionModel.from_pretrained(made.path).double().eval()
    with torch.no_grad():
        found = model.forward_features(images(64, 64)).patches.flatten(1, 2)
        wanted = theirs(images(64, 64)).last_hidden_state
        assert gap(found, wanted) < 1e-5
        wanted = widen(theirs)(images(64, 64)).last_hidden_state
        assert gap(found, wanted) < 1e-10
        assert gap(widen(again)(images(64, 64)).last_hidden_state, wanted) < 1e-10
        assert gap(model(images(64, 64)), wanted.mean(1)) < 1e-10


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_head": True}, "has a pooling head"),
        ({"use_head": False, "is_native": True}, "positions for images of any size"),
        ({"use_head": False, "qkv_bias": True}, "`qkv_bias` is True, expected false"),
        ({"use_head": False, "mlp_bias": True}, "mlp_bias"),
        ({"use_head": False, "hidden_act": "gelu"}, "`hidden_act` is 'gelu'"),
    ],
)
def test_transformers_models_of_another_function_are_refused(changes, match, tmp_path):
    config = transformers.Aimv2VisionConfig(**SIZES, **changes)
    transformers.Aimv2VisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=match):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("global_pool", "token"), ("num_heads", 5), ("qk_norm", True), ("depth", 3)],
)
def test_timms_arguments_of_another_model_are_refused(field, value, tmp_path):
    timm_folder(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    fields["model_args"][field] = value
    file.write_text(json.dumps(fields))
    with pytest.raises((WeightsError, ConfigError), match=field):
        vt.load(tmp_path)


@pytest.mark.parametrize("name", ["aimv2_large_patch14_224", "aimv2_3b_patch14_448"])
def test_names_are_those_models(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0)
        ours = vt.create(f"{name}.apple_pt", num_classes=0)
    assert sum(math.prod(it.shape) for it in ours.parameters()) == sum(
        math.prod(it.shape) for it in theirs.parameters()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp": "plain"},
        {"patch_norm": True},
        {"global_pool": "map"},
        {"mlp_norm": True},
        {"qk_norm": True},
    ],
)
def test_settings_that_no_model_has_are_refused(changes):
    with pytest.raises(ConfigError, match="`norm=rms` is of AIMv2"):
        ViTConfig(**{**VIT, **changes})


@pytest.mark.parametrize("name", ["r_ti16", "vitc_ti16", "tnt_s16", "timesformer_ti16"])
def test_other_families_refuse_what_they_do_not_compute(name):
    known = [it for it in vt.models.names() if it.split("_")[0] == name.split("_")[0]]
    changes = {"norm": "rms", "mlp": "swiglu"}
    with pytest.raises(ConfigError, match="norm=rms"):
        vt.create(known[0], **changes)


def test_weights_gradients_and_the_onnx_file(tmp_path):
    model = ViT(ViTConfig(**{**VIT, "position_resize": "bicubic_antialias"})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    pixels = images(64, 64).float()
    block, x = model.blocks[0], model.embed(pixels)
    normed = x.x * torch.rsqrt(x.x.square().mean(-1, keepdim=True) + 1e-5)
    assert gap(block.norm1(x.x).detach(), (normed * block.norm1.weight).detach()) < 1e-5
    model(pixels).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    for size in ((64, 64), (48, 80)):
        pixels = images(*size).float()
        found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
        with torch.no_grad():
            assert gap(torch.from_numpy(found), model(pixels)) < 1e-4
    vt.save(tmp_path / "native", model, Preprocess(image_size=(64, 64)))
    again = vt.load(tmp_path / "native").model
    assert again.config == model.config
