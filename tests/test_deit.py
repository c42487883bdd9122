"""DeiT: two tokens, two heads; equal to timm's model, and to published numbers."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import vitral as vt
from helpers import assert_near, golden_noise, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError
from vitral.models import (
    DeiT,
    DeiTConfig,
    ViTConfig,
    build_model,
    get_config,
    get_model_name,
)
from vitral.weights import convert
from vitral.weights.layouts.timm import arguments

TINY = {
    "image_size": (48, 80),
    "patch_size": 16,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 40,
    "act": "gelu",
    "position_resize": "bicubic_antialias",
}


def tiny(**changes) -> DeiT:
    model = DeiT(DeiTConfig(**{**TINY, **changes})).double()
    randomise(model)
    return model.eval()


def timm_model(**changes):
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224",
        img_size=(48, 80),
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_ratio=40 / 24,
        num_classes=7,
        **changes,
    )
    randomise(model)
    return model.double().eval()


# the model


@pytest.mark.parametrize(
    ("name", "pixels", "count"),
    [
        ("deit_ti16", 224, 5_910_800),
        ("deit_s16", 224, 22_436_432),
        ("deit_b16", 224, 87_338_192),
        ("deit_b16", 384, 87_630_032),
    ],
)
def test_published_parameter_counts(name, pixels, count):
    with torch.device("meta"):
        model = build_model(get_config(name, {"image_size": pixels}))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("foreign", "ours", "pixels", "eps"),
    [
        ("deit_small_distilled_patch16_224", "deit_s16", 224, 1e-6),
        ("deit_base_distilled_patch16_384.fb_in1k", "deit_b16", 384, 1e-6),
        ("facebook/deit-tiny-distilled-patch16-224", "deit_ti16", 224, 1e-12),
    ],
)
def test_foreign_names_are_understood(foreign, ours, pixels, eps):
    found = get_config(foreign)
    assert isinstance(found, DeiTConfig)
    assert get_model_name(found) == ours
    assert found.image_hw == (pixels, pixels)
    assert found.norm_eps == eps
    assert found.act == "gelu"


def test_a_deit_without_the_token_is_a_plain_model():
    assert type(get_config("deit_small_patch16_224")) is ViTConfig
    assert type(get_config("facebook/deit-small-patch16-224")) is ViTConfig


def test_golden_logits(tmp_path):
    """First logits and their sum, computed with timm's class and these parameters."""
    with torch.device("meta"):
        shapes = build_model(
            DeiTConfig(
                image_size=32,
                embed_dim=32,
                depth=2,
                num_heads=4,
                mlp_dim=128,
                num_classes=5,
            )
        ).state_dict()
    tensors = {}
    for name, empty in shapes.items():
        value = 0.2 * (golden_noise(empty.shape, sum(name.encode()) % 97) - 0.5)
        gain = empty.ndim == 1 and name.endswith(".weight")
        tensors[name] = value + gain
    save_file(tensors, tmp_path / "deit.safetensors")
    model = vt.load(tmp_path / "deit.safetensors", num_heads=4).model
    image = 2 * golden_noise((1, 3, 32, 32), 1) - 1
    with torch.no_grad():
        logits = model(image)[0]
    wanted = [-0.41120234, 0.13145639, -0.26276333, -0.22628307]
    assert logits[:4].tolist() == pytest.approx(wanted, abs=1e-7)
    assert logits.abs().sum().item() == pytest.approx(1.04030111, abs=1e-7)


def test_both_heads_are_there_for_training():
    model = tiny()
    features = model.forward_features(images())
    cls, distilled = model.forward_heads(features)
    assert_near(model(images()), (cls + distilled) / 2)
    wanted = features.distillation @ model.head_dist.weight.T + model.head_dist.bias
    assert_near(distilled, wanted)
    assert features.distillation.shape == (2, 24)
    assert features.patches.shape == (2, 3, 5, 24)
    assert not torch.allclose(cls, distilled)


def test_one_head_looks_at_the_class_token():
    model = tiny(distillation_head=False)
    assert "head_dist.weight" not in model.state_dict()
    features = model.forward_features(images())
    wanted = features.cls @ model.head.weight.T + model.head.bias
    assert_near(model(images()), wanted)
    cls, distilled = model.forward_heads(features)
    assert cls is distilled


def test_registers_follow_the_distillation_token():
    """A register at place 2 changes with its own parameter alone."""
    model = tiny(reg_tokens=2, no_embed_reg=True)
    assert model.config.num_prefix_tokens == 4
    assert model.config.num_prefix_positions == 2
    tokens = model.embed(images()).x
    wanted = (model.dist_token + model.pos_embed[:, 1:2])[0, 0]
    torch.testing.assert_close(tokens[0, 1], wanted)
    torch.testing.assert_close(tokens[0, 2:4], model.reg_token[0])


def test_freezing_and_new_heads_know_both_tokens():
    model = tiny()
    assert model.layer_index("dist_token") == 0
    assert model.layer_index("head_dist.weight") == 3
    model.freeze(2)
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    assert free == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    model.reset_head(4)
    assert model.head_dist.weight.shape == (4, 24)
    assert not model(images()).any()


def test_macs_count_the_second_token_and_head():
    plain = DeiTConfig(**{**TINY, "distillation_head": False})
    assert DeiTConfig(**TINY).macs() - plain.macs() == 24 * 7
    block = 4 * 24 * 24 + 2 * 24 * 40
    vit = ViTConfig(**TINY)
    grown = 2 * (block + 2 * 24 * (17**2 - 16**2))
    assert plain.macs() - vit.macs() == grown


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"global_pool": "avg"}, "DeiT predicts from its class and distillation"),
        ({"class_token": False, "global_pool": "avg"}, "set `class_token=True`"),
        ({"norm_after_pool": True}, "normalises both of its tokens"),
        ({"representation_size": 20}, "no tanh layer before its two heads"),
    ],
)
def test_settings_that_do_not_go_together(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DeiTConfig(**{**TINY, **change})


# timm's files


@pytest.mark.parametrize(
    "changes", [{}, {"init_values": 0.1}, {"qkv_bias": False}], ids=str
)
@pytest.mark.parametrize("size", [(48, 80), (80, 112)], ids=str)
def test_timm_file_gives_timm_logits(tmp_path, changes, size):
    theirs = timm_model(dynamic_img_size=True, **changes)
    save_file(theirs.state_dict(), tmp_path / "deit.safetensors")
    loaded = vt.load(tmp_path / "deit.safetensors", grid=(3, 5), num_heads=3)
    assert isinstance(loaded.model, DeiT)
    assert loaded.ledger.counts() == {"copied": len(theirs.state_dict())}
    assert loaded.preprocess.mean == (0.485, 0.456, 0.406)
    with torch.no_grad():
        found, wanted = loaded.model(images(2, *size)), theirs(images(2, *size))
    assert_near(found, wanted, 1e-6 if size != (48, 80) else 1e-10)


def test_timm_file_without_classes_gives_timm_features(tmp_path):
    theirs = timm_model()
    theirs.reset_classifier(0)
    save_file(theirs.state_dict(), tmp_path / "deit.safetensors")
    model = vt.load(tmp_path / "deit.safetensors", grid=(3, 5), num_heads=3).model
    with torch.no_grad():
        assert_near(model(images()), theirs(images()))


@pytest.mark.parametrize(
    "changes", [{}, {"act": "gelu_tanh"}, {"num_classes": 0}], ids=str
)
def test_timm_opens_our_folder(tmp_path, changes):
    model = tiny(**changes).float()
    vt.save(tmp_path, model, Preprocess(image_size=(48, 80)))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = images(2, 64, 112).float()
    with torch.no_grad():
        assert_near(model(image), theirs(image), 1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"distillation_head": False}, "has a head for the distillation token"),
        ({"reg_tokens": 2, "no_embed_reg": True}, "its registers have positions"),
        ({"reg_tokens": 2}, "its DeiT has no registers"),
        ({"no_embed_class": True}, "a position for each of its two tokens"),
    ],
)
def test_what_timm_cannot_express_is_refused(changes, reason):
    assert reason in arguments.unsupported_reason(DeiTConfig(**{**TINY, **changes}))


def test_own_folder_comes_back(tmp_path):
    model = tiny(distillation_head=False)
    vt.save(tmp_path, model, Preprocess(image_size=(48, 80)))
    back = vt.load(tmp_path).model
    assert back.config == model.config
    with torch.no_grad():
        assert torch.equal(back(images()), model(images()))


@pytest.mark.parametrize("layout", ["huggingface", "native", "timm"])
def test_converted_and_back_it_gives_the_same_logits(tmp_path, layout):
    model = tiny()
    vt.save(tmp_path / "a", model, Preprocess(image_size=(48, 80)))
    convert(tmp_path / "a", tmp_path / "b", layout, grid=(3, 5), num_heads=3)
    back = vt.load(tmp_path / "b", grid=(3, 5), num_heads=3).model
    assert isinstance(back, DeiT)
    with torch.no_grad():
        assert torch.equal(back(images()), model(images()))


def test_two_tokens_without_positions_get_two_of_zeros(tmp_path):
    model = tiny(no_embed_class=True)
    vt.save(tmp_path / "a", model, Preprocess(image_size=(48, 80)))
    convert(tmp_path / "a", tmp_path / "b", "huggingface")
    back = vt.load(tmp_path / "b").model
    assert back.pos_embed.shape == (1, 17, 24)
    assert not back.pos_embed[:, :2].any()
    with torch.no_grad():
        assert_near(back(images()), model(images()))


def test_other_classes_give_two_new_heads(tmp_path):
    vt.save(tmp_path, tiny(), Preprocess(image_size=(48, 80)))
    model, _, ledger = vt.load(tmp_path, num_classes=4)
    new = {line.name for line in ledger.lines if line.action == "new"}
    assert new == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
    assert not model.head_dist.weight.any()
    assert model.head_dist.weight.shape == (4, 24)
