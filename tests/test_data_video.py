"""Clips: the right frames from every kind of file, and a sentence for a bad one."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitral.data as data
from clip_files import (
    HEIGHT,
    WIDTH,
    drawn,
    number_in,
    write_folder,
    write_npz,
    write_sound,
    write_video,
)
from vitral.data import AugmentConfig, MixConfig, Preprocess, Sampling
from vitral.data.augmentation.mixup import mix
from vitral.data.dataset import ClipReader
from vitral.data.example import Example
from vitral.data.rng import generator_for
from vitral.data.split import apply, save
from vitral.data.targets import blend_with_previous
from vitral.data.video import decoder_client, open_clip
from vitral.errors import ConfigError, DataError, ImageError, MissingExtraError

pytestmark = pytest.mark.usefixtures("stopped_decoder")

GAPS = np.random.default_rng(3).integers(10, 300, 60)
UNEVEN = [int(ms) for ms in np.cumsum(GAPS) - GAPS[0]]
"""Milliseconds at which the frames of a variable-rate clip begin."""

X264 = {"g": "24", "bf": "3"}
FILES = {
    "constant.mp4": {**X264},
    "uneven.mp4": {**X264, "milliseconds": UNEVEN},
    "open_gop.mp4": {"g": "15", "bf": "3", "x264-params": "open-gop=1"},
    "constant.mkv": {"g": "40", "bf": "2"},
    "uneven.mkv": {**X264, "milliseconds": UNEVEN},
    "constant.mov": {**X264},
    "uneven.webm": {"codec": "libvpx-vp9", "g": "30", "milliseconds": UNEVEN}
    | {"deadline": "realtime", "cpu-used": "8"},
    "hidden.webm": {"codec": "libvpx", "g": "30", "lag-in-frames": "16"}
    | {"auto-alt-ref": "1", "deadline": "good", "cpu-used": "5", "b": "40k"},
    "constant.avi": {"codec": "mpeg4", "g": "20", "bf": "2"},
    "constant.ts": {**X264},
    "constant.mpg": {"codec": "mpeg2video", "g": "15", "bf": "2"},
    "one_key.mp4": {"g": "999", "bf": "3", "sound": True},
    "all_keys.mp4": {"g": "1"},
}


@pytest.mark.parametrize("name", FILES)
def test_every_frame_that_is_asked_for_is_the_right_one(tmp_path, name):
    options = FILES[name]
    write_video(tmp_path / name, 60, **options)
    clip = open_clip(tmp_path / name)
    uneven = options.get("milliseconds")
    seconds = np.array(uneven) / 1000 if uneven else np.arange(60) / 25
    assert len(clip) == 60
    np.testing.assert_allclose(clip.times, seconds, atol=2e-3)
    generator = np.random.default_rng(0)
    asked = [[0], [59], [58, 3, 58], list(range(60))]
    asked += [generator.integers(0, 60, 5).tolist() for _ in range(8)]
    for numbers in asked:
        frames = clip.read(numbers)
        assert [number_in(frame) for frame in frames] == numbers
        assert {frame.size for frame in frames} == {(WIDTH, HEIGHT)}


def test_a_frame_is_the_same_bits_however_it_was_reached(tmp_path):
    write_video(tmp_path / "a.mp4", 60, **X264)
    clip = open_clip(tmp_path / "a.mp4")
    whole = [frame.tobytes() for frame in clip.read(range(60))]
    for number in (0, 23, 24, 25, 47, 48, 59):
        assert clip.read([number])[0].tobytes() == whole[number]


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_a_clip_is_turned_as_a_player_turns_it(tmp_path, turn):
    write_video(tmp_path / "a.mp4", 5, rotation=turn)
    frame = np.asarray(open_clip(tmp_path / "a.mp4").read([3])[0])
    assert frame.shape == ((HEIGHT, WIDTH, 3) if turn == 180 else (WIDTH, HEIGHT, 3))
    assert number_in(np.rot90(frame, -turn // 90)) == 3


def test_a_file_a_folder_and_an_array_give_the_same_frames(tmp_path):
    write_video(tmp_path / "a.mp4", 60, milliseconds=UNEVEN, **X264)
    file = open_clip(tmp_path / "a.mp4")
    frames = file.read(range(60))
    (tmp_path / "a").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "a" / f"frame {number}.png")
    pixels = np.stack([np.asarray(frame) for frame in frames])
    np.savez(tmp_path / "a.npz", pixels, times=np.array(UNEVEN) / 1000 + 7)
    folder, array = open_clip(tmp_path / "a"), open_clip(tmp_path / "a.npz")
    np.testing.assert_allclose(array.times - 7, file.times, atol=1e-9)
    np.testing.assert_allclose(folder.times, np.arange(60) / 30)
    preprocess = Preprocess(image_size=(32, 40), sampling=Sampling(frames=5, clips=2))
    counted = replace(preprocess, sampling=Sampling(frames=5, clips=2, kind="segments"))
    seen = data.clip_views(preprocess, file)
    assert seen.shape == (2, 5, 3, 32, 40)
    assert torch.equal(seen, data.clip_views(preprocess, array))
    seen = data.clip_views(counted, file)
    assert torch.equal(seen, data.clip_views(counted, folder))
    assert torch.equal(seen, data.clip_views(counted, array))
    train = data.training_transform(AugmentConfig(crop="inception"), counted, 0)
    assert torch.equal(train(file, "x", 3), train(folder, "x", 3))


def test_frames_are_preprocessed_as_images_are(tmp_path):
    write_npz(tmp_path / "a.npz", 9)
    preprocess = Preprocess(
        image_size=(30, 34), resize="crop", antialias=True, crop_fraction=0.8
    )
    clips = replace(preprocess, sampling=Sampling(frames=3))
    views = data.clip_views(clips, open_clip(tmp_path / "a.npz"))
    assert [number_in((f.permute(1, 2, 0) + 1) / 2 * 255) for f in views[0]] == [
        number_in((preprocess(drawn(n)).permute(1, 2, 0) + 1) / 2 * 255)
        for n in (1, 4, 7)
    ]
    for place, number in enumerate((1, 4, 7)):
        assert torch.equal(views[0, place], preprocess(drawn(number)))


def test_the_crops_are_the_ends_of_the_longer_side_and_its_middle(tmp_path):
    write_npz(tmp_path / "a.npz", 4)
    sampling = Sampling(frames=2, clips=2, crops=3)
    preprocess = Preprocess(image_size=(24, 16), resize="crop", sampling=sampling)
    views = data.clip_views(preprocess, open_clip(tmp_path / "a.npz"))
    # 48 x 80 becomes 24 x 40: three windows of 16 pixels begin at 0, 12 and 24.
    assert views.shape == (6, 2, 3, 24, 16)
    plain = Preprocess(image_size=(24, 40))
    # Two views of two parts of two frames: each part's quarters.
    chosen = [[0, 2], [1, 3]]
    for view, numbers in enumerate(chosen):
        for crop, left in enumerate((0, 12, 24)):
            for place, number in enumerate(numbers):
                whole = plain(drawn(number))
                assert torch.equal(
                    views[3 * view + crop, place], whole[:, :, left : left + 16]
                )
    with pytest.raises(ConfigError, match=r"crops` 3 needs frames that are wider"):
        Preprocess(sampling=sampling)


# ---------------------------------------------------------------- choice of frames


def test_the_official_choices():
    even = np.arange(300) / 30
    dense = Sampling(kind="dense", frames=8, stride=32.0, first="start")
    assert dense.sample_evaluation(even).tolist() == [
        [0, 36, 72, 109, 145, 182, 218, 255]
    ]
    segments = Sampling(kind="segments", frames=8)
    assert segments.sample_evaluation(np.arange(40) / 12).tolist() == [
        [2, 7, 12, 17, 22, 26, 31, 36]
    ]
    # 300 - 256 = 44 frames are to spare; the middle begins at 22.
    middle = replace(dense, first="middle")
    assert middle.sample_evaluation(even).tolist() == [
        [22, 58, 94, 131, 167, 204, 240, 277]
    ]
    several = replace(dense, clips=2).sample_evaluation(even)
    assert several[:, 0].tolist() == [0, 22]


def test_uniform_goes_by_the_time_and_not_by_the_number():
    # 1 s of still picture, then frames every 0.1 s; the last lasts 0.1 s as well.
    times = np.array([0.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    # 1.6 s in 4 parts of 0.4 s: centres 0.2, 0.6, 1.0, 1.4.
    uniform = Sampling(frames=4)
    assert uniform.sample_evaluation(times).tolist() == [[0, 0, 1, 5]]
    assert uniform.sample_evaluation(times + 5).tolist() == [[0, 0, 1, 5]]
    # 7 frames in 4 parts: edges round(1.5 i) = 0, 2, 3, 4, 6.
    by_number = Sampling(frames=4, kind="segments")
    assert by_number.sample_evaluation(times).tolist() == [[1, 2, 3, 5]]
    # 16 steps of 0.1 s, 4 frames 2 apart: 8 steps, 8 to spare, from step 4 on.
    dense = Sampling(frames=4, kind="dense", stride=2.0, fps=10.0)
    assert dense.sample_evaluation(times).tolist() == [[0, 0, 0, 2]]
    own = Sampling(frames=3, kind="dense", stride=2.0, fps=0.0)
    assert own.sample_evaluation(times).tolist() == [[0, 3, 5]]


@pytest.mark.parametrize(
    ("number", "kind", "expected"),
    [
        (1, "uniform", [0] * 8),
        (1, "segments", [0] * 8),
        (1, "dense", [0] * 8),
        (3, "uniform", [0, 0, 0, 1, 1, 2, 2, 2]),
        (3, "segments", [0, 0, 0, 1, 1, 1, 2, 2]),
        (3, "dense", [0, 2, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_a_clip_that_is_too_short_repeats_frames(number, kind, expected):
    sampling = Sampling(kind=kind, stride=2.5)
    assert sampling.sample_evaluation(np.arange(number) / 30).tolist() == [expected]
    drawn_ = sampling.sample_training(np.arange(number) / 30, generator_for("short", 1))
    assert drawn_.shape == (8,)
    assert drawn_.min() >= 0
    assert drawn_.max() < number


@pytest.mark.parametrize("kind", ["uniform", "segments", "dense"])
def test_training_draws_from_every_part(kind):
    times = np.arange(41) / 30
    sampling = Sampling(frames=4, kind=kind, stride=5.0)
    chosen = np.stack(
        [sampling.sample_training(times, generator_for("t", k)) for k in range(400)]
    )
    assert (np.diff(chosen, axis=1) >= 0).all()
    if kind == "dense":
        # A span of 20 frames begins anywhere in 0..21.
        assert set(chosen[:, 0].tolist()) == set(range(21))
        steps = set((chosen[:, 1:] - chosen[:, :-1]).reshape(-1).tolist())
        assert steps <= {6, 7}  # linspace over 19 steps, rounded down
        return
    edges = [0, 10.25, 20.5, 30.75, 41] if kind == "uniform" else [0, 10, 20, 30, 40]
    for part in range(4):
        low, high = edges[part], edges[part + 1]
        last = int(high) if kind == "segments" or high % 1 else int(high) - 1
        assert set(chosen[:, part].tolist()) == set(range(int(low), last + 1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": 0}, r"`Sampling.frames` must be a number of at least 1: got 0"),
        ({"frames": True}, r"`Sampling.frames` must be a number of at least 1"),
        ({"kind": "random"}, r"must be 'uniform', 'segments' or 'dense': got 'random'"),
        ({"stride": 0.0}, r"`Sampling.stride` must be a number above 0: got 0.0"),
        ({"fps": -1.0}, r"`Sampling.fps` must be 0 or a number above 0"),
        ({"clips": 0}, r"`Sampling.clips` must be a number of at least 1"),
        ({"crops": 2}, r"`Sampling.crops` must be 1 or 3: got 2"),
        ({"first": "end"}, r"`Sampling.first` must be 'middle' or 'start'"),
        ({"rate": 4}, r"Sampling has no field 'rate'; expected some of frames, kind"),
    ],
)
def test_settings_that_are_not_allowed(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Sampling.from_dict(changes)
    with pytest.raises(ConfigError, match=sentence):
        Preprocess.from_dict({"sampling": changes})


def test_the_sampling_travels_and_leaves_the_hashes_of_images_alone():
    assert Preprocess().hash == "f11c94ac659a8341"
    assert "sampling" not in Preprocess().to_dict()
    with_clips = Preprocess(sampling=Sampling(frames=3, kind="dense", stride=4.0))
    assert Preprocess.from_dict(with_clips.to_dict()) == with_clips
    other = replace(with_clips, sampling=Sampling(frames=3, kind="dense", stride=5.0))
    assert len({Preprocess().hash, with_clips.hash, other.hash}) == 3


# ---------------------------------------------------------------- training


EVERYTHING = AugmentConfig(
    crop="inception",
    crop_area=(0.3, 1.0),
    flip=0.5,
    shift=0.1,
    rotate=20.0,
    rand_augment=2,
    color_jitter=0.4,
    random_erasing=0.5,
)


@pytest.mark.parametrize(
    "config",
    [EVERYTHING, AugmentConfig(dihedral=True, policy="auto")],
    ids=["everything", "dihedral"],
)
def test_what_is_drawn_is_drawn_once_for_a_clip(tmp_path, config):
    noise = np.random.default_rng(5).integers(0, 256, (1, 30, 34, 3), np.uint8)
    np.savez(tmp_path / "still.npz", noise.repeat(4, 0))
    preprocess = Preprocess(image_size=(24, 20), sampling=Sampling(frames=4))
    train = data.training_transform(config, preprocess, 1)
    still = open_clip(tmp_path / "still.npz")
    views = [train(still, "a", epoch) for epoch in range(6)]
    for view in views:
        assert torch.equal(view, view[:1].expand_as(view))
    assert len({view.numpy().tobytes() for view in views}) == 6
    image = data.training_transform(config, replace(preprocess, sampling=None), 1)
    assert torch.equal(views[2][0], image(still.read([0])[0], "a", 2))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "clips"
    for place, name in enumerate(("up", "down")):
        for number in range(4):
            write_npz(root / name / f"{number}.npz", 20, first=400 * place + number)
    write_video(root / "up" / "4.mp4", 20, first=90, **X264)
    write_folder(root / "down" / "take 1", 12, first=500)
    return root


def test_batches_are_the_same_for_any_number_of_workers(folder):
    dataset = data.open(folder, kind="clips", val=0, test=0)
    preprocess = Preprocess(image_size=(16, 24), sampling=Sampling(frames=3))
    loaders = [
        data.Loader(
            dataset=dataset,
            examples=dataset.examples,
            transform=data.training_transform(EVERYTHING, preprocess, 2),
            batch_size=4,
            shuffle=True,
            workers=workers,
            mix=MixConfig(mixup=0.5, cutmix=0.5),
        )
        for workers in (0, 2)
    ]
    one, other = (list(loader.epoch(1)) for loader in loaders)
    assert [batch.image.shape for batch in one] == [
        (4, 3, 3, 16, 24),
        (4, 3, 3, 16, 24),
        (2, 3, 3, 16, 24),
    ]
    for left, right in zip(one, other, strict=True):
        assert left.id == right.id
        assert torch.equal(left.image, right.image)
        assert torch.equal(left.target.shares, right.target.shares)
    again = list(loaders[0].epoch(2))
    assert not torch.equal(one[0].image, again[0].image)


def test_clips_mix_alike_in_all_frames():
    clips = torch.randn(2, 3, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    target = torch.eye(2)
    for seed in range(3):
        cut = mix(
            clips,
            target,
            MixConfig(cutmix=1.0),
            generator_for("m", seed),
            blend_with_previous,
        )
        foreign = (cut.image != clips).any(2)
        assert torch.equal(foreign, foreign[:, :1].expand_as(foreign))
        share = 1 - foreign[0, 0].float().mean().item()
        assert cut.weight == pytest.approx(share)
        assert cut.target[0, 0].item() == pytest.approx(cut.weight)
    blend = mix(
        clips, target, MixConfig(mixup=1.0), generator_for("m", 0), blend_with_previous
    )
    expected = blend.weight * clips + (1 - blend.weight) * clips.flip(0)
    torch.testing.assert_close(blend.image, expected)


# ---------------------------------------------------------------- finding clips


def test_a_folder_of_clips_works_like_a_folder_of_images(folder):
    (folder / "notes.txt").write_text("x")
    (folder / "up" / "poster.jpg").write_bytes(b"x")
    dataset = data.open(folder, kind="clips", val=0, test=0)
    assert dataset.kind == "clips"
    assert dataset.classes == ("down", "up")
    assert [example.id for example in dataset.examples] == [
        *(f"down/{number}.npz" for number in range(4)),
        "down/take 1",
        *(f"up/{number}.npz" for number in range(4)),
        "up/4.mp4",
    ]
    reasons = {item.path: item.reason for item in dataset.ignored}
    assert reasons["up/poster.jpg"] == "not a clip by its extension"
    found = data.check(dataset, workers=2)
    assert (found.decoded, found.median_size) == (10, (48, 80))
    strip = dataset.decode(dataset.examples[4])
    # Twelve frames in eight parts: the middle of each.
    assert strip.frames == 8
    assert strip.image.size == (8 * WIDTH, HEIGHT)
    shown = [
        number_in(strip.image.crop((i * WIDTH, 0, (i + 1) * WIDTH, HEIGHT)))
        for i in range(8)
    ]
    assert shown == [500, 502, 503, 505, 506, 508, 509, 511]


def test_without_a_word_clips_are_taken_only_where_no_image_is(folder, tmp_path):
    (folder / "down" / "take 1").rename(tmp_path / "elsewhere")
    assert data.open(folder).kind == "clips"
    (tmp_path / "elsewhere").rename(folder / "down" / "take 1")
    with pytest.raises(DataError, match="holds one class only, 'down'"):
        data.open(folder)
    assert {e.split for e in data.open(folder, kind="clips").examples} <= {
        "train",
        "val",
        "test",
    }


def test_images_for_a_video_model(tmp_path):
    for name in ("cat", "dog"):
        write_folder(tmp_path / "images" / name, 3)
    with pytest.raises(
        DataError,
        match=r"holds images, such as cat/1.png, but a video model needs clips: video "
        r"files, .npz files, or a folder of frames for each clip, as in "
        r"ROOT/cat/clip1/0001.jpg. Choose a model of images, or give clips",
    ):
        data.open(tmp_path / "images", kind="clips")
    with pytest.raises(DataError, match="digits holds images, but a video model"):
        data.open("digits", kind="clips")


def test_without_pyav(folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vitral\[video\]'"):
        data.open(folder, kind="clips")
    (folder / "up" / "4.mp4").unlink()
    assert len(data.open(folder, kind="clips").examples) == 9


def write_table(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text)
    return root / "labels.csv"


def test_a_table_names_parts_of_files(tmp_path):
    write_video(tmp_path / "long.mp4", 60, **X264)
    write_npz(tmp_path / "short.npz", 10, fps=np.array(5.0))
    table = write_table(
        tmp_path,
        "path,label,start,end\nlong.mp4,up,0.4,1\nlong.mp4,down,1,\n"
        "short.npz,up,,0.6\nshort.npz,down,,\n",
    )
    dataset = data.open(table, val=0, test=0)
    assert [(e.id, e.span, e.group) for e in dataset.examples] == [
        ("long.mp4#t=0.4,1", (0.4, 1.0), "long.mp4"),
        ("long.mp4#t=1,", (1.0, np.inf), "long.mp4"),
        ("short.npz#t=0,0.6", (0.0, 0.6), "short.npz"),
        ("short.npz", None, ""),
    ]
    shown = []
    for example in dataset.examples:
        clip = dataset.open(example)
        shown.append([number_in(frame) for frame in clip.read(range(len(clip)))])
    # 0.4 s at 25 frames a second is frame 10; 1 s is frame 25.
    expected = [range(10, 25), range(25, 60), range(3), range(10)]
    assert shown == [list(numbers) for numbers in expected]
    save(dataset, tmp_path / "split.csv")
    again = data.open(tmp_path / "split.csv")
    assert [(e.id, e.span) for e in again.examples] == [
        (e.id, e.span) for e in dataset.examples
    ]
    assert apply(dataset, tmp_path / "split.csv").notes == dataset.notes


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "a.npz,up,2,1",
            r"line 2, column 'start': expected seconds with 0 <= start < ",
        ),
        ("a.npz,up,x,", r"got start 'x' and end ''; correct them"),
        ("a.npz,up,-1,2", r"column 'start': expected seconds"),
        ("a.npz,up,0,1\na.npz,up,0,1", r"'a.npz#t=0,1' is already in line 2; keep one"),
        ("a.npz,up,,\n1.png,up,,", r"line 3.*'1.png' is an image where a clip is need"),
        ("1.png,up,,\na.npz,up,,", r"line 3.*'a.npz' is a clip among images; keep one"),
        ("none.mp4,up,,", r"none.mp4 is no file; correct the path or remove the row"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, rows, sentence):
    write_npz(tmp_path / "a.npz", 3)
    write_folder(tmp_path / "frames", 2)
    (tmp_path / "frames" / "1.png").rename(tmp_path / "1.png")
    table = write_table(tmp_path, f"path,label,start,end\n{rows}\n")
    with pytest.raises(DataError, match=sentence):
        data.open(table)


def test_an_image_table_for_a_video_model(tmp_path):
    write_folder(tmp_path / "x", 2)
    table = write_table(tmp_path, "path,label\nx/1.png,up\nx/2.png,down\n")
    assert data.open(table, val=0, test=0).kind == "images"
    with pytest.raises(DataError, match=r"'x/1.png' is an image where a clip is"):
        data.open(table, kind="clips")


@pytest.mark.parametrize(
    ("name", "span", "sentence"),
    [
        ("a.npz", (0.5, 0.2), "no frame lies between 0.5 and 0.2 s"),
        ("a.npz", (2.0, 3.0), "between 2 and 3 s: the clip ends at 2.000 s"),
        ("plain.npz", (0.0, 1.0), "start and end need time stamps, which a folder of"),
        ("frames", (0.0, 1.0), "start and end need time stamps"),
    ],
)
def test_spans_without_a_frame(tmp_path, name, span, sentence):
    write_npz(tmp_path / "a.npz", 10, fps=np.array(5.0))
    write_npz(tmp_path / "plain.npz", 10)
    write_folder(tmp_path / "frames", 4)
    with pytest.raises(ImageError, match=sentence):
        open_clip(tmp_path / name, span)


# ---------------------------------------------------------------- bad files


def make_bad(kind: str, path: Path) -> Path:
    """A clip that cannot be used; returns its path."""
    if kind == "noise":
        path.write_bytes(np.random.default_rng(1).bytes(3000))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "sound":
        write_sound(path)
    elif kind == "cut":
        write_video(path, 60, **X264)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif kind == "no frame folder":
        path = path.with_suffix("")
        path.mkdir()
    elif kind == "sizes":
        path = path.with_suffix("")
        write_folder(path, 3)
        from PIL import Image

        Image.fromarray(drawn(2)[:, :64]).save(path / "3.png")
    elif kind == "bad frame":
        path = path.with_suffix("")
        write_folder(path, 3)
        (path / "2.png").write_bytes(b"no image")
    else:
        path = path.with_suffix(".npz")
        arrays = {
            "floats": {"x": np.zeros((2, 4, 5, 3), np.float32)},
            "grey": {"x": np.zeros((2, 4, 5), np.uint8)},
            "no frame": {"x": np.zeros((0, 4, 5, 3), np.uint8)},
            "two arrays": {"x": drawn(0)[None], "y": drawn(1)[None]},
            "times": {"x": drawn(0)[None], "times": np.array([0.0, 1.0])},
            "falling": {
                "x": np.stack([drawn(0)] * 2),
                "times": np.array([1.0, 0.5]),
            },
            "fps": {"x": drawn(0)[None], "fps": np.array(0.0)},
            "objects": {"x": np.array([{}], dtype=object)},
        }
        np.savez(path, **arrays[kind])
    return path


BAD = {
    "noise": r"it cannot be decoded as video: Invalid data found",
    "empty": r"it cannot be decoded as video",
    "sound": r"it holds sound but no picture",
    "cut": r"the file is cut short: \d+ of 60 frames lie behind its end",
    "no frame folder": r"the folder holds no frame",
    "sizes": r"the frames differ in size: 1.png is 80 x 48 and 3.png 64 x 48 pixels",
    "bad frame": r"frame 2.png: ",
    "floats": r"array x must be uint8 \[frames, height, width, 3\]: got float32",
    "grey": r"must be uint8 \[frames, height, width, 3\]: got uint8 \[2, 4, 5\]",
    "no frame": r"its array x has no frame: got \[0, 4, 5, 3\]",
    "two arrays": r"must hold one array, or one named frames: it holds x, y",
    "times": r"array times must hold 1 rising seconds, one a frame: got \[2\]",
    "falling": r"array times must hold 2 rising seconds",
    "fps": r"its fps must be one number above 0",
    "objects": r"must be uint8 \[frames, height, width, 3\]: got object",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_clip_has_its_reason(tmp_path, kind):
    path = make_bad(kind, tmp_path / "bad.mp4")
    with pytest.raises(ImageError, match=BAD[kind]) as caught:
        open_clip(path).filmstrip()
    assert str(tmp_path) not in str(caught.value)


def test_a_big_claim_is_refused_before_it_is_unpacked(tmp_path):
    # 6 GB of zeros would be 6 MB of file; its header alone is enough.
    import io
    import zipfile

    head = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (1000, 1000, 2000, 3)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("frames.npy", head.getvalue())
    with pytest.raises(ImageError, match=r"1000 frames of 2000 x 1000 pixels are 5.6"):
        open_clip(tmp_path / "a.npz")


def test_bad_clips_are_reported_as_bad_images_are(folder):
    make_bad("noise", folder / "up" / "5.mp4")
    make_bad("sound", folder / "down" / "6.mp4")
    make_bad("sizes", folder / "down" / "7.mp4")
    dataset = data.open(folder, kind="clips", val=0, test=0)
    found = data.check(dataset, workers=2, max_bad=1.0)
    assert [
        (item.path, item.reason.split(":")[0], item.label) for item in found.bad
    ] == [
        ("down/6.mp4", "it holds sound but no picture", (0,)),
        ("down/7", "the frames differ in size", (0,)),
        ("up/5.mp4", "it cannot be decoded as video", (1,)),
    ]
    assert len(found.dataset.examples) == 10
    with pytest.raises(DataError, match="3 of 13 clips cannot be decoded, more than"):
        data.check(dataset)
    preprocess = Preprocess(image_size=(16, 24), sampling=Sampling(frames=2))
    loader = data.Loader(
        dataset=dataset,
        examples=dataset.examples,
        transform=data.evaluation_transform(preprocess),
        batch_size=7,
    )
    assert [len(batch.id) for batch in loader.epoch(0)] == [5, 5]
    assert [failure.id for failure in loader.failures] == [
        "down/6.mp4",
        "down/7",
        "up/5.mp4",
    ]


def test_copies_are_found_whatever_they_are_stored_in(tmp_path):
    write_npz(tmp_path / "train" / "up" / "a.npz", 10)
    write_npz(tmp_path / "train" / "down" / "b.npz", 10, first=5)
    write_folder(tmp_path / "test" / "down" / "c", 10)
    found = data.check(data.open(tmp_path, kind="clips", val=0))
    (leak,) = found.leaks
    assert set(leak.ids) == {"train/up/a.npz", "test/down/c"}
    assert "1 clip(s) are in more than one split with equal pixels" in found.notes[-2]


# ---------------------------------------------------------------- decoders that hang


def test_a_decoder_that_hangs_is_cut_and_named(folder):
    # Opening a pipe that nobody writes to blocks inside libav, in C, for ever.
    os.mkfifo(folder / "up" / "hang.mp4")
    dataset = data.open(folder, kind="clips", val=0, test=0)
    reasons = {item.path: item.reason for item in dataset.ignored}
    assert reasons["up/hang.mp4"] == "not a regular file"
    hanging = Example(id="up/hang.mp4", label=(1,))
    dataset = replace(
        dataset,
        examples=(*dataset.examples, hanging),
        reader=ClipReader(root=folder, timeout=1.5),
    )
    started = time.monotonic()
    loader = data.Loader(
        dataset=dataset,
        examples=dataset.examples[-3:],
        transform=data.evaluation_transform(
            Preprocess(image_size=(16, 24), sampling=Sampling(frames=2))
        ),
        batch_size=3,
    )
    (batch,) = loader.epoch(0)
    assert time.monotonic() - started < 20
    assert batch.id == ("up/3.npz", "up/4.mp4")
    assert [(failure.id, failure.reason) for failure in loader.failures] == [
        ("up/hang.mp4", "decoding took more than 1.5 seconds and was cut")
    ]
    found = data.check(dataset, max_bad=1.0)
    assert [item.path for item in found.bad] == ["up/hang.mp4"]


def test_a_decoder_that_stops_or_dies_is_replaced(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    clip = open_clip(tmp_path / "a.mp4", timeout=1.0)
    (child,) = decoder_client._idle
    os.kill(child.process.pid, signal.SIGSTOP)
    with pytest.raises(ImageError, match="took more than 1 seconds and was cut"):
        clip.read([2])
    assert child.process.returncode == -signal.SIGKILL
    assert number_in(clip.read([2])[0]) == 2
    (child,) = decoder_client._idle
    os.kill(child.process.pid, signal.SIGSEGV)
    with pytest.raises(ImageError, match=r"the video decoder died of it .exit -11."):
        clip.read([2])
    assert number_in(clip.read([3])[0]) == 3


def test_a_decoder_that_nobody_waits_for_ends_itself(tmp_path, monkeypatch):
    # As after the death of a worker whose decoder hangs: no one is left to cut it.
    os.mkfifo(tmp_path / "hang.mp4")
    program = tmp_path / "video.py"
    text = Path(decoder_client._PROGRAM).read_text()
    assert '["timeout"] + 10' in text
    program.write_text(text.replace('["timeout"] + 10', '["timeout"] + 0.5'))
    child = subprocess.Popen(
        [sys.executable, "-P", str(program)], stdin=subprocess.PIPE
    )
    asked = {"path": str(tmp_path / "hang.mp4"), "timeout": 0.5}
    child.communicate(json.dumps(asked).encode() + b"\n", timeout=20)
    assert child.returncode == -signal.SIGALRM


def test_a_reader_travels_to_a_worker(tmp_path):
    write_video(tmp_path / "a.mp4", 5)
    reader = pickle.loads(pickle.dumps(ClipReader(root=tmp_path)))
    clip = reader(Example(id="a.mp4", label=(0,)))
    assert number_in(clip.read([4])[0]) == 4


def test_a_frame_file_that_claims_too_many_pixels_is_a_bad_clip(tmp_path):
    """69 bytes of PNG that are 20000 x 20000 pixels, and a file of another format."""
    for name in ("bomb", "other"):
        folder = tmp_path / "clips" / name
        for index in range(3):
            write_png(folder / f"{index}.png", 16, 16)
        write_png(tmp_path / "clips" / f"{name}-good" / "0.png", 16, 16)
    (tmp_path / "clips/bomb/1.png").write_bytes(png_claiming(20_000, 20_000))
    Image.new("RGB", (16, 16)).save(tmp_path / "clips/other/1.png", format="TGA")
    for name, reason in (("bomb", "header claims"), ("other", "format|image")):
        with pytest.raises(ImageError, match=rf"frame 1.png: .*({reason})"):
            open_clip(tmp_path / "clips" / name).source.verify()


def write_png(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (9, 9, 99)).save(path)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(9))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_decoder_ends_with_its_parent(tmp_path):
    """Its input is open still, and it would go on until its time is over."""
    kept_in, kept_out = os.pipe()
    code = (
        "import sys, time\n"
        "from vitral.child_process import start_python\n"
        "from vitral.data.video.decoder_client import _PROGRAM\n"
        f"child = start_python([str(_PROGRAM)], stdin={kept_in})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[kept_in],
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    status = Path(f"/proc/{child}/stat")
    try:
        time.sleep(1.5)
        assert status.exists()
        assert status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    finally:
        parent.kill()
        parent.wait()
    until = time.monotonic() + 10
    while status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < until, "the decoder outlives its parent"
        time.sleep(0.05)
    parent.stdout.close()
    os.close(kept_in)
    os.close(kept_out)
