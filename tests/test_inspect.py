"""`vitral inspect`: every view of every family, files, arrays, and how it says no."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from helpers import TINY, TINY_TNT, randomise, tiny_vit
from vitral.cli import main
from vitral.data import Preprocess
from vitral.models import (
    DeiTConfig,
    HybridConfig,
    ModelConfig,
    ResNetConfig,
    TNTConfig,
    ViTConfig,
    build_model,
)
from vitral.workflows.inspect.figures import FIGURES, InspectionInput

PREPROCESS = Preprocess(image_size=(48, 80))
MODELS: dict[str, ModelConfig] = {
    "vit": ViTConfig(**TINY),
    "mean of patches": ViTConfig(**TINY, class_token=False, global_pool="avg"),
    "deit": DeiTConfig(**TINY),
    "hybrid": HybridConfig(**TINY, units=(1, 2), stem_width=32),
    "bit": ResNetConfig(
        image_size=(48, 80), num_classes=7, units=(2, 1), stem_width=32
    ),
    "registers, no head": ViTConfig(
        **{**TINY, "num_classes": 0}, reg_tokens=2, init_values=0.1
    ),
    "BEiT": ViTConfig(
        **{**TINY, "global_pool": "avg"}, position="relative_bias", k_bias=False
    ),
    "DINOv3": ViTConfig(
        **{**TINY, "num_classes": 0}, position="rotary", reg_tokens=2, init_values=0.1
    ),
    "EVA-02": ViTConfig(
        **TINY, position="learned_rotary", mlp="swiglu", mlp_norm=True, k_bias=False
    ),
    "AIMv2": ViTConfig(
        **{**TINY, "global_pool": "avg"},
        class_token=False,
        mlp="swiglu",
        norm="rms",
        qkv_bias=False,
        proj_bias=False,
    ),
    "CLIP": ViTConfig(**TINY, norm_pre=True, act="quick_gelu"),
    "tnt": TNTConfig(**{**TINY_TNT, "in_chans": 3}),
}
CANNOT = {
    "vit": {"words"},
    "mean of patches": {"attention", "words"},
    "deit": {"words"},
    "hybrid": {"words"},
    "bit": {"attention", "words", "rollout", "distance", "positions", "rank"},
    "registers, no head": {"words", "relevance", "gradcam", "faithfulness"},
    "BEiT": {"words", "positions"},
    "DINOv3": {"words", "positions", "relevance", "gradcam", "faithfulness"},
    "EVA-02": {"words"},
    "AIMv2": {"attention", "words"},
    "CLIP": {"words"},
    "tnt": set(),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90, 3)), ("b.jpg", (120, 70, 3))):
        pixels = generator.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def saved(folder: Path, config: ModelConfig) -> Path:
    model = build_model(config)
    randomise(model)
    classes = tuple("abcdefg") if config.num_classes else ()
    vt.save(folder / "model", model, PREPROCESS, classes=classes)
    return folder / "model"


@pytest.mark.parametrize("name", MODELS)
def test_everything_at_once(tmp_path, photos, capsys, name):
    model = saved(tmp_path, MODELS[name])
    out = tmp_path / "out"
    assert main(["inspect", str(model), str(photos), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    about = json.loads((out / "figures.json").read_text())
    assert set(about["skipped"]) == CANNOT[name]
    for view, reason in about["skipped"].items():
        assert f"{view}: {reason}" in printed
        assert reason.endswith(".")
    assert about["figures"]
    for file, alt in about["figures"].items():
        with Image.open(out / file) as picture:
            assert min(picture.size) > 100
        assert len(alt) > 30
    arrays = {file.stem for file in out.glob("*.npz")}
    shown = {file.split("-")[0].removesuffix(".png") for file in about["figures"]}
    assert arrays == shown
    for file in out.glob("*.npz"):
        with np.load(file) as stored:
            names = [Path(str(path)).name for path in stored["files"]]
            assert names == ["a.png", "b.jpg"]
            assert all(
                np.isfinite(stored[key]).all() for key in stored if key != "files"
            )
    assert printed.splitlines()[-1].startswith("next: vitral inspect ")


def test_the_arrays_are_those_of_the_room(tmp_path, photos):
    model_folder = saved(tmp_path, MODELS["vit"])
    out = tmp_path / "out"
    words = ["inspect", str(model_folder), str(photos), "--out", str(out)]
    assert main([*words, "--class", "c"]) == 0
    model, preprocess, _ = vt.load(model_folder)
    pixels = torch.stack([preprocess(photos / name) for name in ("a.png", "b.jpg")])
    with np.load(out / "rollout.npz") as stored:
        assert np.array_equal(stored["rollout"], vt.inspection.rollout(model, pixels))
    with np.load(out / "relevance.npz") as stored:
        wanted = vt.inspection.relevance(model, pixels, 2)
        assert np.allclose(stored["relevance"], wanted, rtol=0, atol=1e-6)
    with np.load(out / "distance.npz") as stored:
        wanted = vt.inspection.attention_distance(model, pixels)
        assert np.allclose(stored["attention_distance"], wanted, rtol=1e-5)
    with np.load(out / "attention.npz") as stored:
        assert stored["class_attention"].shape == (2, 3, 3, 5)


def test_one_view_as_pdf_at_another_size(tmp_path, photos, capsys):
    model = saved(tmp_path, MODELS["vit"])
    out = tmp_path / "out"
    words = ["inspect", str(model), str(photos / "a.png"), "--out", str(out)]
    words += ["--what", "rollout", "--format", "pdf", "--image-size", "80", "112"]
    assert main(words) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "figures.json",
        "rollout.npz",
        "rollout.pdf",
    ]
    assert (out / "rollout.pdf").read_bytes().startswith(b"%PDF")
    first = (out / "rollout.pdf").read_bytes()
    with np.load(out / "rollout.npz") as stored:
        assert stored["rollout"].shape == (1, 5, 7)
    assert main(words) == 0
    assert (out / "rollout.pdf").read_bytes() == first


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["{model}", "{none}"], 2, "No image at "),
        (["{model}", "{empty}"], 2, "No image at "),
        (["{model}", "{text}"], 3, "None of 1 files is a readable picture; "),
        (["{none}", "{photo}"], 4, "No weights at "),
        (["{model}", "{photo}", "--class", "z"], 2, "no class `z`; it has a, b, c, d"),
        (["{model}", "{photo}", "--class", "7"], 2, "The model has no class `7`"),
        (["{model}", "{photo}", "--image-size", "8"], 2, "multiple of `patch_size`"),
        (["{model}", "{photo}", "--image-size", "1", "2", "3"], 2, "got 3 numbers"),
        (
            ["{model}", "{photo}", "--what", "attention", "--layer", "5"],
            2,
            "layer",
        ),
        (["{bit}", "{photo}", "--what", "rollout"], 2, "grad_cam"),
        (["{model}", "{photo}", "--what", "everything"], 2, "invalid choice"),
        (["{model}", "{photo}", "--waht", "all"], 2, "Did you mean --what"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(
    tmp_path, photos, capsys, words, code, sentence
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("Dear Sir")
    places = {
        "model": saved(tmp_path, MODELS["vit"]),
        "none": tmp_path / "none",
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.png",
        "photo": photos / "a.png",
        "bit": "",
    }
    if "{bit}" in words:
        places["bit"] = saved(tmp_path / "bit", MODELS["bit"])
    filled = [word.format(**places) for word in words]
    out = tmp_path / "out"
    assert main(["inspect", *filled, "--out", str(out)]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(out.glob("*.png"))


def test_a_file_that_is_no_picture_is_named_and_the_rest_is_shown(
    tmp_path, photos, capsys
):
    (tmp_path / "text.png").write_text("Dear Sir")
    model = saved(tmp_path, MODELS["vit"])
    words = ["inspect", str(model), str(photos / "a.png"), str(tmp_path / "text.png")]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--what", "rollout"]) == 3
    error = capsys.readouterr().err
    assert f"unreadable: {tmp_path / 'text.png'}: " in error
    assert "1 files could not be read; the rest was looked at." in error
    assert (out / "rollout.png").is_file()


def test_every_view_has_a_word_in_the_documents():
    page = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text()
    for view in FIGURES:
        assert f"`{view}`" in page


def test_images_of_two_channels_have_no_coloured_filters():
    subject = InspectionInput(
        model=tiny_vit(in_chans=2),
        preprocess=PREPROCESS,
        classes=(),
        names=("a",),
        pixels=torch.zeros(1, 3, 48, 80),
    )
    with pytest.raises(vt.ConfigError, match="2 channels, so its filters have no col"):
        list(FIGURES["filters"](subject))
