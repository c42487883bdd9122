"""What several ranks are made of, in one process: parts, rows, memory, sentences."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import vitral.data
import vitral.models
from helpers import images, randomise, tiny_vit
from photos import make_photos
from vitral.data import AugmentConfig, Loader, MixConfig, Preprocess, training_transform
from vitral.errors import ConfigError, DataError, WeightsError
from vitral.training.activation_checkpoint import (
    checkpoint_activations,
    find_blocks,
    forward_method_names,
)
from vitral.training.checkpointing import sharded
from vitral.training.distributed.collectives import RankGroup
from vitral.training.distributed.failures import (
    PeerError,
    is_collective_failure,
    is_reported_elsewhere,
)
from vitral.training.distributed.microbatch import (
    RankSlice,
    local_microbatches,
    local_row_range,
    split_rows,
)
from vitral.training.distributed.process_group import agree_on_restart_id
from vitral.training.parallel import require_no_batch_norm


class Batch(NamedTuple):
    image: Tensor
    id: tuple[str, ...]


def batch_of(size: int) -> Batch:
    return Batch(torch.arange(size), tuple(f"image/{n}" for n in range(size)))


# parts


@pytest.mark.parametrize("size", [1, 3, 5, 12, 13])
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (2, 3), (3, 2), (5, 1)])
def test_the_parts_of_all_ranks_are_those_of_one_process(size, world, accumulate):
    one = local_microbatches(
        batch_of(size), rank=0, world=1, accumulate=world * accumulate
    )
    expected = [(part.number, part.batch.id) for part in one]
    found = []
    for rank in range(world):
        mine = {"rank": rank, "world": world, "accumulate": accumulate}
        parts = list(local_microbatches(batch_of(size), **mine))
        assert len(parts) == accumulate  # as many passes on each
        found += [(part.number, part.batch.id) for part in parts if part.counts]
        if size < world * accumulate:
            continue
        span = local_row_range(size, **mine)
        rows = Batch(*(field[span.start : span.stop] for field in batch_of(size)))
        share = RankSlice(
            rows=rows, first=span.start, size=size, build_global_batch=lambda: None
        )
        again = list(local_microbatches(share, **mine))
        assert [part.batch.id for part in again] == [part.batch.id for part in parts]
    assert found == expected
    assert sum((ids for _, ids in found), ()) == batch_of(size).id


def test_spans_by_hand():
    assert split_rows(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert split_rows(2, 3) == [(0, 1), (1, 2)]
    assert local_row_range(7, 1, 3, 1) == (2, 4)
    assert local_row_range(2, 2, 3, 1) == (2, 2)  # nothing left for the third


# rows


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Fifteen images; one cannot be read."""
    root = make_photos(
        tmp_path_factory.mktemp("data") / "photos", splits=("train",), per_class=5
    )
    bad = vitral.data.open(root).select("train")[3]
    (root / bad.id).write_bytes(b"\x89PNG no image")
    return root


def loader_of(photos: Path, mix: MixConfig | None, **changes) -> Loader:
    data = vitral.data.open(photos)
    preprocess = Preprocess(image_size=(16, 24))
    return Loader(
        dataset=data,
        examples=data.select("train"),
        transform=training_transform(AugmentConfig(shift=0.2), preprocess, 3),
        seed=4,
        shuffle=True,
        mix=mix,
        **{"batch_size": 7, **changes},
    )


@pytest.mark.parametrize("changes", [{}, {"workers": 1}, {"repeats": 3}], ids=len)
@pytest.mark.parametrize("mix", [None, MixConfig(mixup=0.5), MixConfig(cutmix=1.0)])
def test_the_rows_of_a_rank_are_those_of_the_batch(photos, mix, changes):
    number = len(loader_of(photos, mix).examples)
    size = (number - 1) // 2
    loader = loader_of(photos, mix, batch_size=size, **changes)
    bad = loader.examples[3].id
    whole = {batch.id: batch for batch in loader.epoch(1)}
    sizes, broken = [], 0
    for rank in range(3):

        def part(size: int, rank: int = rank) -> range:
            return (
                range(size) if size < 3 else range(*local_row_range(size, rank, 3, 1))
            )

        tasks = loader.requests(1)
        for task, (count, rows, build_full) in zip(
            tasks, loader.slices(1, 0, part), strict=True
        ):
            ids = tuple(e.id for e in task.examples)
            batch = whole[tuple(name for name in ids if name != bad)]
            sizes.append(count)
            if rows is None:
                broken += 1
                assert bad in ids
                again = build_full()
                assert again.id == batch.id
                assert again.image.equal(batch.image)
                continue
            chosen = slice(part(count).start, part(count).stop)
            assert rows.id == ids[chosen]
            if bad not in ids:  # or its rows are mixed with others
                assert rows.image.equal(batch.image[chosen])
                assert rows.target.shares.equal(batch.target.shares[chosen])
                assert rows.target.label.equal(batch.target.label[chosen])
    assert sizes == [size, size, number - 2 * size] * 3
    # With repeats, an epoch shows a third of the examples: not the broken one.
    assert 0 < broken < 9 or "repeats" in changes


def test_a_share_that_is_missing_makes_all_build_the_batch(monkeypatch):
    """The other rank's answers are given: 1 for rows that it does not have."""
    ranks = RankGroup(rank=1, world=2)
    share = RankSlice(
        rows=batch_of(3), first=3, size=6, build_global_batch=lambda: batch_of(5)
    )
    answers = iter([0, 1, 2])
    monkeypatch.setattr(
        RankGroup, "all_reduce_max", lambda self, own: max(own, next(answers))
    )
    monkeypatch.setattr(
        "vitral.training.distributed.collectives.all_gather", lambda value: [value] * 2
    )
    found = list(ranks.synchronize(iter([share, share, share])))
    assert [type(offer).__name__ for offer in found] == ["RankSlice", "Batch"]
    other = ("image/0", "image/7")
    monkeypatch.setattr(
        "vitral.training.distributed.collectives.all_gather",
        lambda value: [other, value],
    )
    monkeypatch.setattr(RankGroup, "all_reduce_max", lambda self, own: 1)
    with pytest.raises(DataError, match="image/1 can be read by rank 0 or rank 1"):
        list(ranks.synchronize(iter([share])))


# memory


def trained(model: nn.Module, seed: int = 3) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass kept for them."""
    model.train()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images(5)).square().mean()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()], sum(kept.values())


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_recomputed_activations_give_the_same_bits_in_less_memory(pool):
    """With dropout and dropped paths, whose draws must be made again."""
    model = tiny_vit(depth=5, drop_rate=0.2, drop_path_rate=0.3, global_pool=pool)
    other = copy.deepcopy(model)
    found = find_blocks(other)
    assert found == list(other.blocks)
    checkpoint_activations(found)
    loss, gradients, kept = trained(model)
    again, others, less = trained(other)
    assert loss.equal(again)
    assert all(one.equal(two) for one, two in zip(gradients, others, strict=True))
    assert less < kept / 2
    assert not trained(copy.deepcopy(other), seed=4)[0].equal(loss)


def test_a_copy_of_recomputed_blocks_calls_its_own_weights():
    model = tiny_vit()
    checkpoint_activations(find_blocks(model))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.blocks[0].mlp.fc1.weight.zero_()
    assert not copied.train()(images()).equal(model.train()(images()))
    assert type(model.blocks[0]).__name__ == "Block"
    assert "forward_queries" in forward_method_names(model.blocks[0])


FREED = """
import sys
from benchmarks.peers.memory import _process_memory_mb
if sys.argv[1] == "returned":
    from vitral.training.activation_checkpoint import return_freed_memory
    return_freed_memory()
before, small = _process_memory_mb("VmRSS"), []
for _ in range(2):  # the first blocks that are freed teach glibc to keep such ones
    large = []
    for _ in range(40):
        large.append(b"1" * (6 << 20))
        small.append(b"2" * 5000)
    del large
    small.append(b"2" * 5000)
print(_process_memory_mb("VmRSS") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_go_back_to_the_system():
    def held(how: str) -> float:
        words = [sys.executable, "-c", FREED, how]
        return float(subprocess.run(words, check=True, capture_output=True).stdout)

    assert held("returned") < 60 < held("kept")


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


SMALL = {
    "vit_mu16": {"depth": 2, "image_size": (32, 48), "num_classes": 3},
    "deit_ti16": {"depth": 2, "image_size": (32, 48), "num_classes": 3},
    "tnt_ti16": {"depth": 2, "image_size": (32, 48), "num_classes": 3},
    "timesformer_ti16": {
        "depth": 2,
        "image_size": (32, 48),
        "num_classes": 3,
        "num_frames": 2,
    },
    "r_vit_ti16": {"depth": 1, "image_size": (64, 96), "num_classes": 3},
    "bit_r26x1": {"image_size": (64, 96), "num_classes": 3},
}


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_a_sharded_model_of_every_family_computes_the_same(group):
    """Each is built small; blocks are found in lists, whatever they are called."""
    from vitral.training.parallel import shard_objective

    for name, changes in SMALL.items():
        config = vitral.models.get_config(name, changes)
        model = vitral.models.build_model(config)
        randomise(model)
        plain = copy.deepcopy(model)
        assert find_blocks(model), name
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        forward = shard_objective(model, optimizer, RankGroup(), False).forward
        frames = [config.num_frames] if config.num_frames else []
        image = torch.randn(2, *frames, 3, *config.image_hw)
        found, expected = forward(image), plain(image)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        found.sum().backward()
        assert all(p.grad is not None for p in model.parameters()), name


# sentences


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_strangers_metadata_runs_nothing(tmp_path, capsys):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"names builtins.print, which does not"):
        sharded.load(tmp_path, None)
    assert capsys.readouterr().out == ""
    (folder / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(WeightsError, match="is damaged"):
        sharded.load(tmp_path, None)


def test_batch_norm_is_refused():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    with pytest.raises(ConfigError, match="`1` normalises over the batch"):
        require_no_batch_norm(model)
    require_no_batch_norm(model.eval())


def test_what_counts_as_a_broken_collective():
    text = "[/x/gloo/pair.cc:545] Read error [127.0.0.1]:9: Connection reset by peer"
    assert is_collective_failure(RuntimeError(text))
    assert is_collective_failure(dist.DistBackendError("anything"))
    assert not is_collective_failure(
        RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    )
    assert not is_collective_failure(PeerError(text))
    assert not is_reported_elsewhere(RuntimeError(text))


def test_a_second_start_on_the_same_store_gets_another_name():
    """torchrun keeps the store of a start whose ranks are dead."""
    store = dist.HashStore()
    names = []
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            ranks = [
                pool.submit(agree_on_restart_id, store, n, 3, 20.0) for n in range(3)
            ]
            names.append({rank.result() for rank in ranks})
    assert [len(name) for name in names] == [1, 1]
    assert names[0] != names[1]
    with pytest.raises(ConfigError, match="Rank 1 did not come to the meeting"):
        agree_on_restart_id(dist.HashStore(), 0, 2, 0.05)
