"""Token merging of a trained run: opened, evaluated, predicted, looked at."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import vitral as vt
from helpers import randomise
from server_process import Client, jpeg, request, serving
from vitral.cli import main
from vitral.cli.flags import SCHEDULES
from vitral.errors import ConfigError
from vitral.models import MergeSchedule, set_merge
from vitral.workflows.run import open_run


def a_photo(photos: Path) -> Path:
    return sorted(photos.rglob("*.png"))[0]


def test_a_run_is_opened_merging(run, photos):
    plain, merging = open_run(run), open_run(run, merge=2)
    assert merging.model.config.merge_rate == 2
    assert vt.open(run).merge is None
    spread = vt.open(run, merge=2, merge_schedule="every_fourth")
    assert spread.model.config.merge_rates == (0, 8, 0)
    assert (spread.merge, spread.merge_schedule) == (2, "every_fourth")
    pixels = plain.preprocess_input(a_photo(photos))[None]
    with torch.no_grad():
        expected, found = plain.model.eval()(pixels), merging.model.eval()(pixels)
    assert not torch.equal(expected, found)
    with torch.no_grad():
        assert torch.equal(open_run(run, merge=0).model.eval()(pixels), expected)


def test_eval_keeps_the_result_of_the_run(run_copy, capsys):
    before = (run_copy / "predictions" / "test.json").read_bytes()
    assert main(["eval", str(run_copy), "--merge", "2"]) == 0
    assert "test-merge2" in capsys.readouterr().out
    assert (run_copy / "predictions" / "test.json").read_bytes() == before
    found = json.loads((run_copy / "evaluations" / "test-merge2.json").read_text())
    assert found["n"] == json.loads(before)["n"]
    assert found["nll"] != json.loads(before)["nll"]
    assert main(["eval", str(run_copy), "--merge", "0"]) == 0
    off = json.loads((run_copy / "evaluations" / "test-merge0.json").read_text())
    assert off["nll"] == json.loads(before)["nll"]
    spread = ["--merge-schedule", "every_fourth"]
    assert main(["eval", str(run_copy), "--merge", "2", *spread]) == 0
    other = run_copy / "evaluations" / "test-merge2-every_fourth.json"
    assert json.loads(other.read_text())["nll"] not in (off["nll"], found["nll"])
    again = json.loads((run_copy / "evaluations" / "test-merge2.json").read_text())
    assert again["nll"] == found["nll"]
    assert main(["eval", str(run_copy), "--merge", "0", *spread]) == 0
    assert not (run_copy / "evaluations" / "test-merge0-every_fourth.json").exists()


def test_predict_and_inspect_merge(run, photos, tmp_path, capsys):
    photo = str(a_photo(photos))
    spread = ["--merge", "2", "--merge-schedule", "every_fourth"]
    words = {"plain": [], "merged": ["--merge", "2"], "spread": spread}
    rows = []
    for flags in words.values():
        assert main(["predict", str(run), photo, *flags]) == 0
        rows.append(json.loads(capsys.readouterr().out)["confidence"])
    assert len(set(rows)) == 3
    opened = vt.open(run, merge=2, merge_schedule="every_fourth")
    assert rows[2] == pytest.approx(opened.predict([photo])[0].confidence, abs=1e-6)
    for name, flags in words.items():
        command = ["inspect", str(run), photo, "--what", "rollout", *flags]
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    maps = [np.load(tmp_path / n / "rollout.npz")["rollout"] for n in words]
    assert maps[0].shape == maps[1].shape == maps[2].shape
    assert not np.allclose(maps[0], maps[1], atol=1e-4)
    assert not np.allclose(maps[1], maps[2], atol=1e-4)


def test_what_an_exported_file_merges_is_fixed(run, photos, tmp_path, capsys):
    spread = ["--merge", "2", "--merge-schedule", "every_fourth"]
    plain, merging = str(tmp_path / "plain.onnx"), str(tmp_path / "merging.onnx")
    assert main(["export", str(run), plain]) == 0
    assert main(["export", str(run), merging, *spread]) == 0
    capsys.readouterr()
    photo = str(a_photo(photos))
    for file, words, inside in (
        (plain, ["--merge", "2"], "nothing"),
        (merging, ["--merge", "2"], "2 tokens a block, spread by every_fourth"),
        (merging, ["--merge", "0"], "2 tokens a block, spread by every_fourth"),
    ):
        for command in (["predict", file, photo], ["eval", file, str(photos)]):
            assert main([*command, *words]) == 2, command
            said = capsys.readouterr().err
            assert f"is fixed in its file: it merges {inside}." in said
            assert "export the run again" in said
    for file, words in ((plain, ["--merge", "0"]), (merging, spread), (merging, [])):
        assert main(["predict", file, photo, *words]) == 0
        found = json.loads(capsys.readouterr().out)["confidence"]
        own = [] if file == plain else spread
        assert main(["predict", str(run), photo, *own]) == 0
        wanted = json.loads(capsys.readouterr().out)["confidence"]
        assert found == pytest.approx(wanted, abs=1e-4)


def test_an_export_that_merges_leaves_the_run_as_it_was(run, photos, tmp_path):
    opened = vt.open(run)
    before = opened.model.config
    options = vt.export.ExportOptions(data=str(photos), merge=2)
    vt.export.onnx(opened, tmp_path / "merging.onnx", options)
    assert opened.model.config == before
    assert vt.open(tmp_path / "merging.onnx").model.config.merge_rate == 2


def test_a_run_that_merges_by_itself_is_exported_so(run, photos, tmp_path, capsys):
    found = vt.open(run)
    set_merge(found.model, 2, "every_fourth")
    own = tmp_path / "own"
    vt.save(own, found.model, found.preprocess, classes=found.classes)
    for name, words, rate in (("as", [], 2), ("off", ["--merge", "0"], 0)):
        file = tmp_path / f"{name}.onnx"
        assert main(["export", str(own), str(file), "--data", str(photos), *words]) == 0
        config = vt.open(file).model.config
        assert config.merge_rate == rate


def test_the_server_merges_by_the_schedule(run, tmp_path):
    photo = jpeg(3)
    trained = vt.open(run)
    randomise(trained.model)  # so that what merges tells
    folder = tmp_path / "model"
    vt.save(folder, trained.model, trained.preprocess, classes=trained.classes)
    opened = vt.open(folder, merge=2, merge_schedule="every_fourth")
    pixels = opened.preprocess_input(photo)[None]
    with torch.no_grad():
        expected = opened.model(pixels)[0]
        for rate in (0, 2):
            other = vt.open(folder, merge=rate).model(pixels)[0]
            assert (expected - other).abs().max() > 1e-3
    spread = ["--merge", "2", "--merge-schedule", "every_fourth"]
    with serving(folder, *spread) as server, Client(server.port) as client:
        reply = client.ask(request(photo, "/predict?logits=1"))
    assert reply is not None
    found = torch.tensor(reply.json["logits"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_words_that_do_not_go_together(run, photos, tmp_path, capsys):
    command = ["eval", str(run), "--merge", "2", "--protocol", "knn"]
    assert main(command) == 2
    assert "`--merge` goes with `--protocol classify`" in capsys.readouterr().err
    spread = ["--merge-schedule", "every_fourth"]
    assert main(["eval", str(run), *spread, "--merge", "2", "--protocol", "knn"]) == 2
    assert "goes with `--protocol classify`" in capsys.readouterr().err
    photo = str(a_photo(photos))
    verbs = {
        "eval": ["eval", str(run)],
        "predict": ["predict", str(run), photo],
        "inspect": ["inspect", str(run), photo, "--out", str(tmp_path / "looks")],
        "serve": ["serve", str(run)],
        "export": ["export", str(run), str(tmp_path / "x.onnx")],
    }
    for verb, command in verbs.items():
        assert main([*command, *spread]) == 2
        said = capsys.readouterr().err
        assert said == (
            f"vitral {verb}: `--merge-schedule every_fourth` says how merged tokens "
            "are spread over the blocks, and not how many: add `--merge R`, or leave "
            "it out.\n"
        )
        assert main([*command, "--merge", "-1"]) == 2
        assert "`--merge` must be at least 0" in capsys.readouterr().err
        assert main([*command, "--merge", "2", "--merge-schedule", "fourth"]) == 2
        assert "invalid choice: 'fourth'" in capsys.readouterr().err
        assert main([verb, "--help-all"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "--merge-schedule {constant,decreasing,every_fourth}" in told
        assert "default: as trained" in told
    assert not (tmp_path / "looks").exists()
    with pytest.raises(ConfigError, match="and not how many: give `merge` as well"):
        vt.open(run, merge_schedule="decreasing")
    assert get_args(MergeSchedule) == SCHEDULES
