"""Image towers of CLIP: OpenCLIP's, timm's and transformers' names, and both ways."""

import json
import re

import onnxruntime
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn

import vitral as vt
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export.to_onnx import to_onnx
from vitral.models import ViT, ViTConfig
from vitral.weights.layouts.activations import QUICK_GELU
from vitral.weights.numerics import CLIP_MEAN, CLIP_STD

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 16,
    "projection_dim": 20,
}
TIMM = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
TOLERANCES = {(64, 64): 1e-10, (48, 96): 1e-6}
"""By size; timm resizes positions in float32."""
QUICK = "vit_base_patch16_clip_quickgelu_224"
EXACT = "vit_base_patch16_clip_224"


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 + (parameter.ndim == 1))
    return model.double().eval()


def images(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def tower(act: str = "quick_gelu") -> torch.nn.Module:
    config = transformers.CLIPVisionConfig(**SIZES, hidden_act=act)
    return randomise(transformers.CLIPVisionModelWithProjection(config))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_transformers_tower_with_its_projection(act, tmp_path):
    theirs = tower(act)
    theirs.save_pretrained(tmp_path)
    model, preprocess, _ = vt.load(tmp_path, dtype=torch.float64)
    assert model.config.act == act
    assert preprocess.mean == CLIP_MEAN
    for size, whole in (((64, 64), False), ((48, 96), True)):
        pixels = images(*size)
        with torch.no_grad():
            wanted = theirs(pixels, interpolate_pos_encoding=whole)
            assert gap(model(pixels), wanted.image_embeds) < 1e-10
            tokens = model.forward_blocks(model.embed(pixels)).x
            assert gap(tokens, wanted.last_hidden_state) < 1e-10


def test_both_towers_give_the_image_tower(tmp_path):
    text = {"hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 50}
    config = transformers.CLIPConfig(text_config=text, vision_config=SIZES)
    theirs = randomise(transformers.CLIPModel(config))
    theirs.save_pretrained(tmp_path)
    model, _, ledger = vt.load(tmp_path, dtype=torch.float64)
    assert any("the text tower is left out" in note for note in ledger.notes)
    pixels = images(64, 64)
    with torch.no_grad():
        wanted = theirs.get_image_features(pixels)
        wanted = getattr(wanted, "pooler_output", wanted)
        assert gap(model(pixels), wanted) < 1e-10


@pytest.mark.parametrize(("name", "act"), [(QUICK, "quick_gelu"), (EXACT, "gelu")])
def test_timms_tower(name, act, tmp_path):
    theirs = randomise(
        timm.create_model(name, num_classes=5, dynamic_img_size=True, **TIMM)
    )
    timm.models._hub.save_config_for_hf(
        theirs, tmp_path / "config.json", {}, model_args=TIMM
    )
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    model, preprocess, _ = vt.load(tmp_path, dtype=torch.float64)
    assert model.config.act == act
    assert preprocess.std == CLIP_STD
    for size, tolerance in TOLERANCES.items():
        pixels = images(*size)
        with torch.no_grad():
            assert gap(model(pixels), theirs(pixels)) < tolerance
            found = model.forward_features(pixels).patches.flatten(1, 2)
            assert gap(found, theirs.forward_features(pixels)[:, 1:]) < tolerance
    vt.convert(tmp_path, tmp_path / "native", "native")
    vt.convert(tmp_path / "native", tmp_path / "back", "timm")
    again = timm.create_model(
        json.loads((tmp_path / "back" / "config.json").read_text())["architecture"],
        num_classes=5,
        **json.loads((tmp_path / "back" / "config.json").read_text())["model_args"],
    )
    again.load_state_dict(load_file(tmp_path / "back" / "model.safetensors"))
    with torch.no_grad():
        assert gap(again.double().eval()(images(64, 64)), theirs(images(64, 64))) < 1e-6


def open_clip_tensors(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors in OpenCLIP's names: those from which timm makes its own."""
    swaps = {
        "patch_embed.proj": "conv1",
        "pos_embed": "positional_embedding",
        "cls_token": "class_embedding",
        "blocks.": "transformer.resblocks.",
        "norm_pre": "ln_pre",
        r"^norm\b": "ln_post",
        "norm([12])": r"ln_\1",
        r"qkv\.": "in_proj_",
        r"attn\.proj": "attn.out_proj",
        "fc1": "c_fc",
        "fc2": "c_proj",
        r"head\.weight": "proj",
    }
    out = {}
    for name, tensor in theirs.state_dict().items():
        for ours, open_clip in swaps.items():
            name = re.sub(ours, open_clip, name)
        if name == "class_embedding":
            tensor = tensor[0, 0]
        elif name == "positional_embedding":
            tensor = tensor[0]
        elif name == "proj":
            tensor = tensor.T
        if name != "head.bias":
            out[f"visual.{name}"] = tensor.contiguous()
    texts = {"positional_embedding": torch.zeros(77, 8), "logit_scale": torch.ones([])}
    texts["transformer.resblocks.0.ln_1.weight"] = torch.ones(8)
    texts["token_embedding.weight"] = torch.ones(9, 8)
    return out | texts


SOURCES = {
    "settings": ("open_clip_config.json", {"model_cfg": {"quick_gelu": True}}),
    "settings-exact": ("open_clip_config.json", {"model_cfg": {"embed_dim": 5}}),
    "tag": (
        "config.json",
        {"architecture": EXACT, "pretrained_cfg": {"tag": "openai"}},
    ),
    "tag-exact": (
        "config.json",
        {"architecture": EXACT, "pretrained_cfg": {"tag": "laion2b"}},
    ),
}


@pytest.mark.parametrize("said", SOURCES)
def test_open_clip_holds_both_towers(said, tmp_path):
    """`open_clip_model.safetensors` of timm's hub repositories, by who says what."""
    name = EXACT if "exact" in said else QUICK
    theirs = timm.create_model(name, num_classes=5, dynamic_img_size=True, **TIMM)
    theirs = randomise(theirs)
    torch.nn.init.zeros_(theirs.head.bias)
    tensors = open_clip_tensors(theirs)
    converted = checkpoint_filter_fn(dict(tensors), theirs)
    assert converted.keys() == theirs.state_dict().keys()
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    file, content = SOURCES[said]
    (tmp_path / file).write_text(json.dumps(content))
    model, preprocess, ledger = vt.load(tmp_path, num_heads=3, dtype=torch.float64)
    assert preprocess.mean == CLIP_MEAN
    assert any("the text tower is left out" in note for note in ledger.notes)
    for size, tolerance in TOLERANCES.items():
        with torch.no_grad():
            assert gap(model(images(*size)), theirs(images(*size))) < tolerance


def test_an_activation_that_nobody_says_is_noted(tmp_path):
    theirs = randomise(timm.create_model(QUICK, num_classes=5, **TIMM))
    save_file(open_clip_tensors(theirs), tmp_path / "tower.safetensors")
    file = tmp_path / "tower.safetensors"
    model, _, ledger = vt.load(file, num_heads=3)
    assert model.config.act == "gelu"
    assert any("(`act=quick_gelu`)" in note for note in ledger.notes)
    model, *_ = vt.load(file, num_heads=3, settings={"act": "quick_gelu"})
    assert model.config.act == "quick_gelu"


def test_tags_with_quick_gelu_are_those_of_timm():
    names = timm.list_models("vit_*_clip_*", pretrained=True)
    quick = {it.replace("_quickgelu", "") for it in names if "quickgelu" in it}
    assert len(quick) >= 15
    found = {it for it in names if QUICK_GELU.fullmatch(it)}
    assert found == quick & set(names)


@pytest.mark.parametrize("layout", ["huggingface_clip", "openclip", "timm"])
def test_a_tower_without_projection_goes_both_ways(layout, tmp_path):
    config = ViTConfig(
        image_size=64,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_dim=80,
        num_classes=0,
        norm_pre=True,
        norm_eps=1e-5,
        act="quick_gelu",
    )
    ours = randomise(ViT(config)).float()
    crop = Preprocess(image_size=(64, 64), mean=CLIP_MEAN, std=CLIP_STD)
    vt.save(tmp_path / "native", ours, crop)
    end = "" if layout == "huggingface_clip" else ".safetensors"
    out = vt.convert(tmp_path / "native", tmp_path / f"there{end}", layout).path
    model, preprocess, _ = vt.load(
        out, num_heads=3, dtype=torch.float64, settings={"act": "quick_gelu"}
    )
    with torch.no_grad():
        assert gap(model(images(64, 64)), ours.double()(images(64, 64))) < 1e-12
    assert preprocess.mean == CLIP_MEAN
    if layout == "huggingface_clip":
        theirs = transformers.CLIPVisionModel.from_pretrained(out).double().eval()
        with torch.no_grad():
            wanted = theirs(images(64, 64)).pooler_output
            assert gap(model(images(64, 64)), wanted) < 1e-10


@pytest.mark.parametrize(
    ("layout", "end"),
    [
        ("huggingface", ""),
        ("torchvision", ".safetensors"),
        ("google", ".npz"),
        ("dino", ".safetensors"),
        ("mae", ".safetensors"),
    ],
)
def test_other_layouts_have_no_norm_before_the_blocks(layout, end, tmp_path):
    config = ViTConfig(
        image_size=32, embed_dim=24, depth=1, num_heads=3, num_classes=0, norm_pre=True
    )
    vt.save(tmp_path / "native", ViT(config), Preprocess(image_size=(32, 32)))
    with pytest.raises(ConfigError, match="no norm before the first block"):
        vt.convert(tmp_path / "native", tmp_path / f"out{end}", layout)


def test_a_classifier_on_unnormed_patches_is_refused(tmp_path):
    config = transformers.CLIPConfig(vision_config=SIZES)
    transformers.CLIPForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="CLIPForImageClassification"):
        vt.load(tmp_path)


def test_fields_that_disagree_are_refused(tmp_path):
    tower().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    for field, value, match in (
        ("hidden_act", "relu", "`hidden_act` is 'relu'"),
        ("num_hidden_layers", 7, "`num_hidden_layers` is 7"),
    ):
        file.write_text(json.dumps({**content, field: value}))
        with pytest.raises(WeightsError, match=match):
            vt.load(tmp_path)


def test_every_parameter_learns_and_the_onnx_file_is_equal(tmp_path):
    tower().float().save_pretrained(tmp_path / "theirs")
    model, *_ = vt.load(tmp_path / "theirs")
    model(images(64, 64).float()).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    pixels = images(64, 64).float()
    found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
    with torch.no_grad():
        assert gap(torch.from_numpy(found), model(pixels)) < 1e-4


@pytest.mark.parametrize("names", ["huggingface", "openclip"])
def test_a_damaged_tower_is_said_to_be_no_other_model(names, tmp_path):
    theirs = tower().float()
    if names == "huggingface":
        tensors = dict(theirs.state_dict())
        lost = "vision_model.encoder.layers.1.layer_norm2.bias"
        lost = lost if lost in tensors else lost.removeprefix("vision_model.")
    else:
        tensors = open_clip_tensors(timm.create_model(QUICK, num_classes=5, **TIMM))
        lost = "visual.transformer.resblocks.1.ln_2.bias"
    del tensors[lost]
    file = tmp_path / "damaged.safetensors"
    save_file({name: it.contiguous() for name, it in tensors.items()}, file)
    with pytest.raises(WeightsError, match=lost.rpartition(".")[0]) as caught:
        vt.load(file, num_heads=3)
    assert "may be" not in str(caught.value)
