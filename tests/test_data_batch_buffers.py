"""vitral.data.images.batch_buffers: memory of batches, used again when a batch is
gone."""

import threading

import numpy as np
import pytest
import torch

from vitral.data.images import batch_buffers
from vitral.data.images.batch_buffers import MIN_POOLED_BYTES, empty

NUMBERS = MIN_POOLED_BYTES // 4


@pytest.fixture(autouse=True)
def fresh_shelf(monkeypatch):
    """Memory that no other test has given back."""
    monkeypatch.setattr(batch_buffers, "_pool", batch_buffers._BufferPool())


def test_a_tensor_like_any_other():
    found = empty((2, NUMBERS))
    assert found.dtype == torch.float32
    assert found.shape == (2, NUMBERS)
    assert found.is_contiguous()
    found.fill_(3)
    assert found.sum() == 6 * NUMBERS
    assert empty((3, 5)).shape == (3, 5)


def test_the_memory_of_a_batch_that_is_gone_is_used_again():
    first = empty((NUMBERS,))
    address = first.data_ptr()
    assert empty((NUMBERS,)).data_ptr() != address
    del first
    later = [empty((NUMBERS,)), empty((NUMBERS,))]
    assert address in [batch.data_ptr() for batch in later]


@pytest.mark.parametrize(
    "held", [lambda whole: whole[5:9], lambda whole: whole.numpy()[5:9]]
)
def test_not_while_a_part_of_it_is_held(held):
    batch = empty((NUMBERS,))
    address = batch.data_ptr()
    part = held(batch.fill_(7))
    del batch
    for _ in range(4):
        other = empty((NUMBERS,)).fill_(0)
        assert other.data_ptr() != address
        del other
    assert np.asarray(part).tolist() == [7, 7, 7, 7]


def test_at_most_two_wait_and_none_of_another_size():
    batches = [empty((NUMBERS,)) for _ in range(5)]
    del batches
    assert len(batch_buffers._pool.idle) == 2
    other = empty((NUMBERS + 8,))
    assert batch_buffers._pool.idle == []
    assert other.shape == (NUMBERS + 8,)


def test_threads_never_share_a_batch():
    wrong: list[int] = []

    def work(mine: int) -> None:
        for _ in range(30):
            batch = empty((NUMBERS,)).fill_(mine)
            if not bool((batch == mine).all()):
                wrong.append(mine)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
