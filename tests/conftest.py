"""Fixtures that several files use.

vitral is imported inside of them: jaxtyping's hook, which checks the types in tests,
is installed after this file is read."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def no_report() -> Iterator[None]:
    """Trainings of the test end without their report."""
    from run_folders import without_report

    with without_report():
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors: two threads would wait for each other, and a fork for both."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
