"""Runs that learn faster: growing images, repeated variations, fewer patches."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vitral as vt
import vitral.models
from helpers import captured_log
from photos import contents, prepare_model, tiny_config
from run_folders import untimed, without_report
from vitral.data import (
    AugmentConfig,
    Loader,
    MixConfig,
    Preprocess,
    Size,
    TransformSchedule,
)
from vitral.errors import ConfigError, InterruptedRun
from vitral.models import ViTConfig
from vitral.tasks.representation import MAEConfig
from vitral.workflows import TrainConfig
from vitral.workflows.dataset import open_data
from vitral.workflows.train.loaders import train_loader
from vitral.workflows.train.progressive_resizing import (
    build_transform,
    describe_sizes,
    image_sizes,
)

pytestmark = pytest.mark.usefixtures("no_report")

WIDE = ViTConfig(image_size=(48, 80), patch_size=(16, 8))
EVERYTHING = {
    "augment": AugmentConfig(crop="inception", shift=0.1, rand_augment=1, repeats=2),
    "mix": MixConfig(mixup=0.2, cutmix=1.0),
    "model_changes": {"depth": 2, "drop_path_rate": 0.1, "patch_drop_rate": 0.5},
    "batch_size": 6,
}


def settings(data: Path, **changes) -> TrainConfig:
    """3 batches an epoch, 7 updates; images of 16 x 32, 32 x 48, 48 x 80."""
    loop = {"steps": 7, "eval_every": 0, "checkpoint_every": 2, "log_every": 1}
    fields = {"image_size": (48, 80), "resolutions": (16, 32, 48), **EVERYTHING}
    return tiny_config(data, **{**fields, **changes}, loop=loop)


def assert_same_weights(one: Path, other: Path) -> None:
    files = [path.relative_to(one) for path in one.rglob("*.safetensors")]
    assert Path("model/model.safetensors") in files
    for name in files:
        ours, theirs = load_file(one / name), load_file(other / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), name


# sizes


def transform_of(config, model, preprocess, steps):
    """Build the transform of a run, as `train` does."""
    sizes = image_sizes(config.resolutions, model, preprocess)
    return build_transform(
        sizes, config.augment, preprocess, seed=config.seed, steps=steps
    )


def test_heights_with_the_widths_of_whole_patches():
    preprocess = Preprocess(image_size=(48, 80))
    config = TrainConfig(data="d", model="m", resolutions=(16, 32, 48))
    # 16 * 80 / 48 is 26.7, nearest to 24; 53.3 to 56.
    assert image_sizes(config.resolutions, WIDE, preprocess) == (
        (16, 24),
        (32, 56),
        (48, 80),
    )
    plain = TrainConfig(data="d", model="m")
    assert image_sizes(plain.resolutions, WIDE, preprocess) == ((48, 80),)
    resnet = vitral.models.get_config("bit_r50x1", {"image_size": 64})
    squares = TrainConfig(data="d", model="m", resolutions=(50, 64))
    found = image_sizes(squares.resolutions, resnet, Preprocess(image_size=(64, 64)))
    assert found == ((50, 50), (64, 64))


def test_what_is_announced_is_what_is_done():
    sizes = (Size(16, 24), Size(32, 56), Size(48, 80))
    assert describe_sizes(sizes, 7) == (
        "16 x 24 from update 1, 32 x 56 from update 4, 48 x 80 from update 6"
    )


def test_one_size_is_no_stages():
    preprocess = Preprocess(image_size=(48, 80))
    for resolutions in ((), (48,)):
        config = TrainConfig(data="d", model="m", resolutions=resolutions)
        transform = transform_of(config, WIDE, preprocess, 9)
        assert transform == transform_of(
            TrainConfig(data="d", model="m"), WIDE, preprocess, 9
        )
        assert not isinstance(transform, TransformSchedule)


@pytest.mark.parametrize(
    ("resolutions", "steps", "sentence"),
    [
        ((20, 48), 9, "must be multiples of the patch, which is 16 .*: got 20"),
        ((0, 48), 9, "must be multiples of the patch.*got 0"),
        (
            (16, 32),
            9,
            r"last of `resolutions` must be 48, .*got 32\. Set `image_size`",
        ),
        ((16, 32, 48), 2, "divide the run into 3 parts, and it has 2 updates"),
    ],
)
def test_sizes_that_do_not_fit(resolutions, steps, sentence):
    config = TrainConfig(data="d", model="m", resolutions=resolutions)
    with pytest.raises(ConfigError, match=sentence):
        transform_of(config, WIDE, Preprocess(image_size=(48, 80)), steps)


def test_a_refusal_leaves_no_config(few_photos, tmp_path):
    with pytest.raises(ConfigError, match="must be multiples of the patch"):
        vt.train(settings(few_photos, resolutions=(20, 48)), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match="`cache` keeps the output for images of"):
        settings(
            few_photos,
            cache=True,
            freeze=1,
            augment=AugmentConfig(views=2),
            mix=MixConfig(),
        )


# runs


@pytest.fixture(scope="module")
def whole(few_photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    with without_report(), captured_log() as lines:
        run = vt.train(settings(few_photos), out)
    assert (
        "images: 16 x 32 from update 1, 32 x 48 from update 4, 48 x 80 from update 6"
        in lines
    )
    assert run.preprocess.image_size == (48, 80)
    assert run.model.config.image_hw == (48, 80)
    return out


@pytest.mark.parametrize(("stop", "workers"), [(2, 1), (4, 0), (5, 2), (6, 0)])
def test_resumed_at_and_between_borders(
    few_photos, whole, tmp_path, monkeypatch, stop, workers
):
    """Borders are before updates 4, the epoch's first, and 6, in an epoch's middle."""
    real = Loader.epoch

    def stopping(self, number, start=0):
        for index, batch in enumerate(real(self, number, start), start):
            if 3 * number + index == stop - 1 and self.shuffle:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Loader, "epoch", stopping)
    with pytest.raises(InterruptedRun):
        vt.train(
            settings(few_photos), tmp_path / "run", runtime=vt.Runtime(workers=workers)
        )
    monkeypatch.setattr(Loader, "epoch", real)
    checkpoints = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert f"step-{stop:08d}" in checkpoints
    vt.train(
        settings(few_photos),
        tmp_path / "run",
        resume=True,
        runtime=vt.Runtime(workers=2 - workers),
    )
    assert untimed(tmp_path / "run") == untimed(whole)
    assert_same_weights(whole, tmp_path / "run")


def test_identity_settings_change_no_bit(few_photos, tmp_path):
    plain = settings(
        few_photos,
        resolutions=(),
        augment=AugmentConfig(crop="inception", shift=0.1),
        model_changes={"depth": 2, "drop_path_rate": 0.1},
    )
    given = replace(
        plain,
        resolutions=(48,),
        augment=replace(plain.augment, repeats=1),
        model_changes={**plain.model_changes, "patch_drop_rate": 0.0},
    )
    one = vt.train(plain, tmp_path / "one").path
    two = vt.train(given, tmp_path / "two").path
    assert untimed(one) == untimed(two)
    assert_same_weights(one, two)
    assert contents(one)["predictions/val.csv"] == contents(two)["predictions/val.csv"]


def test_each_of_the_three_changes_the_run(few_photos, tmp_path):
    plain = settings(
        few_photos, resolutions=(), augment=AugmentConfig(), model_changes={"depth": 2}
    )
    reference = untimed(vt.train(plain, tmp_path / "plain").path)
    for name, change in {
        "resolutions": {"resolutions": (32, 48)},
        "repeats": {"augment": AugmentConfig(repeats=2)},
        "patches": {"model_changes": {"depth": 2, "patch_drop_rate": 0.5}},
    }.items():
        run = vt.train(replace(plain, **change), tmp_path / name)
        losses = [
            line["loss"] for line in untimed(run.path) if line["event"] == "train"
        ]
        assert losses != [
            line["loss"] for line in reference if line["event"] == "train"
        ], name


def test_repeats_from_a_cache_are_those_of_images(few_photos, tmp_path):
    frozen = {"resolutions": (), "freeze": 1, "mix": MixConfig()}
    frozen |= {"augment": AugmentConfig(shift=0.1, views=3, repeats=2)}
    frozen |= {"model_changes": {"depth": 2}}
    config = settings(few_photos, **frozen)
    plain = vt.train(config, tmp_path / "plain")
    kept = vt.train(replace(config, cache=True), tmp_path / "cached")
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], tensor)
    losses = [
        [line["loss"] for line in untimed(run.path) if line["event"] == "train"]
        for run in (plain, kept)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loader_of_a_run(few_photos):
    config = settings(few_photos)
    prepared, dataset = prepare_model(config, ("a", "b", "c")), open_data(config)
    transform = transform_of(config, prepared.model.config, prepared.preprocess, 7)
    loader = train_loader(config, dataset, prepared.preprocess, 0, transform)
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    sizes = [tuple(batch.image.shape[2:]) for batch in batches]
    assert sizes[:7] == 3 * [(16, 32)] + 2 * [(32, 48)] + 2 * [(48, 80)]
    for batch in batches:
        assert len(batch.id) == 6
        assert len(set(batch.id)) == 3


def test_a_masked_autoencoder_learns_from_growing_images_too(few_photos, tmp_path):
    small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    config = settings(
        few_photos,
        objective=MAEConfig(**small, mask_ratio=0.5),
        augment=AugmentConfig(repeats=2),
        mix=MixConfig(),
        model_changes={"depth": 2},
    )
    config = replace(config, loop=replace(config.loop, monitor="loss", ema=0.0))
    run = vt.train(config, tmp_path / "run")
    losses = [line["loss"] for line in untimed(run.path) if line["event"] == "train"]
    assert len(losses) == 7
    assert losses[-1] < losses[0]
