"""The command: verbs, flags, exit codes, and what is printed where."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vitral as vt
from photos import CLASSES, contents, photo
from run_folders import without_report
from vitral import config_io
from vitral.cli import VERBS, logs, main

SOURCE = Path(__file__).parents[1] / "src"
TINY_FLAGS = ["--model", "vit_mu16", "--set", "depth=2", "embed_dim=32", "mlp_dim=64"]
TINY_FLAGS += ["num_heads=2", "class_token=true", "--image-size", "32", "48"]
SHORT = ["--steps", "4", "--warmup", "1", "--eval-every", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _no_report(request) -> Iterator[None]:
    with nullcontext() if "with_report" in request.fixturenames else without_report():
        yield


@pytest.fixture
def with_report() -> None:
    """For a test that reads the report."""


def config_of(out: Path) -> dict[str, object]:
    return json.loads((out / "config.json").read_text())


def test_help_and_import_do_not_wait_for_torch():
    code = (
        "import resource, sys, vitral, vitral.cli\n"
        "assert vitral.cli.main(['--help']) == 0\n"
        "assert vitral.cli.main(['--version']) == 0\n"
        "slow = {'torch', 'torchvision', 'numpy', 'PIL', 'tyro'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert used.ru_utime + used.ru_stime < 1, used\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert "Exit codes: 0 done" in done.stdout
    assert vt.__version__ in done.stdout


def test_no_word_prints_the_help_and_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "usage: vitral VERB" in capsys.readouterr().out


def test_an_unknown_verb_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    captured = capsys.readouterr()
    assert "unknown verb `trian`. Did you mean train" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"vitral {verb}" in capsys.readouterr().out


# train


def test_train_ends_with_result_place_and_next_command(photos, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", str(photos), "--out", str(out), *TINY_FLAGS, *SHORT]
    words += ["--lr", "0.003", "--drop-path", "0"]
    assert main([*words, "-b", "12", "-j", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task: classification, 3 classes"
    assert lines[1].startswith("recipe small.scratch: 72 images of 3 classes and no w")
    assert lines[-1] == f"next: vitral predict {out} IMAGES..."
    assert any(line.startswith("test: ") and "of 24 images" in line for line in lines)
    log = (out / "log.txt").read_text()
    assert all(line in log for line in lines)


@pytest.mark.parametrize(
    ("flags", "where", "value"),
    [
        (["--img-size", "48", "32"], "image_size", [48, 32]),
        (["--img_size", "48", "32"], "image_size", [48, 32]),
        (["-b", "7"], "batch_size", 7),
        (["-b7"], "batch_size", 7),
        (["--batch_size", "7"], "batch_size", 7),
        (["--batch-size=7"], "batch_size", 7),
        (["--drop_path", "0.25"], "model_changes.drop_path_rate", 0.25),
        (["--set", "reg_tokens=2"], "model_changes.reg_tokens", 2),
        (["--set", "act=gelu", "qk_norm=true"], "model_changes.qk_norm", True),
        (["--layer-decay", "0.7"], "optim.layer_decay", 0.7),
        (["--weight_decay", "0.2"], "optim.weight_decay", 0.2),
        (["--smoothing", "0.2"], "objective.smoothing", 0.2),
        (["--mixup", "0.3", "--cutmix", "1"], "mix.cutmix", 1.0),
        (["--seed", "5"], "seed", 5),
    ],
    ids=str,
)
def test_flags_reach_the_config(photos, tmp_path, monkeypatch, flags, where, value):
    given = []

    def stop(config, out, **arguments):
        given.append(config_io.to_dict(config))
        raise vt.ConfigError("far enough")

    monkeypatch.setattr("vitral.workflows.train.train", stop)
    words = ["train", str(photos), "--out", str(tmp_path / "run"), *TINY_FLAGS]
    assert main([*words, *flags]) == 2
    found = given[0]
    for name in where.split("."):
        found = found[name]
    assert found == value
    assert given[0]["model_changes"]["depth"] == 2  # two `--set` add up


def test_workers_and_device_are_arguments(photos, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        "vitral.workflows.train.train", lambda *a, **k: given.append(k) or 1 / 0
    )
    words = ["train", str(photos), "--out", str(tmp_path / "run"), *TINY_FLAGS]
    assert main([*words, "-j", "3", "--device", "cpu", "--resume"]) == 1
    assert given[0]["runtime"] == vt.Runtime(workers=3, device="cpu")
    assert given[0]["resume"] is True


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--batch-sise", "7"], 2, "--batch-size"),
        (["--model", "vit_q16"], 2, "Unknown model `vit_q16`. The nearest names are"),
        (["--recipe", "vit.finetun"], 2, "Unknown recipe `vit.finetun`. The nearest"),
        (["--image-size", "30", "48"], 2, "multiple of `patch_size`: got height 30"),
        (["--batch-size", "0"], 2, "`--batch-size` must be above 0: got 0"),
        (["--set", "depth"], 2, "`--set depth` must be FIELD=VALUE"),
        (["--set", "depth=[1,2]"], 2, "must be one number, true, false, null or a"),
        (["--set", "depht=3"], 2, "no setting `depht`"),
        (["--set", "depth=deep"], 2, "expected a whole number, got 'deep'"),
        (["--linear-probe"], 2, "give them with `--weights FILE`"),
        (["--cache"], 2, "say how many with `--freeze N`"),
        (["--device", "cuda"], 7, "Device `cuda` is not available"),
        (["--weights", "none.safetensors"], 4, "No weights at none.safetensors"),
        (["--lr", "1e30", "--optimizer", "sgd", "--clip-norm", "0"], 5, "diverged"),
        (["--class-weights", "1", "2"], 2, "has 2 values and the data has 3 classes"),
    ],
    ids=str,
)
def test_what_train_refuses(photos, tmp_path, capsys, flags, code, sentence):
    words = ["train", str(photos), "--out", str(tmp_path / "run"), *TINY_FLAGS, *SHORT]
    if "--weights" in flags:
        words = [word for word in words if word not in ("--model", "vit_mu16")]
    assert main([*words, *flags]) == code
    captured = capsys.readouterr()
    error = " ".join(captured.err.split())
    assert sentence in error
    assert "Traceback" not in captured.err + captured.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "PHOTOS"], "`vitral train` needs `--out RUN`"),
        (["train", "--out", "x"], "needs the data, as in `vitral train DATA --out R"),
        (["train", "--lr", "1e-3", "PHOTOS"], "`vitral train` needs `--out RUN`"),
        (["train", "no/such", "--out", "x"], "neither a folder, a table nor a known"),
    ],
)
def test_words_in_the_wrong_place(
    photos, tmp_path, monkeypatch, capsys, words, sentence
):
    monkeypatch.chdir(tmp_path)
    words = [str(photos) if word == "PHOTOS" else word for word in words]
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_output_folder_may_not_be_a_file(photos, tmp_path, capsys):
    file = tmp_path / "run"
    file.write_text("mine")
    assert main(["train", str(photos), "--out", str(file), *TINY_FLAGS]) == 2
    assert "is a file: name a folder for the run" in capsys.readouterr().err


def test_linear_probe_freezes_every_block(photos, tiny_weights, tmp_path, capsys):
    out = tmp_path / "probe"
    words = ["train", str(photos), "--out", str(out), "--weights", str(tiny_weights)]
    words += ["--linear-probe", "--image-size", "48", "80", "--precision", "fp32"]
    assert main([*words, *SHORT]) == 0
    assert config_of(out)["freeze"] == 2
    before = vt.load(tiny_weights).model.state_dict()
    after = vt.open(out).model.state_dict()
    assert all(
        tensor.equal(before[name])
        for name, tensor in after.items()
        if not name.startswith("head.")
    )
    assert after["head.weight"].any()
    assert "copied     pos_embed" in capsys.readouterr().out


def test_anything_unexpected_is_one_line_and_in_the_log(
    photos, tmp_path, capsys, monkeypatch
):
    def broken(*arguments, **named):
        raise RuntimeError("the roof\nis leaking")

    monkeypatch.setattr("vitral.workflows.train.train", broken)
    out = tmp_path / "run"
    assert main(["train", str(photos), "--out", str(out), *TINY_FLAGS]) == 1
    error = capsys.readouterr().err
    assert error == (
        "vitral train: unexpected RuntimeError: the roof is leaking (the traceback is "
        f"in {out / 'log.txt'}).\n"
    )
    assert "Traceback" in (out / "log.txt").read_text()
    shutil.rmtree(out)  # the log cannot be written now, and that hides nothing
    monkeypatch.setattr("vitral.cli.verbs.models.run", broken)
    assert main(["models"]) == 1
    assert "VITRAL_TRACEBACK=1" in capsys.readouterr().err


# predict


def test_predict_json(run, photos, capsys):
    folder = photos / "test" / CLASSES[2]
    assert main(["predict", str(run), str(folder), "--top", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == [str(p) for p in sorted(folder.iterdir())]
    for row in rows:
        assert len(row["probabilities"]) == 2
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert row["confidence"] == row["probabilities"][row["label"]]


def test_predict_answers_for_all_but_the_unreadable(run, photos, tmp_path, capsys):
    shutil.copytree(photos / "val" / CLASSES[1], tmp_path / "in")
    (tmp_path / "in" / "3.png").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    pattern = str(tmp_path / "i*" / "*.png")
    for words in ([str(tmp_path / "in")], [pattern]):
        assert main(["predict", str(run), *words, "--format", "csv"]) == 3
        captured = capsys.readouterr()
        rows = list(csv.DictReader(io.StringIO(captured.out)))
        assert len(rows) == 8
        bad = [row for row in rows if row["error"]]
        assert [Path(row["path"]).name for row in bad] == ["3.png"]
        assert bad[0]["label"] == ""
        assert all(row["label"] in CLASSES for row in rows if not row["error"])
        assert "1 of 8 files could not be read; each has" in captured.err
        assert "or raise `--max-bad`." in captured.err
    words = ["predict", str(run), str(tmp_path / "in"), "--max-bad"]
    for number, (accepted, code) in enumerate((("0.12", 3), ("0.125", 0), ("2", 0))):
        assert main([*words, accepted]) == code
        out = str(tmp_path / f"{number}.csv")
        assert main([*words, accepted, "--out", out]) == code
    assert main([*words, "0.12"]) == 3
    assert "more than the 12% that is accepted" in capsys.readouterr().err
    assert main([*words, "nan"]) == 2
    assert "`--max-bad` must not be negative: got nan" in capsys.readouterr().err
    file = str(tmp_path / "in" / "notes.txt")
    assert main(["predict", str(run), file, str(tmp_path / "in" / "1.png")]) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["path"] == file
    assert rows[0]["error"]
    assert rows[1]["label"] in CLASSES


@pytest.mark.parametrize("files", ["none.png", "*.png", "."])
def test_predict_without_an_image(run, tmp_path, monkeypatch, capsys, files):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(run), files]) == 2
    assert f"No image at {files}: give files" in capsys.readouterr().err


def test_predict_without_a_model(tmp_path, photos, capsys):
    assert main(["predict", str(tmp_path), str(photos)]) == 4
    assert "holds no trained model" in capsys.readouterr().err


# eval


def test_eval_on_the_own_split_repeats_the_numbers(run_copy, tmp_path, capsys):
    was = contents(run_copy)
    assert main(["eval", str(run_copy), "--out", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("test: ")
    assert "95 % interval" in out
    for kind in ("json", "csv"):
        again = (tmp_path / "again" / f"test.{kind}").read_bytes()
        assert again == was[f"predictions/test.{kind}"]
    assert contents(run_copy) == was
    assert main(["eval", str(run_copy), "--split", "val", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 24
    assert main(["eval", str(run_copy), "--split", "dev"]) == 2
    assert "no split `dev`: it has train, val, test" in capsys.readouterr().err


def test_eval_matches_classes_by_name(run, photos, tmp_path, capsys):
    """Another folder with two of the three classes, in another order of indices."""
    for name in CLASSES[1:]:
        shutil.copytree(photos / "test" / name, tmp_path / "other" / name)
    words = ["eval", str(run), str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    with (tmp_path / "out" / "other-train.csv").open(newline="") as file:
        rows = {Path(row["path"]).as_posix(): row for row in csv.DictReader(file)}
    with (run / "predictions" / "test.csv").open(newline="") as file:
        own = {row["path"].removeprefix("test/"): row for row in csv.DictReader(file)}
    assert len(rows) == 16
    for path, row in rows.items():
        assert {**row, "path": ""} == {**own[path], "path": ""}


def test_eval_refuses_a_class_that_the_model_lacks(run, photos, tmp_path, capsys):
    shutil.copytree(photos / "test", tmp_path / "other")
    (tmp_path / "other" / CLASSES[0]).rename(tmp_path / "other" / "violet")
    assert main(["eval", str(run), str(tmp_path / "other")]) == 3
    assert "the class violet, which the model does not know" in capsys.readouterr().err


def test_eval_counts_or_refuses_bad_files(run, photos, tmp_path, capsys):
    shutil.copytree(photos / "test", tmp_path / "other")
    (tmp_path / "other" / CLASSES[0] / "0.png").write_bytes(b"\x89PNG")
    words = ["eval", str(run), str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    assert main([*words, "--bad-files", "refuse"]) == 3
    said = capsys.readouterr().err
    assert "1 of 24 images of train cannot be read, more than the 0% that is" in said
    assert "or raise `--max-bad`: they count as wrong." in said
    assert main([*words, "--max-bad", "0.04"]) == 3  # 1 of 24 is 0.0417
    assert "more than the 4% that is accepted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--max-bad", "0.042"]) == 0
    capsys.readouterr()
    assert main([*words, "--max-bad", "-1"]) == 2
    assert "`--max-bad` must not be negative: got -1.0" in capsys.readouterr().err
    assert main([*words, "--bad-files", "refuse", "--max-bad", "1"]) == 2
    assert "`--max-bad` does nothing with `--bad-files r" in capsys.readouterr().err
    assert main(words) == 0
    assert "1 files could not be read and count as wrong" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "other-train.json").read_text())
    assert (result["n"], result["n_unreadable"]) == (24, 1)


def test_eval_of_bad_files_only(run, photos, tmp_path, capsys):
    for name in CLASSES[:2]:
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "0.png").touch()
    assert main(["eval", str(run), str(tmp_path / "other")]) == 3
    said = capsys.readouterr().err
    assert "None of the 2 images of train can be decoded, first" in said
    assert "Run `vitral data check`" in said


# the other verbs


@pytest.mark.usefixtures("with_report")
def test_a_comparison_has_a_file_of_its_own(run_copy, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run_copy, other)
    own = (run_copy / "report.html").read_bytes()
    assert main(["report", str(run_copy), str(other)]) == 0
    file = run_copy / "comparison-with-other.html"
    assert capsys.readouterr().out == f"comparison: {file}\n"
    assert "2 runs side by side" in file.read_text()
    for folder in (run_copy, other):
        assert (folder / "report.html").read_bytes() == own
    given = tmp_path / "all" / "runs.html"
    assert main(["report", str(run_copy), str(other), "--out", str(given)]) == 0
    assert given.read_text() == file.read_text()
    report = str(other / "report.html")
    assert main(["report", str(run_copy), str(other), "--out", report]) == 2
    assert "which a comparison must not replace" in capsys.readouterr().err
    assert main(["report", str(run_copy), "--out", report]) == 2
    assert "`--out` is the file of a comparison" in capsys.readouterr().err
    assert (other / "report.html").read_bytes() == own
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run: give the folder" in capsys.readouterr().err


def test_data_check(photos, capsys):
    assert main(["data", "check", str(photos)]) == 0
    out = capsys.readouterr().out
    assert "train: 24 images (blue stripes 8, green 8, red 2 8)" in out
    assert "72 images decoded, 0 unreadable, median 40 x 56 pixels" in out
    assert out.splitlines()[-1] == f"next: vitral train {photos} --out runs/NAME"


def test_data_check_names_the_task_and_reads_what_a_flag_asks_for(tmp_path, capsys):
    lines = ["path,label,target,mass"]
    for index in range(24):
        Image.new("RGB", (8, 8), (index, 20, 30)).save(tmp_path / f"{index}.png")
        mass = "" if index % 4 == 0 else index * 2.5
        lines.append(f"{index}.png,{'xy'[index % 2]},{index},{mass}")
    table = "\n".join(lines)
    (tmp_path / "labels.csv").write_text(table)
    assert main(["data", "check", str(tmp_path)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    other = "the data also fits `--task regression`"
    assert first == f"task: classification, 2 classes; {other}"
    flags = ["--task", "regression", "--target", "mass"]
    assert main(["data", "check", str(tmp_path), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    other = "the data also fits `--task classification`"
    assert lines[0] == f"task: regression, mass; {other}"
    assert lines[1] == "train: 17 images"  # classes are not counted
    command = f"vitral train {tmp_path} {' '.join(flags)}"
    assert lines[-1] == f"next: {command} --out runs/NAME"
    assert main(["data", "check", str(tmp_path), "--target", "height"]) == 3
    assert "height" in capsys.readouterr().err


def test_data_split(photos, tmp_path, capsys):
    file = tmp_path / "split.csv"
    assert main(["data", "split", str(photos), "--out", str(file)]) == 0
    assert len(file.read_text().splitlines()) == 73
    assert main(["data", "split", str(photos), "--out", str(file)]) == 2
    assert "exists: give another `--out`" in capsys.readouterr().err


def test_shares_of_data_with_its_own_splits_are_said_to_do_nothing(tmp_path, capsys):
    for number, split in enumerate(["train", "val", "test"] * 2):
        for name in "ab":
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            photo(number, number).save(folder / f"{number}.png")
    words = ["data", "split", str(tmp_path / "data"), "--val", "0.4"]
    assert main([*words, "--out", str(tmp_path / "split.csv")]) == 0
    said = capsys.readouterr().out
    assert "note: train, val and test are the data's own: no shares were taken" in said


def test_models_lists_parameters(capsys):
    assert main(["models", "vit_ti16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "5,717,416" in lines[1]


def test_demo_refuses_a_folder_in_use(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "is in use" in capsys.readouterr().err


def test_weights_of_a_head_only(tmp_path, photos, capsys):
    file = tmp_path / "head.safetensors"
    save_file({"head.weight": torch.ones(3, 24)}, file)
    words = ["train", str(photos), "--out", str(tmp_path / "run")]
    assert main([*words, "--weights", str(file)]) == 4
    assert "holds a model that vitral does not have. Use" in capsys.readouterr().err


def test_control_characters_of_files_do_not_reach_the_terminal(tmp_path, capsys):
    save_file({"\x1b[2Jx\x9b31m\u202e": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert main(["convert", str(tmp_path / "w.safetensors"), "--explain"]) == 4
    said = capsys.readouterr().err
    assert r"\x1b[2Jx\x9b31m\u202e" in said
    assert said.isprintable() or set("\x1b\x9b\u202e").isdisjoint(said)
    logs.say("note: \x1b]0;title\x07 in a name")
    assert capsys.readouterr().out == "note: \\x1b]0;title\\x07 in a name\n"
