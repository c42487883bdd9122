"""Runs on clips: train, eval, predict, data check and report with a video model."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitral as vt
import vitral.weights
from clip_files import MOTIONS, make_clips, moving_square, write_sound
from helpers import captured_log
from photos import contents, make_photos, prepare_model, tiny_config
from vitral.cli import main
from vitral.data import (
    AugmentConfig,
    Preprocess,
    Sampling,
    clip_views,
    open_clip,
    split_loader,
)
from vitral.data.loading.clip_transforms import AugmentClip
from vitral.errors import ConfigError, DataError, ImageError, InterruptedRun
from vitral.models import ViT, ViTConfig, create, get_config
from vitral.workflows import TrainConfig, open_run
from vitral.workflows.dataset import open_data
from vitral.workflows.features.extract import features
from vitral.workflows.inference import tta_views
from vitral.workflows.train.frozen_cache import cache_frozen_outputs, frozen_output
from vitral.workflows.train.loaders import train_loader

pytestmark = pytest.mark.usefixtures("stopped_decoder", "no_report")

CPU = torch.device("cpu")
TINY = {
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 40,
    "patch_size": 8,
    "num_frames": 4,
}
SAMPLING = {"clips": 2, "crops": 3}


def clip_config(data: Path, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "model": "timesformer_ti16",
        "model_changes": TINY,
        "image_size": (16, 32),
        "preprocess_changes": {"sampling": {}},
        "batch_size": 5,
        "epochs": 10.0,
        "loop": {"eval_every": 5, "checkpoint_every": 5},
    }
    return tiny_config(data, **{**fields, **changes})


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return make_clips(tmp_path_factory.mktemp("data") / "clips", per_class=6)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory) -> Path:
    """Three evaluation crops by two temporal views of a clip."""
    out = tmp_path_factory.mktemp("runs") / "one"
    changes = {"resize": "crop", "sampling": SAMPLING}
    with captured_log() as lines:
        vt.train(clip_config(clips, preprocess_changes=changes), out)
    assert lines[0] == "data: train 12 clips"
    assert any("4 frames of 16 x 32 pixels in 2 x 4 patches" in line for line in lines)
    return out


def test_a_run_on_clips_leaves_what_a_run_on_images_leaves(run, clips):
    data = json.loads((run / "data.json").read_text())
    assert data["kind"] == "clips"
    assert data["median_size"] == [32, 48]
    assert data["counts"]["test"] == {"left": 6, "right": 6}
    stored = json.loads((run / "model" / "config.json").read_text())
    assert stored["vitral"]["preprocess"]["sampling"] == {
        **Sampling().to_dict(),
        **SAMPLING,
        "frames": 4,
    }
    result = json.loads((run / "predictions" / "test.json").read_text())
    assert result["n"] == 12
    assert result["top1"] == 1.0
    page = (run / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 12


def test_the_report_shows_strips_under_rollout(run, clips):
    looked = json.loads((run / "inspection" / "report.json").read_text())
    assert looked["method"] == "rollout"
    assert looked["distance"] is None
    assert "attends in space and time, so there is no attention" in looked["notes"][0]
    assert len(looked["ids"]) == 4
    with np.load(run / "inspection" / "report.npz") as stored:
        maps = stored["maps"]
    assert maps.shape == (4, 4, 2, 4)
    opened = open_run(run)
    one = replace(opened.preprocess, sampling=Sampling(frames=4))
    pixels = [clip_views(one, open_clip(clips / name))[0] for name in looked["ids"]]
    expected = vt.inspection.rollout(opened.model, torch.stack(pixels))
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-3)
    page = (run / "report.html").read_text()
    assert page.count('<div class="strips">') == 1
    assert page.count("What the model looks at in it: most in frame ") == 4
    assert "below them the same frames coloured by attention rollout" in page
    assert "`vitral inspect --what relevance` has maps that do" in page
    assert "missing" not in page.split('-attention-title">')[1].split("</section>")[0]
    size = page.split("What the model looks at in it")[0].rsplit("base64,", 1)[1]
    picture = Image.open(io.BytesIO(base64.b64decode(size.split('"')[0])))
    # Four frames of 32 x 16 pixels, three times as large, two pixels between them.
    assert picture.size == (4 * 96 + 3 * 2, 2 * 48 + 2)


def test_answers_are_the_mean_over_clips_and_crops(run, clips):
    opened = open_run(run)
    path = clips / "test" / "left" / "1.mp4"
    views = clip_views(opened.preprocess, open_clip(path))
    assert views.shape == (6, 4, 3, 16, 32)
    with torch.no_grad():
        expected = opened.model(views).softmax(-1).mean(0)
    (answer,) = opened.predict([path])
    found = torch.tensor([answer.probabilities[name] for name in MOTIONS])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    one = opened.model(views[:1]).softmax(-1)[0]
    assert (one - expected).abs().max() > 1e-6


def test_views_of_a_batch_of_clips():
    batch = torch.randn(2, 3, 4, 3, 16, 24)
    assert [view.shape for view in tta_views(batch, "one")] == [(2, 4, 3, 16, 24)] * 3
    mirrored = tta_views(batch, "flip")
    assert len(mirrored) == 6
    assert torch.equal(mirrored[3], batch[:, 1].flip(-1))


def test_eval_repeats_the_numbers_of_the_run(run, tmp_path, capsys):
    before = contents(run / "predictions")
    assert main(["eval", str(run), "--out", str(tmp_path)]) == 0
    assert "test: 100.0 % of 12 clips right" in capsys.readouterr().out
    for name in ("test.json", "test.csv"):
        assert (tmp_path / name).read_bytes() == before[name]


def test_eval_with_other_views(run, capsys):
    before = contents(run / "predictions")
    assert main(["eval", str(run), "--views", "1x3"]) == 0
    assert "test-1x3: " in capsys.readouterr().out
    assert contents(run / "predictions") == before
    rows = (run / "evaluations" / "test-1x3.csv").read_bytes()
    assert rows != before["test.csv"]
    assert main(["eval", str(run), "--views", "2x3"]) == 0
    rows = (run / "evaluations" / "test-2x3.csv").read_bytes()
    assert rows == before["test.csv"]
    capsys.readouterr()
    assert main(["eval", str(run), "--views", "3"]) == 2
    assert "`--views 3` must be two numbers" in capsys.readouterr().err
    assert main(["eval", str(run), "--views", "1x2"]) == 2
    assert "`Sampling.crops` must be 1 or 3: got 2" in capsys.readouterr().err


def test_inspect_looks_into_the_run_of_a_video_model(run, clips, tmp_path):
    out = tmp_path / "out"
    words = [str(clips / "test" / "left" / "1.mp4"), "--what", "rollout"]
    assert main(["inspect", str(run), *words, "--out", str(out)]) == 0
    assert list(out.rglob("*.gif"))
    assert list(out.rglob("*.png"))


def test_eval_counts_bad_clips_as_wrong(run, tmp_path, capsys):
    data = make_clips(tmp_path / "more", splits=(), per_class=3)
    write_sound(data / "left" / "song.mp4")
    assert main(["eval", str(run), str(data), "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(6 / 7)
    assert main(["eval", str(run), str(data), "--bad-files", "refuse"]) == 3
    assert "song.mp4: it holds sound but no picture" in capsys.readouterr().err


def test_predict_takes_files_folders_of_clips_and_folders_of_frames(
    run, clips, tmp_path, capsys
):
    left, right = clips / "test" / "left", clips / "test" / "right"
    words = [str(left), str(right / "take 0"), str(right / "*.mp4")]
    assert main(["predict", str(run), *words, "--format", "csv"]) == 0
    rows = [row.split(",")[:2] for row in capsys.readouterr().out.splitlines()[1:]]
    names = ["1.mp4", "2.npz", "3.npz", "4.npz", "5.npz", "take 0"]
    expected = [[str(left / name), "left"] for name in names]
    expected += [[str(right / name), "right"] for name in ("take 0", "1.mp4")]
    assert rows == expected
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    picture = left / "take 0" / "3.png"
    words = [str(tmp_path / "bad.mp4"), str(picture), str(left / "2.npz")]
    assert main(["predict", str(run), *words]) == 3
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert answers[0]["error"].startswith("it cannot be decoded as video")
    assert answers[1]["error"] == "it is an image, but the model takes clips"
    assert answers[2]["label"] == "left"
    assert "2 of 3 files could not be read" in told.err
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(run), str(tmp_path / "empty")]) == 2
    assert "No clip at" in capsys.readouterr().err


def test_a_clip_in_memory(run):
    opened = open_run(run)
    pixels = moving_square(1, 500)
    (answer,) = opened.predict([pixels])
    assert answer.label == "right"
    with pytest.raises(ImageError, match=r"must be uint8 .frames, height, width, 3."):
        opened.predict([pixels[0]])
    with pytest.raises(ConfigError, match="given by its path, or as a uint8 array"):
        opened.predict([b"bytes"])
    with pytest.raises(ImageError, match="No such file"):
        opened.predict(["nowhere.mp4"])


def test_data_check_and_split(clips, tmp_path, capsys):
    assert main(["data", "check", str(clips), "--clips"]) == 0
    told = capsys.readouterr().out
    assert "train: 12 clips (left 6, right 6)" in told
    assert "36 clips decoded, 0 unreadable, median 32 x 48 pixels" in told
    assert "next: vitral train" in told
    assert "--model timesformer_ti16" in told
    assert main(["data", "check", str(clips)]) == 0
    told = capsys.readouterr().out
    assert "note: 30 clip(s), such as train/left/1.mp4, are ignored beside" in told


def test_a_run_that_was_cut_goes_on_with_the_same_frames(clips, tmp_path, monkeypatch):
    short = clip_config(clips, epochs=3.0)
    whole = vt.train(short, tmp_path / "whole")
    calls = 0
    real = AugmentClip.__call__

    def stop(self, *arguments):
        nonlocal calls
        calls += 1
        if calls > 24:  # in the last step, 7; the checkpoint is that of step 5
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(AugmentClip, "__call__", stop)
    with pytest.raises(InterruptedRun):
        vt.train(short, tmp_path / "cut")
    monkeypatch.setattr(AugmentClip, "__call__", real)
    again = vt.train(short, tmp_path / "cut", resume=True)
    assert again.metrics == whole.metrics
    state = again.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_settings_of_the_sampling_reach_the_model(clips, tmp_path, capsys):
    words = ["train", str(clips), "--model", "timesformer_ti16"]
    words += ["--out", str(tmp_path / "run"), "--epochs", "1", "--warmup", "0"]
    words += ["--image-size", "16", "32"]
    words += ["--set", *(f"{name}={value}" for name, value in TINY.items())]
    words += ["sampling.kind=dense", "sampling.stride=2", "sampling.clips=2"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "recipe clips.scratch: 36 clips of 2 classes and no weights" in told
    assert "next: vitral predict" in told
    assert "CLIPS..." in told
    opened = open_run(tmp_path / "run")
    assert opened.preprocess.sampling == Sampling(
        frames=4, kind="dense", stride=2.0, clips=2
    )
    bad = [*words[:-1], "sampling.rate=2"]
    bad[bad.index(str(tmp_path / "run"))] = str(tmp_path / "other")
    assert main(bad) == 2
    assert "Sampling has no field 'rate'" in capsys.readouterr().err


def test_the_other_kind_of_data_is_a_sentence(run, clips, tmp_path, capsys):
    photos = make_photos(tmp_path / "photos", splits=("train", "val"), per_class=3)
    with pytest.raises(DataError, match=r"holds images, such as train/blue stripes/0"):
        vt.train(clip_config(photos), tmp_path / "a")
    with pytest.raises(DataError, match="digits holds images, but a video model needs"):
        vt.train(replace(clip_config(photos), data="digits"), tmp_path / "b")
    assert main(["eval", str(run), str(photos)]) == 3
    assert "but a video model needs clips" in capsys.readouterr().err
    arrays = make_clips(tmp_path / "arrays", splits=(), per_class=4)
    for folder in arrays.rglob("take 0"):
        for frame in folder.iterdir():
            frame.unlink()
        folder.rmdir()
    with pytest.raises(
        DataError,
        match=r"holds clips, such as left/1.mp4, but the model takes single images. "
        r"Choose a video model, such as `model=timesformer_s16`, or give images.",
    ):
        vt.train(tiny_config(arrays), tmp_path / "c")
    image_run = ViT(ViTConfig(image_size=(32, 48), **_vit_fields()))
    vitral.weights.save(
        tmp_path / "vit", image_run, Preprocess(image_size=(32, 48)), classes=MOTIONS
    )
    opened = open_run(tmp_path / "vit")
    with pytest.raises(ImageError, match="it is a clip, but the model takes single"):
        opened.predict([arrays / "left" / "1.mp4"])
    with pytest.raises(ConfigError, match=r"`sampling` chooses the frames of clips"):
        prepare_model(
            tiny_config(photos, preprocess_changes={"sampling": {"stride": 2.0}}), ()
        )
    with pytest.raises(ConfigError, match=r"`sampling.frames` 5 is not the model's"):
        prepare_model(
            clip_config(clips, preprocess_changes={"sampling": {"frames": 5}}), MOTIONS
        )


def _vit_fields() -> dict[str, Any]:
    fields = {name: TINY[name] for name in ("embed_dim", "depth", "num_heads")}
    return {**fields, "mlp_dim": 40, "patch_size": 8, "num_classes": 2}


def test_a_video_model_starts_from_an_image_model(clips, tmp_path, monkeypatch):
    sizes = get_config("timesformer_ti16")
    fields = {
        name: getattr(sizes, name)
        for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size")
    }
    small = {**fields, "depth": 12, "num_classes": 5, "image_size": (16, 32)}
    source = ViT(ViTConfig(**small))
    folder = tmp_path / "vit"
    looks = Preprocess(image_size=(16, 32), mean=(0.4, 0.4, 0.4))
    vitral.weights.save(folder, source, looks)
    begun = replace(
        clip_config(clips), weights=str(folder), model_changes={"num_frames": 3}
    )
    prepared = prepare_model(begun, MOTIONS)
    assert prepared.model.config.num_frames == 3
    assert prepared.preprocess.sampling == Sampling(frames=3)
    assert prepared.preprocess.mean == looks.mean
    state = prepared.model.state_dict()
    block = "blocks.1.attn.qkv.weight"
    assert torch.equal(state[block], source.state_dict()[block])
    other = replace(begun, model="timesformer_s16")
    with pytest.raises(ConfigError, match=r"`model=timesformer_s16` has embed_dim"):
        prepare_model(other, MOTIONS)


def test_frozen_outputs_of_clips_can_be_kept(clips, tmp_path):
    varied = AugmentConfig(shift=0.1, views=2)
    settings = clip_config(clips, freeze=1, cache=True, augment=varied)
    prepared = prepare_model(settings, MOTIONS)
    dataset = open_data(settings, "clips")
    loader = train_loader(settings, dataset, prepared.preprocess, 0)
    kept = cache_frozen_outputs(
        loader, prepared.model, tmp_path, key="k", views=2, device=CPU, bf16=False
    )
    prepared.model.eval()
    for epoch in (0, 1):
        for tokens, batch in zip(kept.epoch(epoch), loader.epoch(epoch), strict=True):
            with torch.no_grad():
                expected = frozen_output(prepared.model, batch.image)
            torch.testing.assert_close(tokens.image, expected, atol=1e-5, rtol=1e-5)


def test_features_of_clips(run, clips, tmp_path):
    opened = open_run(run)
    found = features(opened.model, opened.preprocess, str(clips), cache=tmp_path)
    assert found.x.shape == (36, 24)
    (batch,) = split_loader(
        open_data(clip_config(clips), "clips"),
        "val",
        replace(opened.preprocess, sampling=Sampling(frames=4)),
        batch_size=12,
    ).epoch(0)
    with torch.no_grad():
        direct = opened.model.forward_pool(opened.model.forward_features(batch.image))
    rows = [x for x in found.x if (x - direct[0]).abs().max() < 1e-5]
    assert len(rows) == 1
    again = features(opened.model, opened.preprocess, str(clips), cache=tmp_path)
    assert np.array_equal(again.x, found.x)


def test_images_keep_their_settings_and_their_hash(tmp_path):
    photos = make_photos(tmp_path / "photos", splits=("train", "val"), per_class=3)
    prepared = prepare_model(tiny_config(photos), ("a", "b"))
    assert prepared.preprocess.sampling is None
    assert "sampling" not in prepared.preprocess.to_dict()
    model = create("timesformer_ti16", num_classes=2, image_size=(32, 48), num_frames=2)
    vitral.weights.save(tmp_path / "m", model, Preprocess(image_size=(32, 48)))
    held = tiny_config(photos, model="", weights=str(tmp_path / "m"), image_size=0)
    held = replace(held, model_changes={})
    assert prepare_model(held, ("a", "b")).preprocess.sampling == Sampling(frames=2)
