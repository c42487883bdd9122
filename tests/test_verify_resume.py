"""Killed runs of every kind against unbroken ones, and the command that does it."""

import shutil
import signal
import time
from pathlib import Path

import pytest

import vitral.cli.verify_resume as verb
from forking import KINDS, STEPS, Server
from photos import make_photos
from vitral.cli import main
from vitral.errors import ConfigError, GateError, VitralError, WeightsError
from vitral.run.killing import ROUND, aims
from vitral.run.sameness import compare_folders
from vitral.run.verifying import killed, unbroken

KILLS = 5
BROKEN = ("hidden state", "global generator", "lost permutation")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", per_class=9)


@pytest.fixture(scope="module")
def server(photos):
    result = Server(photos)
    yield result
    result.close()


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_five_kills_in_one_run_change_no_bit(server, tmp_path, seed, kind):
    """In all 30 kills; mixup, EMA, accumulation and drop-path are in the first three.

    An epoch has two batches, so both its middle and its end are hit.
    """
    start = server.starter(kind)
    pace = unbroken(start, tmp_path / "whole", STEPS)
    result = killed(
        start,
        tmp_path / "killed",
        tmp_path / "whole",
        pace,
        steps=STEPS,
        kills=KILLS,
        seed=seed,
    )
    assert result.same.differences == ()
    assert result.missed == 0, result.lines()
    assert result.same.lines >= STEPS
    assert result.same.tensors > 50
    assert not list((tmp_path / "killed").rglob(".*"))
    result.require_equal(tmp_path)
