"""Killed runs of every kind against unbroken ones, and the command that does it."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vitral.cli.verbs.verify_resume as verb
from photos import make_photos
from training_server import KINDS, STEPS, Server
from vitral.cli import main
from vitral.errors import VitralError, WeightsError
from vitral.training import CheckpointStore
from vitral.workflows.resume_check.compare_runs import diff_runs
from vitral.workflows.resume_check.fault_injection import (
    KILL_MIX,
    Timings,
    last_step,
    sample_kill_points,
)
from vitral.workflows.resume_check.verify import run_reference, run_with_kills

KILLS = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=9)


@pytest.fixture(scope="module")
def server(photos):
    result = Server(photos)
    yield result
    result.close()


@pytest.fixture(scope="module")
def wholes(server, tmp_path_factory):
    """An unbroken run of each kind, when it is asked for, and its pace."""
    root = tmp_path_factory.mktemp("whole")
    paces = {}

    def whole(kind):
        out = root / kind
        if kind not in paces:
            paces[kind] = run_reference(server.starter(kind), out, STEPS)
        return out, paces[kind]

    return whole


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_five_kills_in_one_run_change_no_bit(server, wholes, tmp_path, seed, kind):
    """In all 30 kills; mixup, EMA, accumulation and drop-path are in the first three.

    An epoch has two batches, so both its middle and its end are hit.
    """
    whole, pace = wholes(kind)
    result = run_with_kills(
        server.starter(kind),
        tmp_path / "killed",
        whole,
        pace,
        steps=STEPS,
        kills=KILLS,
        seed=seed,
    )
    assert result.diff.differences == ()
    assert result.missed == 0, result.lines()
    assert len(result.kills) == KILLS
    assert result.diff.lines >= STEPS
    assert result.diff.tensors > 50
    assert not list((tmp_path / "killed").rglob(".*"))
    result.require_equal(tmp_path)


FAULTS = {
    "hidden state": "metrics.jsonl differs first in line",
    "global generator": "metrics.jsonl differs first in line",
    "lost permutation": "The order of the examples differs",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_only_a_resumed_run_shows_is_caught(server, tmp_path, kind):
    """The controls: state of the process, a generator that no step seeds, an order
    that depends on how often it was asked for."""
    assert server.start(tmp_path / "whole", kind).wait() == 0
    child = server.start(tmp_path / "killed", kind, kill_when="/step-00000009")
    assert child.wait() == -signal.SIGKILL
    assert server.start(tmp_path / "killed", kind).wait() == 0
    found = diff_runs(tmp_path / "whole", tmp_path / "killed").differences
    assert any(FAULTS[kind] in text for text in found), found
    assert any("/model.safetensors: " in text for text in found)
    assert any("model/model.safetensors: " in text for text in found)


NAMES = (
    "split.csv",
    "contents.csv",
    "config.json",
    "data.json",
    "environment.json",
    "command.txt",
    "tokens.bin",
    "tokens.json",
    "baselines.json",
    "checkpoints",
    "metrics.jsonl",
    r"/\.new-step-00000003-\d+",
    "state.json",
    "manifest.json",
    "/step-00000003",
    "/model",
    "model/config.json",
    r"/\.old-step-00000003-\d+",
    "predictions",
    "val.json",
    "val.csv",
    "test.csv",
    "test.json",
    "README.md",
    "inspection",
    "report.npz",
    "report.json",
    "report.html",
)


def test_a_kill_before_every_file_of_a_run(server, tmp_path):
    """One run, killed once before each name that a run gives: at its start, while
    frozen outputs are computed, in saves, in the evaluation and the report after the
    last step. The same command goes on each time."""
    kind = "frozen, report"
    whole = tmp_path / "whole"
    assert server.start(whole, kind).wait() == 0
    out = tmp_path / "killed"
    for name in NAMES:
        code = server.start(out, kind, kill_when=name).wait()
        assert code == -signal.SIGKILL, f"{name} was not made"
    assert server.start(out, kind).wait() == 0
    assert diff_runs(whole, out).differences == ()
    made = {path.name for path in out.rglob("*") if path.is_file()}
    assert made == {path.name for path in whole.rglob("*") if path.is_file()}
    # The list of places is complete; the optimizer's and the average's files are
    # written as the model's.
    assert made - {"ema.safetensors", "optimizer.safetensors"} <= {
        *(name.rpartition("/")[2] for name in NAMES),
        "model.safetensors",
    }


def test_sigterm_saves_twenty_times_and_exits_143(server, tmp_path):
    """One run of many steps, stopped and resumed twenty times."""
    steps, generator = 150, random.Random(8)
    out = tmp_path / "stopped"
    for _ in range(20):
        before = last_step(out)
        child = server.start(out, "all at once", steps=steps)
        # A resumed run may first cut its log back: its saves are what is left.
        wanted = before + generator.randint(1, 2)
        while last_step(out) < wanted:
            assert child.poll() is None, "it ended before it was stopped"
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.02))
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 143
        said = server.said()
        saved = CheckpointStore(out / "checkpoints").latest()
        assert saved.skipped == ()
        assert f"Stopped by SIGTERM: step {saved.step} of {steps} is saved" in said
        assert saved.step == last_step(out) >= wanted
    assert server.start(out, "all at once", steps=steps).wait() == 0
    assert server.start(tmp_path / "whole", "all at once", steps=steps).wait() == 0
    assert diff_runs(tmp_path / "whole", out).differences == ()


def check_after_a_full_disk(code: int, out: Path, said: str) -> bool:
    """Whether the run was stopped; what there is then is whole, or not there."""
    store = CheckpointStore(out / "checkpoints")
    if code == 0:
        return False
    assert code == 4, said
    assert any(w in said for w in ("could not be", "cannot be written", "are free"))
    assert "ree space" in said or "ree some space" in said
    latest = store.latest()
    assert latest.skipped == ()
    if latest.step is not None:
        store.load(latest.step)
    return True


@pytest.mark.parametrize("small_disk", ["8m"], indirect=True)
def test_a_disk_that_is_full_at_twenty_levels(server, wholes, small_disk, tmp_path):
    """From no room at all to enough of it: a checkpoint stays loadable, and with room
    the same command ends with the same bits."""
    whole, _ = wholes("mae")
    used = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    stopped = []
    for level in range(20):
        ballast, out = small_disk / "ballast", small_disk / f"{level}"
        shutil.rmtree(small_disk / f"{level - 1}", ignore_errors=True)
        status = shutil.disk_usage(small_disk)
        # The peak: a third checkpoint is written before the oldest of two goes.
        room = round(1.5 * used * level / 19)
        ballast.write_bytes(bytes(status.free - room))
        code = server.start(out, "mae").wait()
        ballast.unlink()
        stopped.append(check_after_a_full_disk(code, out, server.said()))
        assert server.start(out, "mae").wait() == 0
        assert diff_runs(whole, out).differences == (), level
        assert not list(out.rglob(".*"))
    assert stopped[0]
    assert not stopped[-1]
    assert sum(stopped) >= 12


def test_files_that_may_not_grow(server, wholes, tmp_path):
    """The same where nothing can be mounted: a limit on the size of a file."""
    whole, _ = wholes("frozen")
    for limit in (0, 3_000, 40_000):
        out = tmp_path / f"{limit}"
        code = server.start(out, "frozen", file_limit=limit).wait()
        assert check_after_a_full_disk(code, out, server.said())
        assert server.start(out, "frozen").wait() == 0
        assert diff_runs(whole, out).differences == ()


# the command


@pytest.fixture
def importable(monkeypatch):
    """The processes that the command starts find this vitral."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"))


def test_the_command_really(photos, importable, capsys, tmp_path):
    """Three interpreters: unbroken, killed, resumed."""
    flags = ["--model", "vit_mu16", "--image-size", "32", "48", "--batch_size=9"]
    flags += ["--set", "depth=1", "embed_dim=8", "mlp_dim=12", "num_heads=2"]
    words = ["verify-resume", "small.scratch", str(photos), *flags, "--device", "cpu"]
    out = tmp_path / "both"
    words += ["--steps", "6", "--kills", "1", "--seed", "4", "--out", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(
        f"unbroken: vitral train {photos} --recipe small.scratch"
    )
    assert "--checkpoint-every 1 --eval-every 3" in shown[0]
    assert shown[2].split() == ["kill", "where", "goes", "on", "from"]
    assert shown[3].split()[0] == "1"
    assert shown[4].startswith("equal bit for bit after 1 kills: ")
    assert shown[5] == f"files: {out}"
    assert json.loads((out / "killed" / "config.json").read_text())["seed"] == 4


def test_the_command_on_a_run_that_is_not_the_same(server, monkeypatch, capsys):
    commands = []

    def starter(command):
        commands.append(command)
        return server.starter("hidden state")

    monkeypatch.setattr(verb, "make_starter", starter)
    words = ["verify-resume", "small.scratch", "--steps", str(STEPS), "--kills", "3"]
    assert main([*words, "--warmup", "2"]) == 6
    said = capsys.readouterr()
    assert (
        "vitral verify-resume: The run that was killed and resumed is not" in said.err
    )
    assert "metrics.jsonl differs first in line" in said.err
    assert "tensors differ, first " in said.err
    assert "--device cpu" in said.err
    assert "kill  where" in said.out
    (command,) = commands
    assert command[2:6] == ["train", "digits", "--recipe", "small.scratch"]
    assert [w for w in command if w == "--warmup"] == ["--warmup"]
    folder = Path(said.err.split("Both are in ")[1].split(". State")[0])
    assert (folder / "killed" / "metrics.jsonl").is_file()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the name of a recipe comes first"),
        (["small.scrach"], "Unknown recipe `small.scrach`"),
        (["small.scratch", "--steps", "1"], "`--steps` must be at least 2: got 1"),
        (["small.scratch", "--kills", "0"], "`--kills` must be at least 1: got 0"),
        (["small.scratch", "--out", "used"], "The folder used is in use"),
        (["small.scratch", "--lear", "3"], "--lear"),
    ],
)
def test_what_the_command_refuses(
    words, sentence, importable, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert main(["verify-resume", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_not_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["verify-resume", "small.scratch"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err


def test_a_training_that_fails_by_itself(tmp_path):
    """Its exit code and its last words, and no comparison."""
    code = "import sys; print('first\\nno such data', file=sys.stderr); sys.exit(3)"
    start = verb.make_starter(["-c", code])
    with pytest.raises(VitralError, match=r"code 3\. It said: no such data") as got:
        run_reference(start, tmp_path / "run", 5)
    assert got.value.exit_code == 3


def test_a_process_that_outruns_its_kills(server, wholes, tmp_path):
    """It is counted, not taken for a kill."""
    whole, pace = wholes("mae")
    late = Timings(start=1000.0, step=1000.0, save=1000.0, end=1000.0)
    assert pace.start > 0
    result = run_with_kills(
        server.starter("mae"), tmp_path / "k", whole, late, steps=STEPS, kills=1, seed=0
    )
    assert result.missed == 1
    assert result.kills == ()
    assert result.lines()[-1] == "1 kills came too late, after the end of the run."


# where the kills are aimed at, and what is compared


def test_kills_are_spread_over_all_kinds_of_work():
    for seed in range(20):
        found = sample_kill_points(11, 40, seed)
        places = [aim.phase for aim in found]
        assert all(
            places.count(place) >= 2 * KILL_MIX.count(place) for place in KILL_MIX
        )
        assert [aim.step for aim in found] == sorted(aim.step for aim in found)
        assert "end" not in places[: -places.count("end")]
        assert all(1 <= aim.step < 40 and 0 <= aim.delay < 1 for aim in found)
    assert sample_kill_points(5, 20, 1) == sample_kill_points(5, 20, 1)
    assert sample_kill_points(5, 20, 1) != sample_kill_points(5, 20, 2)


def made_run(folder: Path) -> Path:
    """The parts of a run that are compared."""
    tensors = {"model": {"a": torch.zeros(3, 5), "b": torch.ones(2)}}
    (folder / "model").mkdir(parents=True)
    (folder / "predictions").mkdir()
    store = CheckpointStore(folder / "checkpoints")
    store.prepare()
    store.save(4, tensors, {"loop": {"step": 4, "ids": "abc", "waiting": 0}})
    save_file(tensors["model"], folder / "model" / "model.safetensors")
    record = {
        "event": "train",
        "step": 4,
        "loss": 0.5,
        "images_per_second": len(str(folder)),
    }
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "split.csv").write_text("path\n")
    (folder / "predictions" / "test.csv").write_text("1\n")
    return folder


@pytest.fixture
def two(tmp_path):
    return made_run(tmp_path / "one"), made_run(tmp_path / "another")


def change_tensor(folder: Path, name: str, change) -> None:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = change(tensors[name])
    save_file({k: v for k, v in tensors.items() if v is not None}, file)


def test_equal_runs(two):
    same = diff_runs(*two)
    assert same.differences == ()
    assert (same.tensors, same.lines, same.files) == (4, 1, 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t.index_put(
                (torch.tensor(1), torch.tensor(2)), torch.tensor(-0.0)
            ),
            "model.safetensors: 1 of 2 tensors differ, first a, element 7: 0 and -0.",
        ),
        (
            lambda t: t.double(),
            "first a (torch.float32 [3, 5] and torch.float64 [3, 5])",
        ),
        (lambda t: t[:2], "first a (torch.float32 [3, 5] and torch.float32 [2, 5])"),
        (lambda t: None, "first a, which only one of them has."),
    ],
    ids=["minus zero", "dtype", "shape", "missing"],
)
def test_one_changed_tensor(two, change, sentence):
    change_tensor(two[1], "a", change)
    (found,) = diff_runs(*two).differences
    assert sentence in found


def test_other_differences(two):
    one, other = two
    (other / "predictions" / "test.csv").write_text("2\n")
    (other / "predictions" / "val.csv").write_text("2\n")
    (other / "model" / "model.safetensors").unlink()
    with (other / "metrics.jsonl").open("a") as file:
        file.write('{"event": "eval", "step": 4}\n')
    assert diff_runs(one, other).differences == (
        "metrics.jsonl has 1 and 2 lines.",
        f"{other / 'model' / 'model.safetensors'} is missing.",
        "predictions/test.csv differs.",
        "predictions/val.csv differs.",
    )
    record = {"event": "train", "step": 4, "loss": 0.25}
    (other / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert (
        "metrics.jsonl differs first in line 1, step 4: `loss` is 0.5 and 0.25."
        in diff_runs(one, other).differences
    )


def test_other_states(two):
    one, other = two
    tensors = {"model": {"a": torch.zeros(3, 5), "b": torch.ones(2)}}
    store = CheckpointStore(other / "checkpoints")
    shutil.rmtree(store.path(4))
    store.save(4, tensors, {"loop": {"step": 4, "ids": "abc", "waiting": 2}})
    assert diff_runs(one, other).differences == ("`waiting` of state.json is 0 and 2.",)
    shutil.rmtree(store.path(4))
    with pytest.raises(WeightsError, match="another has no checkpoint to compare"):
        diff_runs(one, other)
    store.save(5, tensors, {"loop": {"step": 5, "ids": "xyz", "waiting": 0}})
    found = diff_runs(one, other).differences
    assert found[0] == "The last checkpoint is of step 4 and 5."
    assert "The order of the examples differs: their ids have other hashes." in found
