"""TimeSformer's files: the published `.pyth`, Hugging Face's, and image weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
    VideoMAEImageProcessor,
)

import vitral as vt
import vitral.models as models
import vitral.weights
from helpers import (
    TINY,
    assert_near,
    golden_noise,
    randomise,
    tiny_timesformer,
    tiny_vit,
)
from test_timesformer import GOLDEN, clips
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.models import DeiTConfig, TimeSformer, ViTConfig
from vitral.weights import Metadata, convert
from vitral.weights.convert import compatible_layouts

SQUARE: dict[str, Any] = {
    "image_size": 64,
    "num_frames": 3,
    "act": "gelu",
    "position_resize": "nearest",
    "time_resize": "nearest",
}
KINDS = {
    "space": "space_only",
    "joint": "joint_space_time",
    "divided": "divided_space_time",
}


def hugging_face(scheme, kind=TimesformerForVideoClassification, **changes):
    config = TimesformerConfig(
        **{
            "image_size": 64,
            "patch_size": 16,
            "num_frames": 3,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "num_labels": 7,
            "attention_type": KINDS[scheme],
            **changes,
        }
    )
    model = kind(config)
    randomise(model)
    return model.eval()


def logits_of(theirs, scheme, x):
    """Hugging Face's logits; one for each clip where it gives one for each frame."""
    if scheme != "space":
        return theirs(x).logits
    last = theirs.timesformer(x, output_hidden_states=True).hidden_states[-1]
    mean = last.unflatten(0, (x.shape[0], -1)).mean(dim=1)
    return theirs.classifier(theirs.timesformer.layernorm(mean)[:, 0])


def saved(model, folder, size=(64, 64)):
    vt.save(folder, model, Preprocess(image_size=size))
    return folder


# Hugging Face


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "layer_norm_eps": 1e-5}])
@pytest.mark.parametrize("size", [(64, 64), (48, 64), (96, 128)])
@pytest.mark.parametrize("scheme", KINDS)
def test_hugging_face_logits(tmp_path, scheme, size, changes):
    theirs = hugging_face(scheme, **changes)
    theirs.save_pretrained(tmp_path)
    loaded = vt.load(tmp_path)
    assert loaded.model.config.attention_type == scheme
    assert loaded.ledger.counts() == {"copied": len(theirs.state_dict())}
    x = clips(2, 3, *size)
    with torch.no_grad():
        assert_near(loaded.model(x.float()), logits_of(theirs, scheme, x.float()), 1e-5)
        wide, ours = theirs.double(), loaded.model.double()
        assert (ours(x) - logits_of(wide, scheme, x)).abs().max() < 1e-10


def test_hugging_face_model_without_a_head(tmp_path):
    theirs = hugging_face("divided", TimesformerModel)
    theirs.save_pretrained(tmp_path)
    model = vt.load(tmp_path).model.double()
    with torch.no_grad():
        last = theirs.double()(clips(2, 3, 64, 64)).last_hidden_state
        features = model.forward_features(clips(2, 3, 64, 64))
    assert_near(features.cls, last[:, 0])
    # They number frames fastest.
    patches = last[:, 1:].unflatten(1, (4, 4, 3)).permute(0, 3, 1, 2, 4)
    assert_near(features.patches, patches)


@pytest.mark.parametrize("scheme", KINDS)
def test_transformers_opens_our_folder(tmp_path, scheme):
    model = tiny_timesformer(**SQUARE, attention_type=scheme)
    preprocess = Preprocess(
        image_size=(64, 64), resize="crop", mean=(0.45,) * 3, std=(0.225,) * 3
    )
    vt.save(tmp_path / "a", model, preprocess, classes=tuple("abcdefg"))
    made = convert(tmp_path / "a", tmp_path / "b", "huggingface_timesformer")
    theirs, info = TimesformerForVideoClassification.from_pretrained(
        tmp_path / "b", output_loading_info=True, dtype=torch.float64
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    assert theirs.config.id2label[6] == "g"
    x = clips(2, 3, 64, 64)
    with torch.no_grad():
        found = logits_of(theirs.eval(), scheme, x)
        assert (model(x) - found).abs().max() < 1e-10
    assert ("for every frame" in " ".join(made.ledger.notes)) == (scheme == "space")
    processor = VideoMAEImageProcessor.from_pretrained(tmp_path / "b")
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    pixels = processor([frame], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 1, 3, 64, 64)
    torch.testing.assert_close(pixels[0, 0], (frame / 255 - 0.45) / 0.225)


def test_what_hugging_face_says_of_pixels_is_kept(tmp_path):
    hugging_face("divided").save_pretrained(tmp_path)
    about = '{"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}'
    about += ', "image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.25]}'
    (tmp_path / "preprocessor_config.json").write_text(about)
    preprocess = vt.load(tmp_path).preprocess
    assert (preprocess.resize, preprocess.mean) == ("crop", (0.5, 0.25, 0.5))
    (tmp_path / "preprocessor_config.json").unlink()
    assert vt.load(tmp_path).preprocess.mean == (0.45,) * 3


def test_a_config_of_another_scheme_is_refused(tmp_path):
    hugging_face("joint").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("joint_space_time", "divided_space_time"))
    sentence = (
        "`attention_type` is `divided_space_time`, but the tensors are those of jo"
    )
    with pytest.raises(WeightsError, match=sentence):
        vt.load(tmp_path)


def test_tensors_of_hugging_face_load_without_their_config(tmp_path):
    theirs = hugging_face("divided").double()
    file = tmp_path / "alone.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, file)
    loaded = vt.load(file, num_heads=3)
    with torch.no_grad():
        x = clips(2, 3, 64, 64)
        assert (loaded.model(x) - theirs(x).logits).abs().max() < 1e-10
    assert any("there is no config.json" in note for note in loaded.ledger.notes)


# the published files


def published(scheme, folder):
    """A training checkpoint with reproducible numbers under the published names."""
    fields = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 128}
    with torch.device("meta"):
        model = TimeSformer(
            models.TimeSformerConfig(
                **fields,
                image_size=32,
                num_classes=5,
                num_frames=3,
                attention_type=scheme,
            )
        )
    state = {}
    for name, empty in model.state_dict().items():
        value = 0.2 * (golden_noise(empty.shape, sum(name.encode()) % 97) - 0.5)
        gain = empty.ndim == 1 and name.endswith(".weight")
        state[f"model.{name}"] = value + gain
    file = folder / "TimeSformer_K400.pyth"
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}}
    whole = {"epoch": 15, "model_state": state, "optimizer_state": optimizer}
    torch.save({**whole, "cfg": "TRAIN:\n  ENABLE: True\n"}, file)
    return file


@pytest.mark.parametrize("scheme", GOLDEN)
def test_published_file_gives_published_logits(tmp_path, scheme):
    loaded = vt.load(published(scheme, tmp_path), num_heads=4)
    assert loaded.ledger.layout == "TimeSformer"
    assert loaded.model.config.attention_type == scheme
    assert loaded.model.config.num_frames == (8 if scheme == "space" else 3)
    assert loaded.preprocess.mean == (0.45,) * 3
    assert loaded.preprocess.std == (0.225,) * 3
    clip = (2 * golden_noise((1, 3, 3, 32, 32), 1) - 1).transpose(1, 2)
    with torch.no_grad():
        logits = loaded.model(clip)[0]
    first, total = GOLDEN[scheme]
    assert logits[:4].tolist() == pytest.approx(first, abs=1e-7)
    assert logits.abs().sum().item() == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize("scheme", GOLDEN)
def test_published_names_are_written(tmp_path, scheme):
    file = published(scheme, tmp_path)
    out = tmp_path / "out.safetensors"
    convert(file, out, "timesformer", num_heads=4)
    assert set(load_file(out)) == set(torch.load(file)["model_state"])
    assert vt.load(out).model.config == vt.load(file, num_heads=4).model.config


def test_names_without_their_prefix_are_known(tmp_path):
    model = tiny_timesformer(**SQUARE)
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    loaded = vt.load(tmp_path / "plain.safetensors", num_heads=3)
    assert loaded.ledger.layout == "TimeSformer"
    with torch.no_grad():
        x = clips(2, 5, 48, 80)
        assert torch.equal(loaded.model(x), model(x))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention_type": "axial"}, "its attention is space, joint or divided"),
        ({"class_token_in": "every_step"}, "takes no part in the time step"),
        ({"time_position": "none"}, "its clips have positions in time"),
        ({"position": "sincos_2d"}, "its positions are learned"),
        ({"reg_tokens": 2}, "it has no registers"),
        ({"global_pool": "avg"}, "its models look at the class token"),
        ({"init_values": 0.1}, "it has no LayerScale"),
        ({"image_size": (48, 80)}, "square"),
    ],
)
@pytest.mark.parametrize("to", ["timesformer", "huggingface_timesformer"])
def test_what_the_published_code_cannot_be(tmp_path, to, changes, reason):
    saved(tiny_timesformer(**{**SQUARE, **changes}), tmp_path / "a")
    out = tmp_path / ("b.safetensors" if to == "timesformer" else "b")
    with pytest.raises(ConfigError, match=f"because .*{reason}.*can hold it: native"):
        convert(tmp_path / "a", out, to)


def test_a_model_that_differs_in_numbers_is_written_with_notes(tmp_path):
    model = tiny_timesformer(image_size=64, norm_eps=1e-5)
    made = convert(
        saved(model, tmp_path / "a"), tmp_path / "b", "huggingface_timesformer"
    )
    text = " ".join(made.ledger.notes)
    assert "resizes positions by the nearest row of the table" in text
    assert "repeats or skips rows of the time positions" in text
    assert "clips of 4 frames only" in text
    back = vt.load(tmp_path / "b").model
    with torch.no_grad():
        x = clips(2, 4, 64, 64)
        assert torch.equal(back(x), model(x))


@pytest.mark.parametrize(
    "model", [{"attention_type": "axial"}, {"attention_type": "local_global"}]
)
def test_other_schemes_fit_our_own_folder_alone(tmp_path, model):
    source = vitral.weights.read(saved(tiny_timesformer(**SQUARE, **model), tmp_path))
    found = str(vitral.weights.explain(tmp_path))
    assert "timesformer" in found
    assert compatible_layouts(source.config) == ["native"]


def test_the_old_name_of_the_attention_type_is_still_read(tmp_path):
    model = saved(tiny_timesformer(**SQUARE, attention_type="axial"), tmp_path)
    file = model / "config.json"
    text = file.read_text()
    assert '"scheme"' not in text
    file.write_text(text.replace('"attention_type"', '"scheme"'))
    config = vitral.weights.read(model).config
    assert config == vt.load(model).model.config
    assert config.attention_type == "axial"
    changed = models.replace_config(config, {"scheme": "joint"})
    assert changed.attention_type == "joint"
    assert models.get_config("timesformer_s16", {"scheme": "space"}).steps == (
        models.get_config("timesformer_s16", {"attention_type": "space"}).steps
    )
    metadata = Metadata(config=config, preprocess=Preprocess(image_size=(48, 48)))
    old = metadata.to_json().replace('"attention_type"', '"scheme"')
    assert Metadata.from_json(old, file).config == config


# from image weights


def test_image_weights_start_a_model_for_clips(tmp_path):
    vit = tiny_vit()
    saved(vit, tmp_path, (48, 80))
    source = vitral.weights.read(tmp_path)
    config = models.clip_config(source.config, num_frames=4)
    model, _, ledger = vitral.weights.build(source, config)
    assert isinstance(model, TimeSformer)
    image = clips(2, 1)[:, 0]
    still = image[:, None].expand(-1, 4, -1, -1, -1)
    with torch.no_grad():
        assert_near(model(still), vit(image), 1e-12)
    new = {line.name for line in ledger.lines if line.action == "new"}
    fcs = {
        f"blocks.{n}.temporal_fc.{part}" for n in (0, 1) for part in ("weight", "bias")
    }
    assert new == {"time_embed", *fcs}
    copied = {
        line.name: line.detail for line in ledger.lines if line.action == "copied"
    }
    place = "blocks.1.temporal_attn.qkv.weight"
    assert copied[place] == "from blocks.1.attn.qkv.weight"
    assert torch.equal(
        model.get_parameter(place), vit.get_parameter("blocks.1.attn.qkv.weight")
    )
    direct = models.from_image(vit, 4).state_dict()
    assert all(torch.equal(t, direct[name]) for name, t in model.state_dict().items())


def test_image_weights_of_another_size_and_other_classes(tmp_path):
    """Hugging Face's image files have q, k and v apart; positions are resized."""
    vit = tiny_vit(image_size=64, act="gelu")
    saved(vit, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", "huggingface")
    source = vitral.weights.read(tmp_path / "b")
    config = models.clip_config(source.config, num_frames=2, attention_type="axial")
    config = replace(config, image_size=(48, 80), num_classes=4)
    model, preprocess, ledger = vitral.weights.build(source, config)
    assert model(clips(2, 2)).shape == (2, 4)
    assert not model.head.weight.any()
    assert preprocess.image_size == (48, 80)
    by_name = {line.name: line for line in ledger.lines}
    assert by_name["pos_embed"].action == "resized"
    assert by_name["blocks.0.width_attn.qkv.weight"].action == "joined"
    assert torch.equal(
        model.blocks[0].width_attn.qkv.weight, vit.blocks[0].attn.qkv.weight
    )


def test_time_positions_are_resized_when_loading(tmp_path):
    model = tiny_timesformer(num_frames=3)
    source = vitral.weights.read(saved(model, tmp_path, (48, 80)))
    config = models.replace_config(source.config, {"num_frames": 5})
    longer, _, ledger = vitral.weights.build(source, config)
    by_name = {line.name: line for line in ledger.lines}
    assert by_name["time_embed"].detail == "3 -> 5 frames, linear"
    with torch.no_grad():
        x = clips(2, 5)
        assert_near(longer(x), model(x), 1e-12)
        middle = (model.time_embed[:, 0] + model.time_embed[:, 1]) / 2
    torch.testing.assert_close(longer.time_embed[:, 1].detach(), middle)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (DeiTConfig(**TINY), "of a plain Vision Transformer: got a DeiT"),
        (ViTConfig(**TINY, position="relative"), "got `position=relative`"),
    ],
)
def test_other_weights_cannot_start_one(tmp_path, image, sentence):
    model = models.build_model(image)
    randomise(model)
    source = vitral.weights.read(saved(model, tmp_path, (48, 80)))
    with pytest.raises(ConfigError, match=sentence):
        vitral.weights.build(source, tiny_timesformer().config)
