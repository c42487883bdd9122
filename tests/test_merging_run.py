"""Token merging of a trained run: opened, evaluated, predicted, looked at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vitral as vt
from photos import make_photos, tiny_config
from vitral.cli import main
from vitral.run.folder import open_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=15)


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitral.run.finish.write_report", lambda out, data: out)
        patch.setattr("vitral.run.finish.look", lambda *arguments: None)
        out = tmp_path_factory.mktemp("runs") / "one"
        vt.train(tiny_config(photos, loop={"steps": 4}), out, device="cpu")
    return out


def a_photo(photos: Path) -> Path:
    return sorted(photos.rglob("*.png"))[0]


def test_a_run_is_opened_merging(run, photos):
    plain, merging = open_run(run), open_run(run, merge=2)
    assert merging.model.config.merge_rate == 2
    assert vt.open(run).merge is None
    pixels = plain.pixels(a_photo(photos))[None]
    with torch.no_grad():
        expected, found = plain.model.eval()(pixels), merging.model.eval()(pixels)
    assert not torch.equal(expected, found)
    with torch.no_grad():
        assert torch.equal(open_run(run, merge=0).model.eval()(pixels), expected)


def test_eval_keeps_the_result_of_the_run(run, capsys):
    before = (run / "predictions" / "test.json").read_bytes()
    assert main(["eval", str(run), "--merge", "2"]) == 0
    assert "test-merge2" in capsys.readouterr().out
    assert (run / "predictions" / "test.json").read_bytes() == before
    found = json.loads((run / "evaluations" / "test-merge2.json").read_text())
    assert found["n"] == json.loads(before)["n"]
    assert found["nll"] != json.loads(before)["nll"]
    assert main(["eval", str(run), "--merge", "0"]) == 0
    off = json.loads((run / "evaluations" / "test-merge0.json").read_text())
    assert off["nll"] == json.loads(before)["nll"]


def test_predict_and_inspect_merge(run, photos, tmp_path, capsys):
    photo = str(a_photo(photos))
    rows = []
    for words in ([], ["--merge", "2"]):
        assert main(["predict", str(run), photo, *words]) == 0
        rows.append(json.loads(capsys.readouterr().out)["confidence"])
    assert rows[0] != rows[1]
    for name, words in (("plain", []), ("merged", ["--merge", "2"])):
        command = ["inspect", str(run), photo, "--what", "rollout", *words]
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    maps = [
        np.load(tmp_path / n / "rollout.npz")["rollout"] for n in ("plain", "merged")
    ]
    assert maps[0].shape == maps[1].shape
    assert not np.allclose(*maps, atol=1e-4)


def test_words_that_do_not_go_together(run, capsys):
    command = ["eval", str(run), "--merge", "2", "--protocol", "knn"]
    assert main(command) == 2
    assert "`--merge` goes with `--protocol classify`" in capsys.readouterr().err
    assert main(["eval", str(run), "--merge", "-1"]) == 2
    assert "`merge_rate` must be at least 0" in capsys.readouterr().err
