"""A power cut at any moment of a run: the last checkpoint is there, or the one before.

See power.py for what a disk may have lost.
"""

import copy
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vitral.weights
from photos import make_photos, tiny_config
from power import Crash, Recorder, crashes, read_tree, without_a_cut, write_tree
from run_folders import without_report
from vitral import config_io
from vitral.atomic_io import write_json
from vitral.errors import VitralError
from vitral.training import CheckpointStore
from vitral.workflows.resume_check.compare_runs import diff_runs
from vitral.workflows.run_lock import require_usable_folder
from vitral.workflows.runtime import Runtime
from vitral.workflows.train import train

STEPS = 8
LINES = [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 8, 8]
"""The steps in metrics.jsonl: every second one evaluated, then two splits."""


@pytest.fixture(scope="module")
def memory():
    """A folder in memory, where there is one."""
    shared = Path("/dev/shm")
    base = shared if shared.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="vitral-test-", dir=base))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    photos = make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=5)
    loop = {"steps": STEPS, "checkpoint_every": 2, "eval_every": 2, "keep": 1}
    changes = {"depth": 1, "embed_dim": 8, "mlp_dim": 12, "num_heads": 2}
    return tiny_config(photos, loop={**loop, "log_every": 1}, model_changes=changes)


@pytest.fixture(scope="module", autouse=True)
def _no_report() -> Iterator[None]:
    with without_report():
        yield


@pytest.fixture(scope="module")
def recorded(config, memory):
    """A whole run, with every checkpoint marked when `save` came back."""
    root = memory / "disk"
    root.mkdir()
    save = CheckpointStore.save
    with pytest.MonkeyPatch.context() as patch, Recorder(root) as recorder:

        def marked(self, step, tensors, state):
            result = save(self, step, tensors, state)
            recorder.mark((step, read_tree(result)))
            return result

        patch.setattr(CheckpointStore, "save", marked)
        train(config, root / "run", runtime=Runtime(device="cpu"))
    return recorder


@pytest.fixture(scope="module")
def whole(config, memory):
    """The same run, elsewhere, and all of its lines."""
    train(config, memory / "whole", runtime=Runtime(device="cpu"))
    return memory / "whole"


def distinct(found):
    seen: set[int] = set()
    for crash in found:
        key = hash((frozenset(crash.tree.items()), len(crash.marks)))
        if key not in seen:
            seen.add(key)
            yield crash


def test_the_record_is_complete(recorded):
    """Without a power cut the record gives the folder that is there."""
    assert without_a_cut(recorded) == read_tree(recorded.root)
    assert sum(op.kind == "sync" for op in recorded.log) > 40
    assert sum(op.kind == "mark" for op in recorded.log) == 4


KNOWN: dict[int, Any] = {}


def model_step(out: Path) -> int:
    """Of which step model/ is; -1 where it does not say. Read once a content."""
    key = hash(frozenset(read_tree(out / "model").items()))
    if key not in KNOWN:
        KNOWN[key] = vitral.weights.read(out / "model").extra.get("step", -1)
    return int(KNOWN[key])


def loaded(store: CheckpointStore, step: int) -> dict[str, Any]:
    """The state in a checkpoint whose tensors are all of that step, read once."""
    key = hash(frozenset(read_tree(store.path(step)).items()))
    if key not in KNOWN:
        checkpoint = store.load(step)
        assert set(checkpoint.tensors) == {"model", "ema", "optimizer"}
        assert float(checkpoint.tensors["optimizer"]["model.cls_token/step"]) == step
        KNOWN[key] = checkpoint.state
    return KNOWN[key]


def check(crash: Crash, out: Path, config) -> int:
    """What must hold of a folder after a power cut; its newest checkpoint."""
    require_usable_folder(config_io.to_dict(config), out, resume=True)
    saved = dict(crash.marks)
    store = CheckpointStore(out / "checkpoints")
    store.prepare()
    latest = store.latest()
    if latest.step is None:
        assert not saved
        assert latest.skipped == ()  # or the run would refuse to start again
        return 0
    assert latest.step in (max(saved, default=0), max(saved, default=0) + 2)
    assert (
        latest.step not in saved
        or read_tree(store.path(latest.step)) == saved[latest.step]
    )
    state = loaded(store, latest.step)
    assert state["loop"]["step"] == latest.step
    log = (out / "metrics.jsonl").read_bytes()[: state["metrics_bytes"]]
    assert len(log) == state["metrics_bytes"]
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == LINES[: 3 * latest.step // 2]
    best = state["loop"]["best_step"]
    assert best is not None
    assert model_step(out) >= best
    return latest.step


def test_after_a_power_cut_there_is_a_whole_checkpoint(recorded, whole, config, memory):
    """The newest or the one before, with the lines of the log and the best model that
    belong to it; and from some of them the run is finished, to the same bits."""
    found: dict[int, int] = {}
    resumed = 0
    generator = random.Random(3)
    cut = memory / "cut"
    for crash in distinct(crashes(recorded, seed=1, draws=16)):
        write_tree(crash.tree, cut)
        out = cut / "run"
        if not out.is_dir():
            assert not crash.marks
            continue
        step = check(crash, out, config)
        found[step] = found.get(step, 0) + 1
        if generator.random() < 0.003:
            train(config, out, resume=True, runtime=Runtime(device="cpu"))
            assert diff_runs(whole, out).differences == ()
            resumed += 1
    assert sum(found.values()) >= 2000
    assert set(found) == {0, 2, 4, 6, 8}
    assert resumed >= 3


@pytest.mark.parametrize("missing", ["files", "folders"])
def test_the_simulation_would_see_a_missing_flush(recorded, memory, config, missing):
    """The control: the same run, had it flushed its files or its folders only."""
    folders = {op.inode for op in recorded.log if op.kind == "name"}
    weaker = copy.copy(recorded)
    weaker.log = [
        op
        for op in recorded.log
        if op.kind != "sync" or (op.inode in folders) == (missing == "files")
    ]
    faults = 0
    for crash in itertools.islice(distinct(crashes(weaker, seed=1, draws=1)), 400):
        write_tree(crash.tree, memory / "cut")
        try:
            check(crash, memory / "cut" / "run", config)
        except (AssertionError, VitralError, OSError):
            faults += 1
    assert faults > 20


def test_an_atomic_write_is_the_old_file_or_the_new_one(memory):
    root = memory / "atomic"
    root.mkdir()
    with Recorder(root) as recorder:
        for number in range(3):
            write_json(root / "value.json", {"number": number, "text": "x" * 100})
            recorder.mark(number)
    seen = set()
    for crash in distinct(crashes(recorder, seed=2, draws=8)):
        content = crash.tree.get("value.json")
        last = max(crash.marks, default=-1)
        if content is None:
            assert last == -1
            continue
        number = json.loads(content)["number"]
        assert number in (last, last + 1)
        seen.add((last, number))
    assert seen == {(-1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2)}
