"""`vitral inspect` of a video model: strips, GIFs, arrays, and how it says no."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
from clip_files import write_folder, write_npz, write_video
from helpers import TINY, randomise, tiny_vit
from vitral.cli import main
from vitral.data import Preprocess, Sampling, clip_views, open_clip
from vitral.data.video import decoder_client
from vitral.models import TimeSformerConfig, build_model

FRAMES = 4
SAMPLING = Sampling(frames=FRAMES, clips=3)
PREPROCESS = Preprocess(image_size=(48, 80), sampling=SAMPLING)
CANNOT = {"words", "distance", "rank", "faithfulness"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mp4", 30)
    write_npz(folder / "b.npz", 9)
    write_folder(folder / "c", 5)
    yield folder
    decoder_client.close()


def saved(folder: Path, **changes) -> Path:
    model = build_model(TimeSformerConfig(**{**TINY, "num_frames": FRAMES, **changes}))
    randomise(model)
    classes = tuple("abcdefg") if model.config.num_classes else ()
    vt.save(folder / "model", model, PREPROCESS, classes=classes)
    return folder / "model"


@pytest.mark.parametrize(
    ("changes", "cannot"),
    [
        ({}, set()),
        ({"attention_type": "space", "num_classes": 0}, {"relevance", "gradcam"}),
        (
            {"attention_type": "axial", "class_token": False, "global_pool": "avg"},
            {"attention"},
        ),
    ],
    ids=["divided", "space, no head", "axial, mean"],
)
def test_everything_at_once(tmp_path, clips, capsys, changes, cannot):
    model, out = saved(tmp_path, **changes), tmp_path / "out"
    names = [clips / "a.mp4", clips / "b.npz", clips / "c"]
    assert main(["inspect", str(model), *map(str, names), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    about = json.loads((out / "figures.json").read_text())
    assert set(about["skipped"]) == CANNOT | cannot
    for view, reason in about["skipped"].items():
        assert f"{view}: {reason}" in printed
        assert reason.endswith(".")
    for file, alt in about["figures"].items():
        with Image.open(out / file) as picture:
            assert min(picture.size) > 100
        assert len(alt) > 30
    assert {f"rollout-{i}.{kind}" for i in range(3) for kind in ("png", "gif")} <= set(
        about["figures"]
    )
    for file in out.glob("*.npz"):
        with np.load(file) as stored:
            assert [str(name) for name in stored["files"]] == list(map(str, names))
    assert printed.splitlines()[-1].startswith("next: vitral inspect ")
    assert "CLIPS --what relevance" in printed


def test_the_arrays_are_those_of_the_room(tmp_path, clips):
    folder, out = saved(tmp_path), tmp_path / "out"
    words = ["inspect", str(folder), str(clips), "--out", str(out), "--class", "c"]
    assert main(words) == 0
    model, _, _ = vt.load(folder)
    one = Preprocess(image_size=(48, 80), sampling=Sampling(frames=FRAMES))
    opened = [open_clip(clips / name) for name in ("a.mp4", "b.npz", "c")]
    pixels = torch.stack([clip_views(one, clip)[0] for clip in opened])
    with np.load(out / "rollout.npz") as stored:
        wanted = vt.inspection.rollout(model, pixels)
        np.testing.assert_allclose(stored["rollout"], wanted, atol=1e-5)
        assert stored["rollout"].shape == (3, FRAMES, 3, 5)
        # The middle of each of four parts of 30 frames, 25 a second.
        assert stored["seconds"][0] == pytest.approx([0.12, 0.44, 0.72, 1.04], abs=0.05)
    with np.load(out / "relevance.npz") as stored:
        wanted = vt.inspection.relevance(model, pixels, 2)
        np.testing.assert_allclose(stored["relevance"], wanted, atol=1e-4)
        assert stored["grad_cam"].shape == (3, FRAMES, 3, 5)
    with np.load(out / "attention.npz") as stored:
        assert stored["class_attention"].shape == (3, 3, FRAMES, 3, 5)
    with np.load(out / "features.npz") as stored:
        assert stored["colours"].shape == (3, FRAMES, 3, 5, 3)
    alts = json.loads((out / "figures.json").read_text())["figures"]
    assert "4 frames of a clip, 0." in alts["rollout-0.png"]
    # A folder of frames keeps no time.
    assert "4 frames of a clip, frame 0 to frame 4" in alts["rollout-2.png"]


def test_a_pdf_and_a_gif_repeat(tmp_path, clips):
    model, found = saved(tmp_path), []
    for name in ("one", "two"):
        out = tmp_path / name
        words = ["inspect", str(model), str(clips / "b.npz"), "--out", str(out)]
        assert main([*words, "--what", "rollout", "--format", "pdf"]) == 0
        files = sorted(out.iterdir())
        assert [file.name for file in files] == [
            "figures.json",
            "rollout-0.gif",
            "rollout-0.pdf",
            "rollout.npz",
        ]
        found.append([file.read_bytes() for file in files[:3]])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["{video}", "{image}"],
            3,
            "readable clip; {image}: it is an image, but the m",
        ),
        (["{vit}", "{clip}"], 3, "it is a clip, but the model takes single images"),
        (["{video}", "{empty}"], 2, "No clip at "),
        (["{video}", "{clip}", "--what", "faithfulness"], 2, "hide patches of images"),
        (["{video}", "{clip}", "--what", "distance"], 2, "attends in space and time"),
        (["{video}", "{clip}", "--what", "rank"], 2, "has steps in space and time"),
        (["{video}", "{clip}", "--what", "words"], 2, "no words within its patches"),
        (
            ["{video}", "{clip}", "--what", "attention", "--layer", "0"],
            2,
            "takes no part in layer 0",
        ),
    ],
    ids=[*map(str, range(8))],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path, clips, capsys, words, code, sentence
):
    (tmp_path / "empty").mkdir()
    vit = tiny_vit().float()
    plain = Preprocess(image_size=(48, 80))
    vt.save(tmp_path / "vit", vit, plain, classes=tuple("abcdefg"))
    places = {
        "video": saved(tmp_path) if "{video}" in words else "",
        "vit": tmp_path / "vit",
        "clip": clips / "b.npz",
        "image": clips / "c" / "1.png",
        "empty": tmp_path / "empty",
    }
    filled = [word.format(**places) for word in words]
    out = tmp_path / "out"
    assert main(["inspect", *filled, "--out", str(out)]) == code
    error = capsys.readouterr().err
    assert sentence.format(**places) in error
    assert error.count("\n") == 1
    assert not list(out.glob("*.png"))


def test_an_image_among_clips_is_named_and_the_rest_is_shown(tmp_path, clips, capsys):
    model, out = saved(tmp_path), tmp_path / "out"
    words = ["inspect", str(model), str(clips / "b.npz"), str(clips / "c" / "1.png")]
    assert main([*words, "--out", str(out), "--what", "rollout"]) == 3
    error = capsys.readouterr().err
    assert "1.png: it is an image, but the model takes clips" in error
    assert (out / "rollout-0.png").is_file()
