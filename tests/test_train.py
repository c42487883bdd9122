"""train() and what it leaves: every file of a run folder, resuming, frozen training."""

import csv
import importlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import vitral as vt
from helpers import captured_log
from photos import CLASSES, contents, make_photos, photo, prepare_model, tiny_config
from run_folders import records, untimed, without_report
from vitral import config_io
from vitral.data import AugmentConfig, Batch, ClassTarget, MixConfig, split_loader
from vitral.data.targets import ClassShares
from vitral.errors import (
    ConfigError,
    DivergedError,
    InterruptedRun,
    MissingExtraError,
)
from vitral.layers import Grid
from vitral.models import ViT, ViTConfig
from vitral.report.load_run import load_run_folder
from vitral.tasks.classification import (
    TASK,
    ClassMetric,
    Predictions,
    Supervised,
    SupervisedConfig,
)
from vitral.tasks.classification.labels import ClassLabels
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig, fast_precision
from vitral.workflows import TrainConfig
from vitral.workflows.dataset import open_data
from vitral.workflows.inference import (
    InferenceSpec,
    measure_batches,
    predict_outputs,
)
from vitral.workflows.train.frozen_cache import (
    TrainableHead,
    cache_frozen_outputs,
    frozen_output,
)
from vitral.workflows.train.loaders import train_loader
from vitral.workflows.train.plan import config_hash

run_training = importlib.import_module("vitral.workflows.train.train")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def before(photos) -> dict[str, bytes]:
    return contents(photos)


@pytest.fixture(scope="module")
def run(photos, before, tmp_path_factory) -> vt.Run:
    config = tiny_config(photos, eval_views="flip")
    with captured_log() as lines:
        run = vt.train(config, tmp_path_factory.mktemp("runs") / "one")
    assert any(line.startswith("model: ") and "2 x 3 patches" in line for line in lines)
    assert "data: train 60 images" in lines
    return run


@pytest.fixture
def report() -> None:
    """For a test that wants the report, which takes longer than its training."""


@pytest.fixture(autouse=True)
def _no_report(request) -> Iterator[None]:
    with nullcontext() if "report" in request.fixturenames else without_report():
        yield


# the folder


def test_every_file_of_the_contract_is_there(run):
    out = run.path
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json",
        "contents.csv",
        "command.txt",
        "environment.json",
        "data.json",
        "split.csv",
        "baselines.json",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "predictions",
        "inspection",
        "report.html",
    }
    assert {path.name for path in (out / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert {path.name for path in (out / "predictions").iterdir()} == {
        f"{split}.{kind}" for split in ("val", "test") for kind in ("csv", "json")
    }
    assert (out / "command.txt").read_text().count("\n") == 1
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.partition("+")[0]
    assert environment["device"] == "cpu"
    assert all(isinstance(value, str | int) for value in environment.values())


def test_config_json_is_the_config(run, photos):
    asked = tiny_config(photos, eval_views="flip")
    assert run.config == replace(asked, task="classification")
    values = json.loads((run.path / "config.json").read_text())
    assert values["image_size"] == [32, 48]
    assert values["loop"]["ema"] == 0.9
    assert "workers" not in values
    assert "device" not in values


def test_data_json_and_split_csv(run, photos):
    about = json.loads((run.path / "data.json").read_text())
    per_class = dict.fromkeys(CLASSES, 20)
    assert about["classes"] == list(CLASSES)
    assert about["counts"] == dict.fromkeys(("train", "val", "test"), per_class)
    assert about["name"] == "photos"
    assert about["root"] == str(photos)
    assert about["bad"] == about["ignored"] == []
    assert about["fingerprint"] == open_data(run.config).fingerprint()
    with (run.path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["split"] for row in rows} == {
        path: path.split("/")[0] for path in contents(photos)
    }


def test_metrics_final_lines_are_the_predictions(run):
    lines = records(run.path)
    train = [line for line in lines if line["event"] == "train"]
    evals = [line for line in lines if line["event"] == "eval"]
    finals = {line["split"]: line for line in lines if line["event"] == "final"}
    assert [line["step"] for line in train] == list(range(4, 33, 4))
    assert [line["step"] for line in evals] == [8, 16, 24, 32]
    assert train[-1]["epoch"] == 8.0
    needed = {"loss", "lr", "grad_norm", "images_per_second", "data_wait"}
    assert all(needed <= line.keys() for line in train)
    assert all(0 <= line["data_wait"] <= 1 for line in train)
    assert set(finals) == {"val", "test"}
    for split, line in finals.items():
        result = json.loads((run.path / "predictions" / f"{split}.json").read_text())
        assert result == run.metrics[split]
        for name in ("n", "top1", "macro_f1", "balanced_accuracy", "nll", "ece"):
            assert line[name] == result[name]
        assert [line["top1_low"], line["top1_high"]] == result["top1_interval"]
        assert line["step"] == run.extra["step"]
    best = max(evals, key=lambda line: (line["accuracy"], line["step"]))
    assert run.extra["step"] == best["step"]


def test_it_learns(run):
    """The classes differ in colour, but for every ninth photo, which shows another."""
    assert 0.8 < run.metrics["test"]["top1"] < 0.95


def test_predictions_are_the_logits_of_the_opened_model(run, photos):
    opened = vt.open(run.path)
    with (run.path / "predictions" / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    wrong = 0
    for row in rows:
        pixels = opened.preprocess(photos / row["path"])[None]
        with torch.no_grad():
            logits = [opened.model(view)[0] for view in (pixels, pixels.flip(-1))]
        share = (logits[0].softmax(0) + logits[1].softmax(0)) / 2
        assert [float(row[f"p:{name}"]) for name in CLASSES] == pytest.approx(
            share.tolist(), rel=1e-4
        )
        label = CLASSES.index(row["label"])
        assert row["label"] == row["path"].split("/")[1]
        assert row["predicted"] == CLASSES[int(share.argmax())]
        assert float(row["confidence"]) == pytest.approx(share.max().item(), rel=1e-4)
        assert float(row["label_probability"]) == pytest.approx(
            share[label].item(), rel=1e-4
        )
        assert int(row["rank"]) == 1 + int((share > share[label]).sum())
        assert row["correct"] == str(int(row["predicted"] == row["label"]))
        wrong += row["correct"] == "0"
    assert 1 - wrong / 60 == pytest.approx(run.metrics["test"]["top1"])


def test_run_predict_agrees_with_the_table_but_for_the_temperature(run, photos):
    with (run.path / "predictions" / "val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::7]
    answers = run.predict([photos / row["path"] for row in rows], batch_size=4)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.label == row["predicted"]
        shares = np.array([float(row[f"p:{name}"]) for name in CLASSES])
        wanted = shares ** (1 / run.metadata["temperature"])
        wanted /= wanted.sum()
        assert [*answer.probabilities.values()] == pytest.approx(wanted, rel=1e-4)
        assert answer.confidence == max(answer.probabilities.values())
        assert list(answer.probabilities) == list(CLASSES)
        assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_the_model_folder_works_alone(run, photos, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for file in (run.path / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    opened = vt.open(folder)
    image = photos / "val" / CLASSES[0] / "3.png"
    assert opened.predict([image]) == run.predict([image])
    with pytest.raises(ConfigError, match="is a model without its run"):
        _ = opened.config


def test_the_data_set_is_not_touched(run, photos, before):
    assert contents(photos) == before


def test_features_are_what_the_head_gets(run, photos):
    x, y = vt.features(run.model, run.preprocess, str(photos), split="val")
    assert x.shape == (60, 32)
    assert y.bincount().tolist() == [20, 20, 20]
    pixels = run.preprocess(photos / "val" / CLASSES[2] / "0.png")[None]
    with torch.no_grad():
        torch.testing.assert_close(run.model.head(x[y == 2][:1]), run.model(pixels))


@pytest.mark.parametrize(
    ("views", "size", "number"),
    [("flip", (32, 48), 2), ("dihedral", (32, 48), 4), ("dihedral", (32, 32), 8)],
)
def test_views_are_averaged_as_probabilities(run, views, size, number):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    turned = [image, image.flip(3)]
    if views == "dihedral":
        turned += [image.flip(2), image.flip(2).flip(3)]
    if number == 8:
        turned += [view.transpose(2, 3) for view in turned]
    assert len(turned) == number
    with torch.no_grad():
        outputs = torch.stack([run.model(view) for view in turned])
    for multi_label, share in (
        (False, outputs.softmax(-1).mean(0)),
        (True, outputs.sigmoid().mean(0)),
    ):
        labels = ClassLabels(names=run.classes, multi_label=multi_label)
        spec = InferenceSpec(views=views, average=partial(TASK.average, labels=labels))
        logits = predict_outputs(run.model, image, spec)
        found = logits.sigmoid() if multi_label else logits.softmax(-1)
        torch.testing.assert_close(found, share)


# the folder is in use


def test_a_second_run_into_the_folder_is_refused(run):
    was = contents(run.path)
    with pytest.raises(ConfigError, match="already holds a run: give another `out`"):
        vt.train(run.config, run.path)
    assert contents(run.path) == was


@pytest.mark.parametrize(
    ("change", "name"),
    [({"batch_size": 16}, "batch_size"), ({"optim": OptimConfig(lr=1.0)}, "optim")],
)
def test_resuming_with_other_settings_names_the_field(run, change, name):
    was = contents(run.path)
    with pytest.raises(ConfigError, match=f"was started with `{name}` .* cannot go on"):
        vt.train(replace(run.config, **change), run.path, resume=True)
    assert contents(run.path) == was


def test_resuming_a_finished_run_changes_nothing(run, report):
    was = contents(run.path)
    again = vt.train(replace(run.config, expected="99 %"), run.path, resume=True)
    now = contents(run.path)
    assert now["metrics.jsonl"] == was["metrics.jsonl"]
    changed = {name for name in was if now[name] != was[name]}
    assert changed <= {"config.json", "command.txt", "report.html", "model/README.md"}
    assert again.metrics == run.metrics
    assert now.keys() == was.keys()


def test_foreign_files_are_left_alone(few_photos, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something that is not a run"):
        vt.train(tiny_config(few_photos), tmp_path)
    with pytest.raises(ConfigError, match=r"thesis\.txt` is a file: name a folder"):
        vt.train(tiny_config(few_photos), tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="cannot be written"):
        vt.train(tiny_config(few_photos), tmp_path / "thesis.txt" / "run")
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("text", ["{", "[1]", '{"data": 3}'])
def test_a_broken_config_is_no_traceback(few_photos, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        vt.train(tiny_config(few_photos), tmp_path, resume=True)


def test_a_start_that_was_cut_short_is_taken_up(few_photos, tmp_path):
    """Killed after split.csv and in the write of config.json."""
    config = tiny_config(few_photos, epochs=1.0)
    whole = vt.train(config, tmp_path / "whole")
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "split.csv").write_bytes((whole.path / "split.csv").read_bytes())
    (cut / "log.txt").write_text("x")
    (cut / ".config.json.1.tmp").write_text("{")
    again = vt.train(config, cut, resume=True)
    assert untimed(cut) == untimed(whole.path)
    assert again.metrics == whole.metrics


@pytest.mark.parametrize("resume", [False, True])
def test_a_refused_start_hinders_no_next_one(resume, few_photos, tmp_path):
    """Refused after the audit, for its schedule; then the folder takes other data."""
    out = tmp_path / "run"
    wrong = tiny_config(few_photos, schedule=ScheduleConfig(warmup=10_000))
    with pytest.raises(ConfigError, match="must be shorter than the run"):
        vt.train(wrong, out, resume=resume)
    assert contents(out) == {}
    other = make_photos(tmp_path / "other", splits=(), per_class=6)
    run = vt.train(tiny_config(other, epochs=1.0), out, resume=resume)
    with (out / "split.csv").open(newline="") as file:
        rows = {row["path"] for row in csv.DictReader(file)}
    assert rows == {example.id for example in vt.data.open(other).examples}
    assert run.result("test").n == len(vt.data.open(other, seed=3).select("test"))


def test_a_start_that_was_killed_hinders_no_next_one(few_photos, tmp_path):
    """Of a kill the files stay; neither split nor contents are the next run's."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "split.csv").write_text("path,label,split\ngone.png,a,train\n")
    (out / "contents.csv").write_text("nonsense")
    config = tiny_config(few_photos, epochs=1.0)
    run = vt.train(config, out)
    whole = vt.train(config, tmp_path / "whole")
    name = "split.csv"
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert run.metrics == whole.metrics
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "contents.csv").write_text("nonsense")
    vt.train(config, tmp_path / "third", resume=True)


# other data


def test_without_val_the_last_step_is_the_model(report, tmp_path):
    data = make_photos(tmp_path / "data", splits=(), per_class=6)
    config = tiny_config(data, val=0.0, test=0.0, epochs=2.0, batch_size=9)
    run = vt.train(config, tmp_path / "run")
    assert {line["event"] for line in records(run.path)} == {"train"}
    assert run.extra["step"] == 4
    assert run.metrics == {}
    assert (run.path / "report.html").is_file()
    assert (run.path / "model" / "README.md").is_file()
    assert len(run.predict([data / CLASSES[1] / "0.png"])) == 1


def test_test_without_val(tmp_path):
    data = make_photos(tmp_path / "data", splits=("train", "test"), per_class=6)
    run = vt.train(tiny_config(data, val=0.0, epochs=2.0), tmp_path / "run")
    assert list(run.metrics) == ["test"]


def table(root: Path, rows: list[str]) -> Path:
    root.mkdir()
    for number in range(len(rows) - 1):
        photo(number, number).save(root / f"{number}.png")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_several_labels_with_the_sigmoid_loss(report, tmp_path, caplog):
    caplog.set_level("INFO", "vitral")
    labels = ("sea", "sea;sky", "sky", "wood", "")
    rows = ["path,label,split"]
    for number in range(24):
        split = "val" if number % 3 == 0 else "train"
        rows.append(f"{number}.png,{labels[number % 5]},{split}")
    data = table(tmp_path / "data", rows)
    config = tiny_config(data, epochs=3.0, objective=SupervisedConfig(loss="sigmoid"))
    run = vt.train(config, tmp_path / "run")
    assert run.labels.multi_label
    assert run.metrics["val"]["kind"] != "classification"
    assert 0 <= run.metrics["val"]["mean_average_precision"] <= 1
    answer = run.predict([data / "1.png"])[0]
    assert set(answer.label.split(";")) <= {"sea", "sky", "wood", ""}
    # Images and labels are counted apart. In train there are as many of both.
    assert "data: train 16 images, 16 labels, 3 without a label" in caplog.messages
    assert "data: val 8 images, 9 labels, 1 without a label" in caplog.messages
    facts = json.loads((run.path / "data.json").read_text())
    assert facts["sizes"] == {"train": 16, "val": 8}
    assert facts["labels"] == {"train": 16, "val": 9}
    assert facts["without_label"] == {"train": 3, "val": 1}
    assert facts["counts"]["train"] == {"sea": 6, "sky": 7, "wood": 3}
    text = (run.path / "report.html").read_text()
    assert "sky" in text
    assert 'data-source="data.json#/sizes/val">8</data>' in text
    assert 'value="9" data-source="data.json#/labels/val"' in text
    card = (run.path / "model" / "README.md").read_text()
    counted = (
        "images: train 16, val 8; labels: train 16, val 9; images without a label: "
    )
    assert f"{counted}train 3, val 1." in card
    softmax = replace(config, objective=SupervisedConfig())
    with pytest.raises(ConfigError, match="several classes, which the softmax loss"):
        vt.train(softmax, tmp_path / "other")


def test_a_class_without_an_image_in_val_of_several_labels(tmp_path):
    rows = ["path,label,split"]
    rows += [f"{n}.png,{'sea;sky' if n % 2 else 'wood'},train" for n in range(8)]
    rows += [f"{n}.png,sea,val" for n in range(8, 11)]
    config = tiny_config(
        table(tmp_path / "data", rows),
        epochs=1.0,
        objective=SupervisedConfig(loss="sigmoid"),
    )
    assert vt.train(config, tmp_path / "run").metrics["val"]["n"] == 3


def test_soft_targets(tmp_path):
    rows = ["path,label,weight,split"]
    for number in range(18):
        split = "val" if number % 3 == 0 else "train"
        rows.append(f"{number}.png,ok;broken,{number % 4};{1 + number % 2},{split}")
    data = table(tmp_path / "data", rows)
    run = vt.train(tiny_config(data, epochs=2.0), tmp_path / "run")
    assert run.classes == ("broken", "ok")
    assert run.metrics["val"]["n"] == 6
    first = open_data(run.config).examples[1]
    assert first.target == ClassShares((0, 1), (2 / 3, 1 / 3))


def test_an_undecodable_val_file_counts_as_wrong(tmp_path):
    data = make_photos(tmp_path / "data", splits=("train", "val"), per_class=51)
    bad = data / "val" / CLASSES[1] / "7.png"
    bad.write_bytes(b"")
    config = tiny_config(data, epochs=1.0, batch_size=30)
    run = vt.train(config, tmp_path / "run")
    result = run.metrics["val"]
    assert result["n"] == 153
    assert result["n_unreadable"] == 1
    with (run.path / "predictions" / "val.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    row = rows[f"val/{CLASSES[1]}/7.png"]
    assert (row["predicted"], row["correct"], row["rank"]) == ("", "0", "")
    right = sum(row["correct"] == "1" for row in rows.values())
    assert result["top1"] == pytest.approx(right / 153)
    evals = [line for line in records(run.path) if line["event"] == "eval"]
    assert evals[-1]["accuracy"] == pytest.approx(result["top1"])
    listed = json.loads((run.path / "data.json").read_text())["bad"]
    assert [(item["path"], item["split"]) for item in listed] == [
        (f"val/{CLASSES[1]}/7.png", "val")
    ]


# what stops a run


def test_a_device_that_is_not_there(few_photos, tmp_path):
    with pytest.raises(MissingExtraError, match="Device `tpu` is not available") as got:
        vt.train(
            tiny_config(few_photos), tmp_path / "run", runtime=vt.Runtime(device="tpu")
        )
    assert got.value.exit_code == 7
    assert not (tmp_path / "run").exists()


def test_divergence_saves_nothing_that_is_not_finite(few_photos, tmp_path):
    config = tiny_config(
        few_photos,
        epochs=30.0,
        optim=OptimConfig(optimizer="sgd", lr=1e30, clip_norm=0.0),
        loop={"eval_every": 1, "log_every": 1, "checkpoint_every": 1, "ema": 0.0},
    )
    with pytest.raises(DivergedError, match=r"diverged|only finite numbers") as got:
        vt.train(config, tmp_path / "run")
    assert got.value.exit_code == 5
    for file in (tmp_path / "run").rglob("*.safetensors"):
        for name, tensor in _tensors(file).items():
            assert torch.isfinite(tensor).all(), (file, name)
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file)


def test_class_weights_of_another_number(few_photos, tmp_path):
    config = tiny_config(
        few_photos, objective=SupervisedConfig(class_weights=(1.0, 2.0))
    )
    with pytest.raises(
        ConfigError, match="`class_weights` has 2 values and the data has 3 classes"
    ):
        vt.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": ""}, "A run needs a model: give `weights=FILE`"),
        ({"batch_size": 0}, "`batch_size` must be above 0: got 0"),
        ({"epochs": 0.0}, "`epochs` must be above 0: got 0.0"),
        ({"cache": True}, "`cache` keeps the output of frozen blocks: say how many"),
        ({"cache": True, "freeze": 1}, "finite: give `views=V`"),
        (
            {
                "cache": True,
                "freeze": 1,
                "augment": AugmentConfig(views=2),
                "mix": MixConfig(cutmix=1.0),
            },
            "set `mixup=0` and `cutmix=0`, or leave `cache` out",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny_config("photos", **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "vit_q16"}, "Unknown model `vit_q16`"),
        ({"model_changes": {"dept": 2}}, "no setting `dept`"),
        ({"model_changes": {"depth": "two"}}, "expected a whole number, got 'two'"),
        ({"image_size": (32, 50)}, "must be a multiple of `patch_size`: got width 50"),
        ({"freeze": 3}, "`freeze` must lie between 0 .the stem. and 2"),
        ({"preprocess_changes": {"resize": "fit"}}, r"`Preprocess\.resize` must be"),
        ({"schedule": ScheduleConfig(warmup=90)}, "`warmup` .90 steps. must be short"),
    ],
    ids=str,
)
def test_settings_that_the_model_cannot_have(few_photos, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        vt.train(tiny_config(few_photos, **changes), tmp_path / "run")


@pytest.mark.parametrize("has_bf16", [False, True])
def test_the_precision_is_the_one_that_the_processor_multiplies_in(
    has_bf16, few_photos, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        assert isinstance(getattr(torch.cpu, name)(), bool)  # private parts of torch
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16)
    expected = "bf16" if has_bf16 else "fp32"
    assert fast_precision() == expected
    config = vt.recipes.small.finetune(str(few_photos), str(tiny_weights))
    assert config.loop.precision == expected
    # The same command on another machine goes on as the run began.
    out = tmp_path / "run"
    vt.train(tiny_config(few_photos, epochs=1.0, loop={"precision": expected}), out)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    other = tiny_config(few_photos, epochs=1.0, loop={"precision": fast_precision()})
    assert other.loop.precision != expected
    run = vt.train(other, out, resume=True)
    assert run.config.loop.precision == expected


def test_without_a_monitor_the_last_step_is_kept(few_photos, tmp_path):
    loop = {"monitor": "none", "eval_every": 2}
    config = tiny_config(few_photos, epochs=3.0, loop=loop)
    run = vt.train(config, tmp_path / "run")
    folder = load_run_folder(run.path)
    steps = [line.row["step"] for line in folder.events("eval")]
    assert run.extra["step"] == steps[-1] > steps[0]
    assert folder.selection_splits == set()
    card = (run.path / "model" / "README.md").read_text()
    assert "were also used to choose the model" not in card
    other = tiny_config(few_photos, epochs=3.0, loop={"eval_every": 2})
    chosen = vt.train(other, tmp_path / "best").path
    assert load_run_folder(chosen).selection_splits == {"val"}
    card = (chosen / "model" / "README.md").read_text()
    assert "were also used to choose the model" in card
    with pytest.raises(ConfigError, match="`patience` stops where no step is better"):
        LoopConfig(monitor="none", patience=2)


def test_a_monitor_that_no_evaluation_gives_is_refused_before_the_run(
    few_photos, tmp_path
):
    config = tiny_config(few_photos, loop={"monitor": "auc"})
    with pytest.raises(ConfigError, match="choose one of accuracy, loss, macro_f1"):
        vt.train(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_warm_up_that_is_too_long_leaves_the_folder_free(few_photos, tmp_path):
    config = tiny_config(few_photos, epochs=2.0, schedule=ScheduleConfig(warmup=4))
    with pytest.raises(ConfigError, match=r"`warmup` .4 steps. must be shorter"):
        vt.train(config, tmp_path / "run")
    vt.train(replace(config, epochs=4.0), tmp_path / "run")


# training behind a frozen prefix

FROZEN = {
    "freeze": 1,
    "augment": AugmentConfig(shift=0.2, views=2),
    "eval_views": "one",
}


@pytest.mark.parametrize("freeze", [0, 1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"drop_rate": 0.2, "drop_path_rate": 0.3},
        {"class_token": False, "global_pool": "avg", "norm_after_pool": True},
        {"class_token": False, "global_pool": "map", "representation_size": 9},
        {"class_token": False, "global_pool": "avg", "image_size": 16},
    ],
    ids=str,
)
def test_gradients_behind_a_cache_are_those_of_the_whole_model(freeze, changes):
    size = {"image_size": (32, 48), "num_classes": 3, "embed_dim": 24, "num_heads": 3}
    fields = {**size, "patch_size": 16, "depth": 2, "mlp_dim": 40, **changes}
    torch.manual_seed(1)
    model = ViT(ViTConfig(**fields)).double()
    torch.nn.init.normal_(model.head.weight)
    model.freeze(freeze)
    model.train()
    height, width = model.config.image_hw
    image = torch.randn(4, 3, height, width, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 1])
    target = torch.nn.functional.one_hot(label, 3).double()
    gradients = []
    for behind_cache in (False, True):
        module, given = model, image
        if behind_cache:
            module = TrainableHead(model)
            with torch.no_grad():
                given = frozen_output(model, image)
        classes = ClassTarget(target, label)
        batch = Batch(image=given, target=classes, id=tuple("abcd"))
        model.zero_grad()
        torch.manual_seed(7)
        Supervised(module, SupervisedConfig())(batch)["loss"].backward()
        learns = [p for p in model.parameters() if p.requires_grad]
        gradients.append([p.grad.clone() for p in learns])
    assert len(gradients[0]) >= 2
    for whole, tail in zip(*gradients, strict=True):
        torch.testing.assert_close(tail, whole, rtol=0, atol=1e-12)
    assert any(gradient.any() for gradient in gradients[0])


@pytest.fixture(scope="module")
def cached_run(few_photos, tmp_path_factory) -> vt.Run:
    config = tiny_config(few_photos, **FROZEN, epochs=6.0, loop={"eval_every": 3})
    with without_report():
        return vt.train(
            replace(config, cache=True), tmp_path_factory.mktemp("runs") / "cached"
        )


def test_a_cached_run_is_the_uncached_run(cached_run, tmp_path):
    kept, config = cached_run, replace(cached_run.config, cache=False)
    plain = vt.train(config, tmp_path / "plain")
    one, other = untimed(plain.path), untimed(kept.path)
    assert len(one) == len(other)
    for line, cached_line in zip(one, other, strict=True):
        numbers = {k: v for k, v in line.items() if isinstance(v, float | int)}
        assert {k: cached_line[k] for k in numbers} == pytest.approx(numbers, rel=1e-5)
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], tensor)
    fresh = prepare_model(config, ("a", "b", "c")).model.state_dict()
    for name, tensor in kept.model.state_dict().items():
        if kept.model.layer_index(name) <= 1:
            assert torch.equal(tensor, fresh[name]), name
    assert not torch.equal(kept.model.head.weight, fresh["head.weight"])
    assert not (kept.path / "cache").exists()


def test_a_linear_probe_keeps_one_vector_an_image(few_photos, tmp_path):
    config = tiny_config(few_photos, **{**FROZEN, "freeze": 2}, cache=True)
    prepared, dataset = prepare_model(config, ("a", "b", "c")), open_data(config)
    loader = train_loader(config, dataset, prepared.preprocess, 0)
    made = cache_frozen_outputs(
        loader,
        prepared.model,
        tmp_path / "cache",
        key="k",
        views=2,
        device=CPU,
        bf16=False,
    )
    assert made.table.shape == (2, 18, 1, 32)
    batch = next(iter(made.epoch(1)))
    images = next(iter(loader.epoch(1)))
    assert batch.id == images.id
    assert torch.equal(batch.target.shares, images.target.shares)
    assert torch.equal(batch.target.label, images.target.label)
    with torch.no_grad():
        features = prepared.model.forward_features(images.image)
        pooled = prepared.model.forward_pool(features)
    torch.testing.assert_close(batch.image[:, 0], pooled)
    assert not np.array_equal(made.table[0], made.table[1])
    run = vt.train(config, tmp_path / "run")
    assert not (run.path / "cache").exists()


def test_a_cache_is_used_again_until_its_key_changes(few_photos, tmp_path, monkeypatch):
    config = tiny_config(few_photos, **FROZEN, cache=True)
    prepared, dataset = prepare_model(config, ("a", "b", "c")), open_data(config)
    loader = split_loader(dataset, "val", prepared.preprocess, batch_size=4)
    calls = []

    def counted(model: ViT, image: torch.Tensor) -> torch.Tensor:
        calls.append(len(image))
        return frozen_output(model, image)

    monkeypatch.setattr("vitral.workflows.train.frozen_cache.frozen_output", counted)

    def make(key: str, bf16: bool = False) -> np.ndarray:
        calls.clear()
        where = {"views": 1, "device": CPU, "bf16": bf16}
        return cache_frozen_outputs(
            loader, prepared.model, tmp_path, key=key, **where
        ).table

    first = np.array(make("a"))
    assert sum(calls) == 9 + 1  # and one image for the shape
    assert np.array_equal(make("a"), first)
    assert sum(calls) == 1
    make("b")
    assert sum(calls) == 9 + 1
    make("b", bf16=True)
    assert sum(calls) == 9 + 1


def test_a_resumed_cached_run_computes_nothing_again(cached_run, tmp_path, monkeypatch):
    config = cached_run.config
    filled = []

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_training, "fit", stop)
    with pytest.raises(InterruptedRun):
        vt.train(config, tmp_path / "cut")
    monkeypatch.undo()
    monkeypatch.setattr(
        "vitral.workflows.train.frozen_cache._fill", lambda *args: filled.append(args)
    )
    run = vt.train(config, tmp_path / "cut", resume=True)
    assert filled == []
    assert untimed(run.path) == untimed(cached_run.path)


def measured(model, loader, spec: InferenceSpec) -> Predictions:
    metric = ClassMetric(ClassLabels(names=("a", "b", "c")))
    measure_batches(model, loader.epoch(0), metric, device=CPU, spec=spec)
    return metric.predictions()


def test_a_cache_in_bfloat16_is_near(few_photos):
    config = tiny_config(few_photos, **FROZEN, cache=True)
    prepared, dataset = prepare_model(config, ("a", "b", "c")), open_data(config)
    loader = split_loader(dataset, "val", prepared.preprocess, batch_size=4)
    assert prepared.model.config.grid == Grid(2, 3)
    near, exact = (
        measured(prepared.model, loader, InferenceSpec(precision=precision))
        for precision in ("bf16", "fp32")
    )
    np.testing.assert_allclose(near.logits, exact.logits, atol=0.05)


def test_whole_numbers_and_decimals_are_one_run(few_photos):
    config = tiny_config(few_photos, epochs=8.0)
    values = config_io.to_dict(config) | {"epochs": 8}
    assert config_hash(config_io.from_dict(TrainConfig, values, "x")) == config_hash(
        config
    )
    object.__setattr__(config, "epochs", 8)  # what a caller in plain Python may do
    assert config_hash(config) == config_hash(tiny_config(few_photos, epochs=8.0))
    assert config_hash(config) != config_hash(tiny_config(few_photos, epochs=9.0))
    assert config_hash(config) == config_hash(
        tiny_config(few_photos, epochs=8.0, expected="99 %")
    )


def test_a_config_survives_json(few_photos):
    config = tiny_config(few_photos, **FROZEN, cache=True)
    plain = json.loads(json.dumps(config_io.to_dict(config)))
    assert config_io.from_dict(TrainConfig, plain, "here") == config
