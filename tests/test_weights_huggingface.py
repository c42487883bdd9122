"""Hugging Face's layout: equal answers, equal tensors, there and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitral as vt
import vitral.weights
from helpers import assert_near, images, randomise
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.models import DeiTConfig, ViTConfig, build_model
from vitral.weights.layouts.huggingface import preprocessor, vit
from vitral.weights.layouts.layout import ModelSpec

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": (48, 80),
    "patch_size": 16,
}
DINO: dict[str, Any] = {
    **{k: v for k, v in SIZES.items() if k != "intermediate_size"},
    "mlp_ratio": 2,
    "image_size": 48,
}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", SIZES),
    "vit gelu": (
        "ViTForImageClassification",
        "ViTConfig",
        {**SIZES, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3},
    ),
    "vit channels": (
        "ViTForImageClassification",
        "ViTConfig",
        {**SIZES, "num_channels": 2, "qkv_bias": False, "patch_size": (16, 8)},
    ),
    "vit square": (
        "ViTForImageClassification",
        "ViTConfig",
        {**SIZES, "image_size": 48},
    ),
    "vit bare": ("ViTModel", "ViTConfig", SIZES),
    "deit bare": ("DeiTModel", "DeiTConfig", SIZES),
    "deit one": ("DeiTForImageClassification", "DeiTConfig", SIZES),
    "deit two": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", SIZES),
    "deit square": (
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        {**SIZES, "image_size": 48},
    ),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", DINO),
    "dinov2 bare": ("Dinov2Model", "Dinov2Config", DINO),
    "dinov2 swiglu": (
        "Dinov2Model",
        "Dinov2Config",
        {**DINO, "use_swiglu_ffn": True, "mlp_ratio": 4},
    ),
    "registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {**DINO, "num_register_tokens": 2},
    ),
}
"""Class, its settings' class, and the settings; 7 classes where it has a head."""


def made(kind: str) -> torch.nn.Module:
    name, config, settings = KINDS[kind]
    head = {"num_labels": 7} if "For" in name else {}
    model = getattr(transformers, name)(
        getattr(transformers, config)(**settings, **head)
    )
    randomise(model)
    return model.double().eval()


def answer(model: torch.nn.Module, image: torch.Tensor, **arguments: Any):
    """Logits, or what a model without a head pools."""
    with torch.no_grad():
        out = model(image, **arguments)
    if hasattr(out, "logits"):
        return out.logits
    if out.pooler_output is None:
        return out.last_hidden_state[:, 0]
    return out.pooler_output


def in_memory_names(model: torch.nn.Module, folder: Path) -> None:
    """The folder that `model` saved, with the names that it has in memory."""
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def written(model, folder: Path, classes: tuple[str, ...] = ()) -> Preprocess:
    """`model` in this layout: the tensors, and the files beside."""
    layout, config = vit.LAYOUT, model.config
    assert layout.unsupported_reason(config) == ""
    ours, tensors = model.state_dict(), {}
    for rule in layout.mappings(config):
        tensors |= zip(rule.theirs, rule.to_foreign(ours[rule.ours]), strict=True)
    preprocess = Preprocess(image_size=config.image_hw, antialias=True)
    about = layout.make_output(
        ModelSpec(config=config, preprocess=preprocess, classes=classes)
    )
    folder.mkdir()
    tensors |= about.new
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in about.sidecar_files.items():
        (folder / name).write_text(json.dumps(content))
    return preprocess


# reading


@pytest.mark.parametrize("names", ["hub", "memory"])
@pytest.mark.parametrize("kind", KINDS)
def test_their_folder_gives_their_answers(tmp_path, kind, names):
    theirs = made(kind)
    theirs.save_pretrained(tmp_path)
    if names == "memory":
        in_memory_names(theirs, tmp_path)
    model, preprocess, ledger = vt.load(tmp_path)
    assert ledger.layout == "Hugging Face"
    height, width = model.config.image_hw
    assert (height, width) == preprocess.image_size
    image = images(2, height, width, model.config.in_chans)
    with torch.no_grad():
        assert_near(model(image), answer(theirs, image), 1e-10)
        assert_near(model.float()(image.float()), answer(theirs, image).float(), 1e-4)


@pytest.mark.parametrize(
    ("kind", "arguments", "rtol"),
    [
        ("vit square", {"interpolate_pos_encoding": True}, 1e-10),
        ("deit square", {"interpolate_pos_encoding": True}, 1e-10),
        # DINOv2's code resizes its positions in float32, whatever the model's type.
        ("dinov2", {}, 1e-5),
        ("dinov2 bare", {}, 1e-5),
        ("registers", {}, 1e-5),
    ],
)
@pytest.mark.parametrize("size", [(64, 112), (80, 80), (32, 80)], ids=str)
def test_other_image_sizes_give_their_answers(tmp_path, kind, arguments, rtol, size):
    theirs = made(kind)
    theirs.save_pretrained(tmp_path)
    model = vt.load(tmp_path).model
    image = images(2, *size)
    with torch.no_grad():
        assert_near(model(image), answer(theirs, image, **arguments), rtol)


@pytest.mark.parametrize("names", ["hub", "memory"])
@pytest.mark.parametrize("whole", [True, False], ids=["with decoder", "encoder"])
def test_masked_autoencoder_is_read_as_its_encoder(tmp_path, names, whole):
    settings = transformers.ViTMAEConfig(
        **{**SIZES, "image_size": 48},
        mask_ratio=0.0,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=20,
    )
    name = "ViTMAEForPreTraining" if whole else "ViTMAEModel"
    theirs = getattr(transformers, name)(settings)
    randomise(theirs)
    theirs = theirs.double().eval()
    theirs.save_pretrained(tmp_path)
    if names == "memory":
        in_memory_names(theirs, tmp_path)
    model, preprocess, ledger = vt.load(tmp_path)
    encoder = theirs.vit if whole else theirs
    image, order = images(2, 48, 48), torch.arange(9.0).expand(2, 9)
    with torch.no_grad():
        wanted = encoder(image, noise=order).last_hidden_state
        found = model.forward_features(image)
    assert_near(found.cls, wanted[:, 0], 1e-10)
    assert_near(found.patches.flatten(1, 2), wanted[:, 1:], 1e-10)
    dropped = [line for line in ledger.lines if line.action == "dropped"]
    assert all("draws the hidden patches" in line.detail for line in dropped)
    assert bool(dropped) == whole
    assert preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("names", ["hub", "memory"])
@pytest.mark.parametrize("head", [True, False], ids=["head", "encoder"])
@pytest.mark.parametrize("size", [(48, 48), (64, 32)], ids=str)
def test_masked_siamese_network_is_a_vit(tmp_path, names, head, size):
    """Without its `layer_norm_eps` config.json means 1e-6, where ViT's means 1e-12."""
    settings = transformers.ViTMSNConfig(**{**SIZES, "image_size": 48})
    name = "ViTMSNForImageClassification" if head else "ViTMSNModel"
    theirs = getattr(transformers, name)(settings)
    randomise(theirs)
    theirs = theirs.double().eval()
    theirs.save_pretrained(tmp_path)
    if names == "memory":
        in_memory_names(theirs, tmp_path)
    edit = json.loads((tmp_path / "config.json").read_text())
    del edit["layer_norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(edit))
    model, preprocess, _ = vt.load(tmp_path)
    assert model.config.norm_eps == 1e-6
    image = images(2, *size)
    with torch.no_grad():
        answers = theirs(image, interpolate_pos_encoding=True)
        if head:
            assert_near(model(image), answers.logits, 1e-10)
        else:
            found = model.forward_features(image)
            assert_near(found.cls, answers.last_hidden_state[:, 0], 1e-10)
    assert preprocess.mean == (0.485, 0.456, 0.406)


def test_hidden_patches_of_the_pre_training_are_dropped(tmp_path):
    made("dinov2").save_pretrained(tmp_path)
    ledger = vt.load(tmp_path).ledger
    line = next(line for line in ledger.lines if line.action == "dropped")
    assert line.name == "dinov2.embeddings.mask_token"
    assert line.detail == "of the pre-training only"
    assert ledger.counts()["joined"] == 4


def test_tensors_alone_are_read_with_what_was_assumed(tmp_path):
    theirs = made("deit two")
    theirs.save_pretrained(tmp_path)
    file = (tmp_path / "model.safetensors").rename(tmp_path / "deit.safetensors")
    model, _, ledger = vt.load(file, grid=(3, 5), num_heads=3)
    with torch.no_grad():
        assert_near(model(images()), answer(theirs, images()), 1e-10)
    assert any("settings of a deit model of Hugging Face" in n for n in ledger.notes)


def test_pooler_under_a_head_is_dropped(tmp_path):
    made("vit").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["vit.pooler.dense.weight"] = torch.randn(24, 24)
    tensors["vit.pooler.dense.bias"] = torch.randn(24)
    save_file(tensors, tmp_path / "model.safetensors")
    model, _, ledger = vt.load(tmp_path)
    assert model.config.representation_size == 0
    assert ledger.counts()["dropped"] == 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({str(n): word for n, word in enumerate("abcdefg")}, tuple("abcdefg")),
        ({str(n): f"LABEL_{n}" for n in range(7)}, ()),
        ({"0": "a"}, ()),
    ],
)
def test_names_of_the_classes(tmp_path, labels, classes):
    made("vit").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    about = {**json.loads(file.read_text()), "id2label": labels}
    file.write_text(json.dumps(about))
    assert vitral.weights.read(tmp_path).classes == classes


# image processors


@pytest.mark.parametrize(
    ("processor", "wanted"),
    [
        (
            {
                "size": 48,
                "resample": 2,
                "image_mean": [0.1] * 3,
                "image_std": [0.2] * 3,
            },
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                mean=(0.1, 0.1, 0.1),
                std=(0.2, 0.2, 0.2),
            ),
        ),
        (
            {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": 64},
                "crop_size": {"height": 48, "width": 48},
                "resample": 3,
            },
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                resize="crop",
                crop_fraction=0.75,
                interpolation="bicubic",
            ),
        ),
        (
            {
                "feature_extractor_type": "DeiTFeatureExtractor",
                "size": 55,
                "crop_size": 48,
                "do_center_crop": True,
                "resample": 0,
            },
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                crop_fraction=48 / 55,
                interpolation="nearest",
            ),
        ),
        (
            {"size": {"height": 48, "width": 48}, "do_rescale": False, "resample": 2},
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                mean=(0.5 / 255,) * 3,
                std=(0.5 / 255,) * 3,
            ),
        ),
        (
            {"size": 48, "image_mean": [0.1], "image_std": [0.2], "resample": 2},
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                mean=(0.1, 0.1, 0.1),
                std=(0.2, 0.2, 0.2),
            ),
        ),
        (
            {"size": 48, "do_normalize": False, "resample": 2},
            Preprocess(
                image_size=(48, 48),
                antialias=True,
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            ),
        ),
    ],
)
def test_image_processor_is_read(tmp_path, processor, wanted):
    made("vit square").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert vt.load(tmp_path).preprocess == wanted


@pytest.mark.parametrize(
    ("fields", "kind", "resize", "fraction", "note"),
    [
        ({"size": 64, "crop_size": 48}, "vit square", "squash", 0.75, ""),
        ({"size": 64, "crop_size": 48}, "dinov2", "crop", 0.75, ""),
        (
            {"size": 64, "crop_size": 48, "image_processor_type": "ViTImageProcessor"},
            "dinov2",
            "squash",
            0.75,
            "",
        ),
        ({"size": {"shortest_edge": 48}}, "vit square", "crop", 1.0, "cuts nothing"),
        ({"size": {"longest_edge": 9}}, "vit square", "squash", 1.0, "'longest_edge'"),
        ({"do_resize": False}, "vit square", "squash", 1.0, "does not resize"),
        (
            {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 40}},
            "vit square",
            "crop",
            0.75,
            "whose shorter side is 64",
        ),
    ],
)
def test_geometry_of_an_image_processor(tmp_path, fields, kind, resize, fraction, note):
    made(kind).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    _, preprocess, ledger = vt.load(tmp_path)
    assert preprocess.resize == resize
    assert preprocess.crop_fraction == fraction
    assert note in ledger.summary()
    assert preprocess.image_size == (48, 48)


def test_processor_of_another_size_is_said(tmp_path):
    made("vit square").save_pretrained(tmp_path)
    about = {"size": {"height": 32, "width": 32}, "resample": 1}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    _, preprocess, ledger = vt.load(tmp_path)
    assert preprocess.image_size == (48, 48)
    assert preprocess.interpolation == "bicubic"
    text = ledger.summary()
    assert "makes 32 x 32 pixels, but the positions are those of 48 x 48" in text
    assert "Pillow's filter 1, which vitral does not have" in text


@pytest.mark.parametrize(
    ("kind", "resize", "fraction", "mean"),
    [
        ("vit", "squash", 1.0, 0.5),
        ("deit one", "squash", 0.875, 0.485),
        ("dinov2", "crop", 0.875, 0.485),
    ],
)
def test_without_a_processor_that_of_published_models(
    tmp_path, kind, resize, fraction, mean
):
    made(kind).save_pretrained(tmp_path)
    _, preprocess, ledger = vt.load(tmp_path)
    assert (preprocess.resize, preprocess.crop_fraction) == (resize, fraction)
    assert preprocess.mean[0] == mean
    assert "there is no preprocessor_config.json" in ledger.summary()


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(image_size=(48, 80), antialias=True),
        Preprocess(
            image_size=(48, 48), antialias=True, crop_fraction=0.9, mean=(0.1, 0.2, 0.3)
        ),
        Preprocess(
            image_size=(48, 48),
            antialias=True,
            resize="crop",
            crop_fraction=0.8,
            interpolation="bicubic",
        ),
    ],
)
def test_their_processor_makes_our_pixels(preprocess):
    fields = preprocessor.write(preprocess, [])
    kind = f"{fields['image_processor_type']}Pil"
    processor = getattr(transformers, kind)(**fields)
    picture = np.random.default_rng(0).integers(0, 256, (90, 121, 3), dtype=np.uint8)
    found = processor(picture, return_tensors="pt", input_data_format="channels_last")
    wanted = preprocess(picture)
    assert found["pixel_values"][0].shape == wanted.shape
    assert (found["pixel_values"][0] - wanted).abs().max() < 1e-5


# writing


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_changes_no_bit_and_they_open_it(tmp_path, kind):
    theirs = made(kind).float()
    theirs.save_pretrained(tmp_path / "theirs")
    model = vt.load(tmp_path / "theirs").model
    written(model, tmp_path / "ours")
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "ours" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "mask_token" not in name:
            assert torch.equal(after[name], tensor), name
    again, info = type(theirs).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    image = images(2, *model.config.image_hw, model.config.in_chans).float()
    assert_near(answer(again.eval(), image), answer(theirs, image), 1e-6)
    assert vt.load(tmp_path / "ours").model.config == model.config


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig(num_classes=7, act="gelu_tanh", qkv_bias=False, norm_eps=1e-5),
        ViTConfig(num_classes=0, representation_size=20),
        DeiTConfig(num_classes=7),
        ViTConfig(
            num_classes=7,
            global_pool="token_avg",
            init_values=0.5,
            reg_tokens=3,
            no_embed_reg=True,
            image_size=48,
            mlp_dim=48,
        ),
        ViTConfig(
            num_classes=0, init_values=0.5, mlp="swiglu", mlp_dim=64, image_size=48
        ),
    ],
    ids=["vit", "pooler", "deit", "registers", "swiglu"],
)
def test_they_open_our_models(tmp_path, config):
    if config.image_size == 224:
        config = replace(config, image_size=(48, 80))
    mlp = 40 if config.mlp_dim == 3072 else config.mlp_dim
    config = replace(config, embed_dim=24, depth=2, num_heads=3, mlp_dim=mlp)
    model = build_model(config)
    randomise(model)
    words = tuple("abcdefg") if config.num_classes else ()
    preprocess = written(model.eval(), tmp_path / "ours", words)
    about = json.loads((tmp_path / "ours" / "config.json").read_text())
    theirs, info = getattr(transformers, about["architectures"][0]).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values()), info
    image = images(2, *config.image_hw).float()
    with torch.no_grad():
        assert_near(answer(theirs.eval(), image), model(image), 1e-5)
    source = vitral.weights.read(tmp_path / "ours")
    assert source.classes == words
    assert source.preprocess == preprocess
    if words:
        assert theirs.config.id2label == dict(enumerate(words))


def test_what_differs_is_noted():
    config = ViTConfig(image_size=(48, 80))
    preprocess = Preprocess(image_size=(48, 80), resize="crop")
    notes = vit.LAYOUT.make_output(
        ModelSpec(config=config, preprocess=preprocess)
    ).notes
    text = "\n".join(notes)
    assert (
        "by bicubic interpolation, this model by the official code's bilinear zoom"
        in text
    )
    assert "give it images of 48 x 80 pixels" in text
    assert "low-pass before they shrink" in text
    assert "keeps another part of an image" in text


# what is refused


DINO_LIKE = {"init_values": 1.0, "num_classes": 0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"position": "learned_2d"}, "its positions are learned"),
        ({"position_at": "every_layer"}, "added at the stem"),
        ({"no_embed_class": True}, "have a class token"),
        ({"no_embed_class": True}, "with a position of its own"),
        ({"global_pool": "avg"}, "look at the class token"),
        ({"global_pool": "map"}, "look at the class token"),
        ({"global_pool": "token_avg"}, "look at the class token"),
        ({**DINO_LIKE, "num_classes": 7}, "side by side"),
        ({**DINO_LIKE, "global_pool": "avg"}, "look at the class token"),
        ({"reg_tokens": 2, "no_embed_reg": True}, "registers come with LayerScale"),
        ({**DINO_LIKE, "reg_tokens": 2}, "its registers have no positions"),
        ({"mlp": "swiglu"}, "gated perceptrons come with LayerScale"),
        ({**DINO_LIKE, "mlp_dim": 3000}, "a whole multiple"),
        ({**DINO_LIKE, "image_size": (224, 448)}, "positions of square grids only"),
        ({"representation_size": 20}, "no tanh layer before a head"),
        ({**DINO_LIKE, "representation_size": 20}, "no tanh layer before a head"),
        ({"qk_norm": True}, "does not normalise queries and keys"),
        ({"head_dim": 32}, "heads together are as wide"),
        ({"patch_norm": True}, "its patches have no norms"),
        ({"norm_after_pool": True}, "final norm comes before pooling"),
        ({"proj_bias": False}, "a bias wherever the attention projects"),
    ],
    ids=str,
)
def test_refusals_say_why(changes, reason):
    assert reason in vit.LAYOUT.unsupported_reason(ViTConfig(**changes))


def test_deit_with_layer_scale_is_refused():
    config = DeiTConfig(init_values=0.1, num_classes=0)
    assert vit.LAYOUT.unsupported_reason(config) == "its DeiT has no LayerScale"


@pytest.mark.parametrize(
    ("field", "value", "kind", "wanted"),
    [
        ("hidden_act", "relu", "vit", "expected gelu or gelu_python"),
        ("pooler_act", "gelu", "vit bare", "expected tanh"),
    ],
)
def test_another_function_is_not_loaded(tmp_path, field, value, kind, wanted):
    made(kind).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(
        WeightsError, match=rf"config\.json: `{field}` is `{value}`"
    ) as e:
        vt.load(tmp_path)
    assert wanted in str(e.value)


def test_another_type_of_model_is_not_taken(tmp_path):
    made("vit").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "beit"}))
    with pytest.raises(WeightsError, match=r"Hugging Face's beit \(ViTF.*Use tran"):
        vt.load(tmp_path)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    made("vit").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["vit.norm.weight"] = tensors.pop("vit.layernorm.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks vit\.layernorm\.weight and has"):
        vt.load(tmp_path)


def test_a_grid_that_config_json_denies_is_refused(tmp_path):
    made("vit").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_size": 48}))
    with pytest.raises(WeightsError, match="has 16 rows for 1 prefix tokens"):
        vt.load(tmp_path)
    assert vt.load(tmp_path, grid=(3, 5)).model.config.grid == Grid(3, 5)
