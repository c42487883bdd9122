"""A run that has not ended says so: where it stopped, why, and how it resumes."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import vitral as vt
from helpers import captured_log
from photos import tiny_config
from vitral.data import Loader
from vitral.errors import ConfigError, InterruptedRun, VitralError
from vitral.progress import PROGRESS_FILE, unfinished_sentence
from vitral.report import model_card, write_html
from vitral.training import OptimConfig
from vitral.workflows.run import open_run
from vitral.workflows.run_lock import LOCK_FILE, lock_file

CPU = vt.Runtime(device="cpu")
LOOP = {"steps": 6, "eval_every": 2, "checkpoint_every": 2, "log_every": 1}


def stop_at(monkeypatch, update, action):
    """Call `action` while batch `update` is read, from 1."""
    real, seen = Loader.epoch, []

    def stopping(self, number, start=0):
        for batch in real(self, number, start):
            if self.shuffle:
                seen.append(batch)
                if len(seen) == update:
                    action()
            yield batch

    monkeypatch.setattr(Loader, "epoch", stopping)


@pytest.fixture(scope="module")
def stopped(few_photos, tmp_path_factory) -> Path:
    """A run of six updates that SIGTERM stops at the third; nobody may change it."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRun):
            vt.train(tiny_config(few_photos, loop=LOOP), out, runtime=CPU)
    (out / "command.txt").write_text("vitral train photos --out run\n")
    return out


@pytest.fixture
def broken(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def everywhere(run: Path, sentence: str) -> None:
    """Check card, report and the warning on opening."""
    assert unfinished_sentence(run) == sentence
    assert sentence in model_card(run)
    page = write_html([run], run / "page.html").read_text()
    assert page.count(sentence) == 2
    assert "left no note" not in page


def test_a_stopped_run_says_where_and_why(broken):
    sentence = (
        "The training stopped at update 3 of 6: signal SIGTERM, as from a time limit "
        "or `kill`. It resumes at update 3 with: vitral train photos --out run --resume"
    )
    assert unfinished_sentence(broken) == sentence
    shown = "The training stopped at update 3 of 6: signal SIGTERM"
    assert shown in (broken / "model" / "README.md").read_text()
    page = write_html([broken], broken / "page.html").read_text()
    assert page.count(sentence) == 2
    assert "left no note" not in page
    with captured_log() as lines:
        open_run(broken)
    assert f"{broken}: {sentence}" in lines


def test_a_resume_says_where_and_ends_clean(few_photos, broken, capsys):
    config = tiny_config(few_photos, loop=LOOP)
    vt.train(config, broken, runtime=CPU, resume=True)
    checkpoint = broken / "checkpoints" / "step-00000003"
    assert f"resumes at update 3 of 6 from {checkpoint}\n" in capsys.readouterr().err
    assert not (broken / PROGRESS_FILE).exists()
    assert unfinished_sentence(broken) == ""
    for file in ("report.html", "model/README.md"):
        assert "stopped" not in (broken / file).read_text()
    vt.train(config, broken, runtime=CPU, resume=True)  # an ended run stays one
    assert unfinished_sentence(broken) == ""


def test_a_refused_resume_keeps_the_reason(few_photos, broken):
    before = unfinished_sentence(broken)
    with pytest.raises(ConfigError, match="cannot go on with"):
        vt.train(tiny_config(few_photos, seed=9), broken, runtime=CPU, resume=True)
    assert unfinished_sentence(broken) == before


def test_a_killed_run_has_no_reason(broken):
    (broken / PROGRESS_FILE).write_text('{"steps": 6}')
    shutil.rmtree(broken / "checkpoints" / "step-00000003")
    word = "without a word, as when it is killed or the machine stops"
    end = "with: vitral train photos --out run --resume"
    everywhere(
        broken,
        f"The training stopped at update 3 of 6: {word}. It resumes at update 2 {end}",
    )
    (broken / PROGRESS_FILE).unlink()  # a run of an older version
    (broken / "model" / "README.md").unlink()
    shutil.rmtree(broken / "checkpoints")
    everywhere(
        broken,
        f"The training stopped at update 3: {word}. It starts again at update 0 {end}",
    )


def test_a_run_under_lock_is_running(broken):
    (broken / PROGRESS_FILE).write_text('{"steps": 6}')
    with lock_file(broken / LOCK_FILE):
        everywhere(
            broken,
            "The training is still running, at update 3 of 6: this is the best model "
            "yet.",
        )


def test_a_full_disk_is_the_reason(few_photos, tmp_path, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    stop_at(monkeypatch, 4, fail)
    with pytest.raises(VitralError, match="could not be written"):
        vt.train(tiny_config(few_photos, loop=LOOP), tmp_path / "run", runtime=CPU)
    sentence = unfinished_sentence(tmp_path / "run")
    assert sentence.startswith(
        "The training stopped at update 3 of 6: OSError: [Errno 28] No space left on "
        "device: 'somewhere'. Train with `resume` into the same folder: it resumes at "
        "update 2."
    )
    assert "Errno 28" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_an_early_stop_is_an_event(few_photos, tmp_path):
    loop = LOOP | {"steps": 12, "patience": 1}
    config = tiny_config(few_photos, loop=loop, optim=OptimConfig(lr=1e-12))
    out = tmp_path / "run"
    vt.train(config, out, runtime=CPU)
    text = (out / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (note,) = (line for line in lines if line["event"] == "note")
    assert note["text"] == (
        "stopped early at update 4 of 12: patience 1 ran out, the best accuracy is "
        "that of update 4"
    )
    assert note["text"] in (out / "report.html").read_text()
    assert unfinished_sentence(out) == ""
