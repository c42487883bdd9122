"""A number that is not finite, planted anywhere in `vitral train`: exit 5, a sentence
with the step, and nothing but finite numbers on the disk.

What a loss depends on is caught before the update; what it does not (the average, a
buffer, the optimizer's state) before it reaches the disk, and at the latest in the step
that uses it. Units are tested in test_training_step.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from photos import CLASSES, make_photos, photo, tiny_config
from tiny_fit import Tiny, batches_of, images, setup
from tiny_fit import run as fit_tiny
from vitral.cli import main
from vitral.errors import ConfigError, DataError, DivergedError
from vitral.tasks.classification import Supervised
from vitral.training import CheckpointStore, LoopConfig
from vitral.training.checkpointing.resume import TrainState
from vitral.training.step import TrainStep
from vitral.workflows.train import train

AT = 5  # the update of this index makes step 6
FLAGS = ["--model", "vit_mu16", "--image-size", "32", "48", "--set", "depth=1"]
FLAGS += ["embed_dim=8", "mlp_dim=12", "num_heads=2", "--batch-size", "8"]
FLAGS += ["--ema", "0.9", "--steps", "9", "--log-every", "1", "--device", "cpu"]
FLAGS += ["--warmup", "0", "--keep", "20"]


def plant(monkeypatch, site: str, value: float) -> None:
    """Spoil one thing in, or just before, the update of index `AT`."""
    update, average = TrainStep.update, TrainState.update_average
    forward = Supervised.forward
    now = {"step": -1}

    def spoiled_update(self, batch, step):
        now["step"] = step
        if step == AT:
            parameter = next(iter(self.parameters.values()))
            if site == "input":
                image = batch.image.clone()
                image[0, 0, 0, 0] = value
                batch = batch._replace(image=image)
            elif site == "target":
                target = batch.target
                target = target._replace(shares=target.shares * value)
                batch = batch._replace(target=target)
            elif site == "gradient":
                parameter.register_hook(lambda gradient: gradient * value)
            elif site == "weight":
                parameter.data.view(-1)[0] = value
            elif site == "optimizer":
                self.optimizer.state[parameter]["exp_avg"].fill_(value)
        return update(self, batch, step)

    def spoiled_average(self):
        average(self)
        if site == "average" and now["step"] == AT:
            next(self.average.module.parameters()).data.view(-1)[0] = value

    def spoiled_forward(self, batch):
        result = forward(self, batch)
        if site == "loss" and now["step"] == AT:
            return {**result, "loss": result["loss"] * value}
        return result

    monkeypatch.setattr(TrainStep, "update", spoiled_update)
    monkeypatch.setattr(TrainState, "update_average", spoiled_average)
    monkeypatch.setattr(Supervised, "forward", spoiled_forward)


def assert_only_finite(out: Path, least: int) -> None:
    """Every tensor and every line below `out`."""
    files = list(out.rglob("*.safetensors"))
    assert len(files) >= least
    for path in files:
        for name, tensor in load_file(path).items():
            assert bool(torch.isfinite(tensor).all()), f"{path}: {name}"
    for line in (out / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(text))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("site", ["input", "target", "loss", "gradient", "weight"])
def test_what_the_loss_depends_on(photos, tmp_path, monkeypatch, capsys, site, value):
    """Before the update is made; the sentence has the step and the examples."""
    plant(monkeypatch, site, value)
    out = tmp_path / "run"
    words = ["train", str(photos), "--out", str(out), *FLAGS]
    assert main([*words, "--checkpoint-every", "1", "--eval-every", "2"]) == 5
    said = capsys.readouterr().err.splitlines()[-1]
    assert "Training diverged at step 6" in said
    assert "The update was not made and nothing was saved" in said
    assert any(f"train/{name}/" in said for name in CLASSES)
    assert "Traceback" not in said
    store = CheckpointStore(out / "checkpoints")
    assert store.steps() == (1, 2, 3, 4, 5)
    assert store.latest() == (5, ())
    assert_only_finite(out, least=5 * 3 + 1)


@pytest.mark.parametrize(
    ("site", "every", "step"),
    [("optimizer", 1, 6), ("optimizer", 0, 7), ("average", 1, 6), ("average", 0, 9)],
)
def test_what_the_loss_does_not_depend_on(
    photos, tmp_path, monkeypatch, capsys, site, every, step
):
    """By the save of the same step; by the next step where its loss shows it; and the
    average, which no loss shows, before it is saved or evaluated."""
    plant(monkeypatch, site, float("inf"))
    out = tmp_path / "run"
    words = ["train", str(photos), "--out", str(out), *FLAGS]
    assert main([*words, "--checkpoint-every", str(every)]) == 5
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"at step {step}" in said
    assert CheckpointStore(out / "checkpoints").steps() == (
        (1, 2, 3, 4, 5) if every else ()
    )
    assert_only_finite(out, least=15 if every else 0)


def test_a_buffer(tmp_path):
    """Batch statistics are not used while training: the save sees them."""

    model = Tiny()

    def batches(epoch, start):
        for index, batch in enumerate(batches_of(images())(epoch, start)):
            if (epoch, start + index) == (0, AT):
                model.norm.running_mean[2] = float("nan")
            yield batch

    config = LoopConfig(steps=9, checkpoint_every=1, keep=20)
    with pytest.raises(
        DivergedError, match=r"norm\.running_mean of model .* at step 6"
    ):
        fit_tiny(tmp_path, made=setup(model=model), config=config, batches=batches)
    assert CheckpointStore(tmp_path / "checkpoints").steps() == (1, 2, 3, 4, 5)
    assert_only_finite(tmp_path, least=10)


@pytest.mark.parametrize("deviation", [0.0, 1e-44])
def test_pre_processing_that_would_make_pixels_infinite(deviation, photos, tmp_path):
    changes = {"std": (0.5, deviation, 0.5)}
    with pytest.raises(ConfigError, match=r"`Preprocess\.std` must be a positive"):
        train(tiny_config(photos, preprocess_changes=changes), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_float_image_with_a_nan_is_a_file_that_cannot_be_read(tmp_path, capsys):
    root = make_photos(tmp_path / "photos", splits=("train", "val"), per_class=6)
    pixels = np.full((40, 56), 0.5, np.float32)
    pixels[3, 5] = np.nan
    Image.fromarray(pixels).save(root / "train" / CLASSES[0] / "bad.tiff")
    out = tmp_path / "run"
    code = main(["train", str(root), "--out", str(out), *FLAGS])
    said = capsys.readouterr()
    assert code == 3  # one of 37 is more than one in a hundred
    assert "bad.tiff" in said.err + said.out
    assert "not finite" in said.err + said.out


@pytest.mark.parametrize("weights", ["nan;1", "inf;1", "1e308;1e308", "-1;2", "0;0"])
def test_a_soft_target_that_is_no_share(tmp_path, weights):
    rows = ["path,label,weight,split"]
    for number in range(12):
        photo(number, number).save(tmp_path / f"{number}.png")
        given = weights if number == 7 else "1;3"
        rows.append(
            f"{number}.png,ok;broken,{given},{'val' if number < 4 else 'train'}"
        )
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    with pytest.raises(DataError, match="weight"):
        train(tiny_config(table, epochs=1.0), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.safetensors"))
