"""`problem_type` and other plain data of a model, through every read and write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vitral as vt
import vitral.weights
from helpers import TINY, images, randomise, tiny_vit
from test_timesformer import clips
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import ViT, ViTConfig
from vitral.weights import Metadata, convert, read

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

PREPROCESS = Preprocess(image_size=(48, 80))
SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 48,
    "patch_size": 16,
}
BIT: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 1, 1, 1],
    "num_groups": 4,
}
KINDS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", SIZES, "huggingface"),
    "deit": ("DeiTForImageClassification", "DeiTConfig", SIZES, "huggingface"),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        SIZES | {"mlp_ratio": 2},
        "huggingface",
    ),
    "bit": ("BitForImageClassification", "BitConfig", BIT, "huggingface_bit"),
    "timesformer": (
        "TimesformerForVideoClassification",
        "TimesformerConfig",
        SIZES | {"num_frames": 3},
        "huggingface_timesformer",
    ),
}
"""Class, its settings' class, the settings, and vitral's layout."""


def theirs_in(folder: Path, kind: str = "vit", **head: Any) -> torch.nn.Module:
    """A model of transformers, saved in `folder`."""
    name, config, settings, _ = KINDS[kind]
    settings = {
        k: v for k, v in settings.items() if kind != "dinov2" or "inter" not in k
    }
    model = getattr(transformers, name)(
        getattr(transformers, config)(**settings, **head)
    )
    randomise(model)
    model.eval().save_pretrained(folder)
    return model


def ours_in(folder: Path, extra: dict[str, Any], **changes: Any) -> Path:
    """A model folder of vitral with `extra`, whose function timm has too."""
    model = ViT(ViTConfig(**TINY | {"act": "gelu"} | changes))
    randomise(model)
    vt.save(folder, model, PREPROCESS, extra=extra)
    return folder


def notes_of(made: Any) -> str:
    return "\n".join(made.ledger.notes)


# transformers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("problem_type", "count"),
    [
        ("multi_label_classification", 3),
        ("regression", 1),
        ("single_label_classification", 3),
    ],
)
def test_problem_type_goes_to_vitral_and_back(tmp_path, kind, problem_type, count):
    names = {n: f"name {n}" for n in range(count)}
    head = {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    theirs = theirs_in(tmp_path / "a", kind, problem_type=problem_type, **head)
    layout = KINDS[kind][-1]
    convert(tmp_path / "a", tmp_path / "b", "native")
    made = convert(tmp_path / "b", tmp_path / "c", layout)
    assert "keeps no" not in notes_of(made)
    convert(tmp_path / "c", tmp_path / "d", layout)
    for folder in "abcd":
        assert read(tmp_path / folder).extra == {"problem_type": problem_type}
        assert read(tmp_path / folder).classes == tuple(names.values())
        assert vt.load(tmp_path / folder).extra["problem_type"] == problem_type
    pixels = clips(2, 3, 48, 48) if kind == "timesformer" else images(2, 48, 48)
    for folder in "cd":
        again = type(theirs).from_pretrained(tmp_path / folder).eval()
        assert again.config.problem_type == problem_type
        assert again.config.id2label == names
        with torch.no_grad():
            expected = theirs(pixels.float()).logits
            assert torch.equal(again(pixels.float()).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_without_problem_type_there_is_no_key(tmp_path, kind, count):
    theirs_in(tmp_path / "a", kind, num_labels=count)
    assert read(tmp_path / "a").extra == {}
    file = tmp_path / "a" / "config.json"
    null = {"problem_type": None, "id2label": None}
    file.write_text(json.dumps({**json.loads(file.read_text()), **null}))
    assert read(tmp_path / "a").extra == {}
    assert read(tmp_path / "a").classes == ()
    convert(tmp_path / "a", tmp_path / "b", KINDS[kind][-1])
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "problem_type" not in written


def test_a_problem_type_that_is_no_text_is_refused(tmp_path):
    theirs_in(tmp_path, num_labels=3)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "problem_type": 5}))
    with pytest.raises(WeightsError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(
        f"{file}: `problem_type` is 5, expected regression, "
        "single_label_classification, multi_label_classification or null. Write the "
        "one that the model was trained for; nothing was loaded."
    )


@pytest.mark.parametrize(
    ("value", "count"), [("single_label_classification", 1), ("counting", 7)]
)
def test_what_transformers_refuses_is_not_written(tmp_path, value, count):
    """One label of one; and in many versions any problem that it does not know."""
    ours_in(
        tmp_path / "a",
        {"problem_type": value},
        num_classes=count,
        position_resize="bicubic",
    )
    made = convert(tmp_path / "a", tmp_path / "b", "huggingface")
    assert "Hugging Face keeps no problem_type with these weights" in made.ledger.notes
    config = transformers.AutoConfig.from_pretrained(tmp_path / "b")
    assert config.problem_type is None
    assert config.num_labels == count


# timm, and single files


def test_a_folder_of_timm_keeps_the_problem_type(tmp_path):
    extra = {"problem_type": "multi_label_classification", "temperature": 1.5}
    ours_in(tmp_path / "a", extra)
    made = convert(tmp_path / "a", tmp_path / "b", "timm")
    assert "timm keeps no temperature with these weights" in made.ledger.notes
    theirs = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    with torch.no_grad():
        expected = vt.load(tmp_path / "a").model(images().float())
        torch.testing.assert_close(
            theirs(images().float()), expected, rtol=1e-5, atol=1e-5
        )
    wrapped = transformers.AutoConfig.from_pretrained(tmp_path / "b")
    assert wrapped.model_type == "timm_wrapper"
    assert wrapped.problem_type == "multi_label_classification"
    convert(tmp_path / "b", tmp_path / "c", "native")
    assert read(tmp_path / "c").extra == {"problem_type": extra["problem_type"]}


@pytest.mark.parametrize(
    ("out", "to", "title"),
    [
        ("w.npz", "google", "vision_transformer"),
        ("w.safetensors", "timm", "timm"),
        ("w.safetensors", "native", "vitral"),
    ],
)
def test_tensors_alone_keep_no_extra_and_say_so(tmp_path, out, to, title):
    extra = {"problem_type": "regression", "eval_views": "flip"}
    ours_in(tmp_path / "a", extra, act="gelu_tanh")
    made = convert(tmp_path / "a", tmp_path / out, to)
    note = f"{title} keeps no eval_views, problem_type with these weights"
    assert note in made.ledger.notes
    assert f"  note       {note}" in str(made.ledger).splitlines()
    assert read(tmp_path / out, grid=Grid(3, 5), num_heads=3).extra == {}


# vitral's own folder


def test_every_plain_key_comes_through_a_conversion(tmp_path):
    extra = {
        "problem_type": "regression",
        "task": "regression",
        "temperature": 1.25,
        "eval_views": "flip",
        "target": {"mean": [0.5, -2.0], "std": [1.5, 3.0]},
        "step": 12,
    }
    ours_in(tmp_path / "a", extra)
    made = convert(tmp_path / "a", tmp_path / "b", "native")
    assert notes_of(made) == ""
    assert read(tmp_path / "b").extra == extra
    model, _, _ = loaded = vt.load(tmp_path / "b")
    assert loaded.model is model
    assert loaded.extra == extra
    first, second = (tmp_path / name / "config.json" for name in "ab")
    assert first.read_text() == second.read_text()


def test_a_function_adds_what_an_older_file_lacks(tmp_path):
    old = ours_in(tmp_path / "old", {"several": True, "step": 3})
    seen = []

    def describe(extra: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(extra))
        extra.clear()
        return {"problem_type": "multi_label_classification", "step": 99}

    convert(old, tmp_path / "new", "native", describe=describe)
    convert(old, tmp_path / "theirs", "timm", describe=describe)
    assert seen == [{"several": True, "step": 3}] * 2
    assert read(tmp_path / "new").extra == {
        "several": True,
        "step": 3,
        "problem_type": "multi_label_classification",
    }
    added = {"problem_type": "multi_label_classification"}
    assert read(tmp_path / "theirs").extra == added
    convert(old, tmp_path / "plain", "native")
    assert read(tmp_path / "plain").extra == {"several": True, "step": 3}


def test_a_function_may_not_add_keys_of_vitral(tmp_path):
    old = ours_in(tmp_path / "old", {})

    def describe(extra: dict[str, Any]) -> dict[str, Any]:
        return {"classes": ["a"]}

    with pytest.raises(ConfigError, match="may not have the key `classes`"):
        convert(old, tmp_path / "new", "native", describe=describe)
    assert not (tmp_path / "new").exists()


def test_explain_says_what_the_file_says(tmp_path):
    extra = {"problem_type": "regression", "target": {"mean": [0.5]}, "step": 12}
    ours_in(tmp_path / "a", extra)
    lines = str(vt.explain(tmp_path / "a")).splitlines()
    assert "extra       problem_type regression, step 12, target" in lines
    ours_in(tmp_path / "b", {})
    assert "extra" not in str(vt.explain(tmp_path / "b"))


def test_an_exported_file_keeps_every_key_of_its_exporter(tmp_path):
    extra = {"problem_type": "regression", "target": {"mean": [0.5]}, "new": None}
    config = tiny_vit().config
    metadata = Metadata(config=config, preprocess=PREPROCESS, extra=extra)
    back = Metadata.from_json(metadata.to_json(), tmp_path / "m.onnx")
    assert back.extra == extra
