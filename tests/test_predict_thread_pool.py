"""vitral.workflows.predict.thread_pool: parts of a work in threads that share the
processors."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from helpers import TINY
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig
from vitral.weights import save
from vitral.workflows.predict.thread_pool import choose_num_threads, run_in_threads
from vitral.workflows.run import Run, open_run


@pytest.fixture(autouse=True)
def six_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder: Path = tmp_path_factory.mktemp("streams") / "model"
    config = ViTConfig(**TINY)
    preprocess = Preprocess(image_size=config.image_size)
    classes = tuple("abcdefghijk"[: config.num_classes])
    save(folder, ViT(config), preprocess, classes=classes)
    return open_run(folder)


def test_every_part_is_done_once_by_as_many_threads_as_wanted():
    done: list[int] = []
    threads: dict[int, int] = {}

    def work(parts: Iterable[int], stopped: threading.Event) -> None:
        for part in parts:
            time.sleep(0.002)
            done.append(part)
            threads[threading.get_ident()] = torch.get_num_threads()

    run_in_threads(work, list(range(40)), 3)
    assert sorted(done) == list(range(40))
    assert list(threads.values()) == [2, 2, 2]
    assert threading.get_ident() not in threads
    assert torch.get_num_threads() == 6


def test_an_error_ends_all_streams_and_is_raised():
    done: list[int] = []

    def work(parts: Iterable[int], stopped: threading.Event) -> None:
        for part in parts:
            time.sleep(0.005)
            if part == 4:
                raise OSError("no space")
            done.append(part)

    with pytest.raises(OSError, match="no space"):
        run_in_threads(work, list(range(1000)), 3)
    assert len(done) < 20
    assert torch.get_num_threads() == 6
    assert not [one for one in threading.enumerate() if "stream" in one.name]


@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_the_others_are_told_in_the_middle_of_a_part(how):
    left: list[int] = []

    def work(parts: Iterable[int], stopped: threading.Event) -> None:
        for part in parts:
            if part:
                stopped.wait(30)
                left.append(part)
                return
            time.sleep(0.1)
            if how == "error":
                raise OSError("no space")
            os.kill(os.getpid(), signal.SIGINT)
            stopped.wait(30)

    began = time.perf_counter()
    expected = OSError if how == "error" else KeyboardInterrupt
    # A job in the background, and its children, ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(expected):
            run_in_threads(work, [0, 1, 2], 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - began < 10
    assert sorted(left) == [1, 2]
    assert torch.get_num_threads() == 6


def test_more_streams_than_parts():
    done: list[int] = []
    run_in_threads(lambda parts, stopped: done.extend(parts), [7], 4)
    assert done == [7]


@pytest.mark.parametrize(
    ("parts", "expected"), [(0, 1), (7, 1), (8, 2), (15, 3), (16, 4), (1000, 4)]
)
def test_enough_parts_for_each_stream(run, parts, expected):
    assert choose_num_threads(run, parts, None) == expected


def test_one_stream_with_workers_or_one_thread(run):
    assert choose_num_threads(run, 1000, 0) == 1
    assert choose_num_threads(run, 1000, 2) == 1
    torch.set_num_threads(1)
    assert choose_num_threads(run, 1000, None) == 1


def test_one_stream_for_a_model_that_has_threads_of_its_own(run, monkeypatch):
    monkeypatch.setattr(run.model, "parameters", lambda: iter(()))
    assert choose_num_threads(run, 1000, None) == 1
