"""metrics.jsonl and what a person sees."""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from vitral.errors import ConfigError, DivergedError, WeightsError
from vitral.training import MetricsLog, Progress


def test_lines_are_on_disk_at_once_and_can_be_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"event": "train", "step": 1, "loss": 0.1 + 0.2})
    length = log.length
    assert length == path.stat().st_size
    log.append({"event": "train", "step": 2, "loss": 0.5})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(lines[0])["loss"] == 0.1 + 0.2
    assert log.truncate(length)
    log.append({"event": "train", "step": 3, "loss": 0.4})
    log.sync()
    log.close()
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 3]


def test_reopening_appends_and_knows_its_length(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    log = MetricsLog(path)
    assert log.length == 12
    assert not log.truncate(13)
    log.append({"step": 2})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_numbers(tmp_path, value):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(DivergedError, match=r"`loss` is .* at step 7 \(eval\)"):
        log.append({"event": "eval", "step": 7, "loss": value})
    assert log.length == 0
    log.close()


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="choose another output folder"):
        MetricsLog(tmp_path / "nowhere" / "metrics.jsonl")


def test_full_disk():
    log = MetricsLog(Path("/dev/full"))
    with pytest.raises(WeightsError, match="No space left on device"):
        log.append({"step": 1})
    log.close()


def test_full_disk_in_the_middle_of_a_line(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        log = MetricsLog(tmp_path / "metrics.jsonl")
        log.append({"text": "x" * 4000})
        length = log.length
        with pytest.raises(WeightsError, match="No space left on device"):
            log.append({"text": "y" * 9000})
        assert os.path.getsize(log.path) == length
        log.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_plain_lines():
    stream = io.StringIO()
    with Progress(20, stream) as progress:
        progress.start(4)
        progress.update(5, {"loss": 1.0})  # not a logged step: no line
        progress.log_step(6, {"loss": 0.51234567, "lr": 0.001})
        progress.note("evaluation at step 6: accuracy 0.5")
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 6/20  loss 0.5123  lr 0.001  ETA 0:00:0")
    assert second == "evaluation at step 6: accuracy 0.5"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_live_block(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(20, stream) as progress:
        progress.start(0)
        progress.log_step(
            5, {"loss": 0.25, "images_per_second": 31.5, "data_wait": 0.1}
        )
        progress.set_best("accuracy", 0.75, 4)
        progress.note("a [note] stays")
        console = Console(file=io.StringIO(), width=100)
        console.print(progress.render())
        text = console.file.getvalue()
    for part in (
        "step 5/20",
        "ETA 0:00:0",
        "loss",
        "0.25",
        "images per second",
        "31.5",
        "data wait",
        "accuracy 0.75 at step 4",
    ):
        assert part in text
    assert "a [note] stays" in stream.getvalue()


def test_a_closed_output_is_no_reason_to_fail():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with Progress(20, Broken()) as progress:
        progress.log_step(1, {"loss": 0.5})
    closed = io.StringIO()
    with Progress(20, closed) as progress:
        closed.close()
        progress.note("nobody reads this")
