"""vitral.data.preprocess: what a model's input is, asked of one object."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitral import data
from vitral.data import Preprocess, Sampling, input_kind
from vitral.data.video import clip_from_array
from vitral.errors import ConfigError, DataError, ImageError
from vitral.models import get_config

SOURCE = Path(__file__).parents[1] / "src" / "vitral"
WORDS = re.compile(r"\b(num_frames|sampling)\b")
ALLOWED = (
    "models/",
    "data/video/",
    "data/preprocess.py",
    # Fields of published configs, and of the model that image weights start.
    "weights/layouts/facebook/timesformer.py",
    "weights/layouts/huggingface/timesformer.py",
    "weights/layouts/huggingface/fields.py",
    "weights/inflate_video.py",
    # What a file of ours says of its model.
    "weights/file_metadata.py",
    # The help of `--set` names a field of each.
    "cli/verbs/train.py",
)
"""Files and rooms that know whether a model takes images or clips."""


def find_words(source: Path) -> list[str]:
    lines = []
    for file in sorted(source.rglob("*.py")):
        name = file.relative_to(source).as_posix()
        if name.startswith(ALLOWED):
            continue
        text = file.read_text(encoding="utf-8")
        lines += [
            f"{name}:{number}: {match[0]}"
            for number, line in enumerate(text.splitlines(), 1)
            if (match := WORDS.search(line))
        ]
    return lines


def test_images_or_clips_is_known_in_one_place():
    assert len(list(SOURCE.rglob("*.py"))) > 50
    assert find_words(SOURCE) == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("serve/a.py", "if run.preprocess.sampling:", ["serve/a.py:1: sampling"]),
        ("cli/a.py", "\nconfig.num_frames", ["cli/a.py:2: num_frames"]),
        ("cli/a.py", "resampling = read_num_frames()", []),
        ("models/a/b.py", "config.num_frames", []),
    ],
)
def test_the_check_can_fail(tmp_path, name, text, lines):
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert find_words(tmp_path) == lines


CLIPS = Preprocess(image_size=(6, 8), resize="crop", sampling=Sampling(frames=4))
VIEWS = CLIPS.with_views("2x3")
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), np.uint8)


def test_the_shape_of_a_model_says_the_kind():
    image, clip = (get_config(name) for name in ("vit_ti16", "timesformer_ti16"))
    assert (image.input_shape, clip.input_shape) == ((3, 224, 224), (8, 3, 224, 224))
    assert input_kind(image.input_shape) == "images"
    assert input_kind(clip.input_shape) == "clips"
    assert (image.num_patches, clip.num_patches) == (14 * 14, 8 * 14 * 14)
    assert image.describe_input() == "224 x 224 pixels"
    assert clip.describe_input() == "8 frames of 224 x 224 pixels"
    assert Preprocess().for_input(image.input_shape) == Preprocess()
    for_clips = Preprocess().for_input(clip.input_shape, {"crop_fraction": 0.5})
    assert for_clips == Preprocess(crop_fraction=0.5, sampling=Sampling(frames=8))
    # Other fields of the choice stay, the frames are the model's.
    assert VIEWS.for_input((2, 3, 6, 8)).sampling == Sampling(
        frames=2, clips=2, crops=3
    )


@pytest.mark.parametrize(
    ("preprocess", "kind", "noun", "size", "threads"),
    [
        (Preprocess(), "images", "picture", 32, 7),
        (CLIPS, "clips", "clip", 64, 1),  # 32 * 8 / 4
        (VIEWS, "clips", "clip", 10, 1),  # 32 * 8 / (4 * 2 * 3)
    ],
)
def test_what_is_counted(preprocess, kind, noun, size, threads):
    assert (preprocess.kind, preprocess.noun) == (kind, noun)
    assert preprocess.batch_size() == size
    assert preprocess.reader_threads(7) == threads


def test_one_view_of_a_clip_has_the_times_of_its_own_frames():
    # The middle of each quarter of ten frames: 1.25, 3.75, 6.25 and 8.75.
    chosen = [1, 3, 6, 8]
    expected = torch.from_numpy(PIXELS[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
    view = VIEWS.first_view(clip_from_array(PIXELS))
    single = CLIPS.load(PIXELS)
    assert torch.equal(single, CLIPS.load_view(PIXELS).pixels)
    torch.testing.assert_close(single, expected, atol=1e-6, rtol=0)
    (times,) = CLIPS.load_view(PIXELS).frame_times
    assert times.labels == tuple(f"frame {index}" for index in chosen)
    assert times.seconds == pytest.approx([index / 30 for index in chosen])
    # Of several views the one in the middle of the clip, not the first of two.
    assert torch.equal(view.pixels, single)
    assert view.frame_times == (times,)
    assert VIEWS.load(PIXELS).shape == (6, 4, 3, 6, 8)


def test_an_image_has_one_view_without_times():
    preprocess = Preprocess(image_size=(6, 8))
    image = Image.fromarray(PIXELS[0])
    pixels, times = preprocess.first_view(image)
    assert times == ()
    assert torch.equal(pixels, preprocess(image))
    assert torch.equal(pixels, preprocess.load_view(image).pixels)


def test_a_person_sees_frames_side_by_side():
    strip = np.asarray(CLIPS.picture(CLIPS.load(PIXELS)))
    assert np.array_equal(strip, np.concatenate(PIXELS[[1, 3, 6, 8]], axis=1))
    preprocess = Preprocess(image_size=(6, 8))
    shown = preprocess.picture(preprocess.load(PIXELS[0]))
    assert np.array_equal(np.asarray(shown), PIXELS[0])


def test_the_other_kind_is_refused(tmp_path):
    Preprocess().require_images("unused")
    with pytest.raises(ConfigError, match=r"^Give pictures\.$"):
        CLIPS.require_images("Give pictures.")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            np.savez(tmp_path / name / f"{number}.npz", frames=PIXELS)
    with pytest.raises(ImageError, match="it is a clip, but the model takes single"):
        Preprocess().load(tmp_path / "a" / "0.npz")
    assert data.open(tmp_path).kind == "clips"
    assert data.open(tmp_path, kind="clips").kind == "clips"
    with pytest.raises(DataError) as caught:
        data.open(tmp_path, kind="images")
    assert str(caught.value) == (
        f"{tmp_path} holds clips, such as a/0.npz, but the model takes single images. "
        "Choose a video model, such as `model=timesformer_s16`, or give images."
    )
