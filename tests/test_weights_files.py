"""Opening weights files: every format and precision, lazily, against other readers."""

import argparse
import json
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitral as vt
from helpers import tiny_vit
from memory_file import MemoryFile
from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.weights.files import (
    TensorFile,
    open_file,
    with_names,
    write_npz,
    write_safetensors,
)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
]


def values() -> dict[str, torch.Tensor]:
    """Tensors of every precision and kind of shape, no two alike."""
    generator = torch.Generator().manual_seed(3)
    made = {
        str(dtype).removeprefix("torch."): (
            torch.randn(3, 5, generator=generator) * 4
        ).to(dtype)
        for dtype in DTYPES
    }
    wide = torch.randn(7, 4, generator=generator)
    return made | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 6),
        "transposed": wide.T,
        "part": wide[1:5, 1:3],
        "odd/name.with dots": torch.arange(6.0),
    }


def read_all(file: TensorFile) -> dict[str, torch.Tensor]:
    return {name: file.read(name) for name in file.names()}


def same(read: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert read.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert read[name].dtype == tensor.dtype, name
        assert read[name].shape == tensor.shape, name
        assert torch.equal(read[name], tensor), name


def write(path: Path, form: str, tensors: dict[str, torch.Tensor]) -> Path:
    if form == "safetensors":
        write_safetensors(path, tensors, {"from": "here"})
    elif form == "npz":
        write_npz(path, tensors)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "pickle")
    return path


FORMS = ["safetensors", "npz", "pickle", "legacy"]


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(tmp_path, form):
    path = write(tmp_path / "any.name", form, values())
    file = open_file(path)
    assert file.format == ("pickle" if form == "legacy" else form)
    assert file.path == path
    assert file.metadata.get("from") == ("here" if form == "safetensors" else None)
    for name, tensor in values().items():
        assert name in file
        assert file.shape(name) == tuple(tensor.shape)
        assert file.dtype(name) == tensor.dtype
    assert file.nbytes() == sum(t.nbytes for t in values().values())
    assert "none" not in file
    same(read_all(file), values())
    with pytest.raises(WeightsError, match="has no tensor none"):
        file.read("none")


def shifted(path: Path, start: int) -> None:
    """Write a safetensors file again whose data begin at `start` modulo 64."""
    old = path.read_bytes()
    (length,) = struct.unpack("<Q", old[:8])
    padded = length + (start - 8 - length) % 64
    header = old[8 : 8 + length].ljust(padded)
    path.write_bytes(struct.pack("<Q", padded) + header + old[8 + length :])


@pytest.mark.parametrize("start", [0, 8, 16, 24])
def test_a_model_is_aligned_wherever_its_tensors_lie(tmp_path, start):
    """float64 products of MKL give other bits for memory at 8 modulo 16 bytes."""
    model = tiny_vit()
    vt.save(tmp_path, model, Preprocess(image_size=(48, 80)))
    shifted(tmp_path / "model.safetensors", start)
    loaded = vt.load(tmp_path).model
    for name, tensor in loaded.state_dict().items():
        assert tensor.data_ptr() % 64 == 0, name
    images = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("form", ["safetensors", "pickle", "legacy"])
def test_whole_tensors_are_aligned(tmp_path, form):
    """Those with gaps in a checkpoint stay mapped; a model gets them without."""
    tensors = values()
    del tensors["part"]
    path = write(tmp_path / "w", form, tensors)
    if form == "safetensors":
        shifted(path, 8)
    read = read_all(open_file(path))
    same(read, tensors)
    assert [n for n, t in read.items() if t.data_ptr() % 64] == []


def test_gaps_of_a_checkpoint_are_not_in_the_model(tmp_path):
    model = tiny_vit()
    state = {
        name: torch.stack([tensor, tensor], -1)[..., 1]
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    loaded = vt.load(tmp_path / "w.pth", grid=(3, 5), num_heads=3).model
    same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert all(t.data_ptr() % 64 == 0 for t in loaded.state_dict().values())


@pytest.mark.parametrize("change", ["longer", "gone"])
def test_a_safetensors_file_that_is_changed_while_it_is_read(tmp_path, change):
    path = write(tmp_path / "w", "safetensors", {"a": torch.ones(2)})
    shifted(path, 8)
    file = open_file(path)
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="changed or removed after it was opened"):
        file.read("a")


@pytest.mark.parametrize("form", FORMS)
def test_a_value_that_is_not_finite(tmp_path, form):
    for wrong in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            tensors = {"a": torch.ones(2), "b": torch.tensor([1, wrong, 2]).to(dtype)}
            file = open_file(write(tmp_path / "w", form, tensors))
            file.read("a")
            with pytest.raises(WeightsError, match="tensor b has values that are not"):
                file.read("b")


@pytest.mark.parametrize("form", FORMS)
def test_cut_short_anywhere(tmp_path, form):
    whole = write(tmp_path / "w", form, values()).read_bytes()
    path = tmp_path / "cut.pth"
    for size in {*range(0, len(whole), len(whole) // 40), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError) as caught:
            read_all(open_file(path))
        assert "\n" not in str(caught.value)


def test_readers_of_others_read_what_we_write(tmp_path):
    plain = values()
    same(load_file(write(tmp_path / "w.safetensors", "safetensors", plain)), plain)
    with np.load(write(tmp_path / "w.npz", "npz", plain)) as arrays:
        assert set(arrays) == set(plain)
        assert arrays["bfloat16"].dtype == np.dtype("V2")
        for name in set(plain) - {"bfloat16"}:
            assert np.array_equal(arrays[name], plain[name].numpy())


def test_npz_is_the_same_bytes_again(tmp_path):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    write_npz(first, values())
    write_npz(second, {name: tensor.clone() for name, tensor in values().items()})
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, save):
    array = np.random.default_rng(0).normal(size=(3, 5)).astype("f4")
    path = tmp_path / "w.npz"
    save(path, plain=array, fortran=np.asfortranarray(array), big=array.astype(">f4"))
    read = read_all(open_file(path))
    assert read.keys() == {"plain", "fortran", "big"}
    for tensor in read.values():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, torch.from_numpy(array))


def test_views_share_what_they_shared(tmp_path):
    """Tied weights are written once by torch.save; each is read from its own place."""
    table = torch.randn(6, 4)
    tied = {"a": table, "b": table[2:], "c": torch.nn.Parameter(table)}
    same(read_all(open_file(write(tmp_path / "w", "pickle", tied))), tied)
    same(read_all(open_file(write(tmp_path / "w", "legacy", tied))), tied)
    same(load_file(write(tmp_path / "w", "safetensors", tied)), tied)


@pytest.mark.parametrize("zipped", [True, False])
def test_training_checkpoints(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    path = tmp_path / "checkpoint.pth"
    checkpoint = {
        "student": OrderedDict((f"module.{n}", t) for n, t in state.items()),
        "teacher": state,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"w": torch.ones(1)},
        "args": argparse.Namespace(arch="vit_small", lr=0.1, sizes=[1, (2,)]),
        "epoch": 3,
        "best": np.float64(0.5),
        "size": torch.Size([2]),
        "dtype": torch.float16,
        "state": {"inner": {"w": torch.ones(2)}},
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    wanted = {f"student/module.{n}": t for n, t in state.items()}
    wanted |= {f"teacher/{n}": t for n, t in state.items()}
    same(read_all(open_file(path)), wanted | {"state/inner/w": torch.ones(2)})


def test_as_torch_reads_it(tmp_path):
    path = write(tmp_path / "w", "pickle", {"model": values()})  # as MAE saves
    theirs = torch.load(path, weights_only=True)["model"]
    same(read_all(open_file(path)), {f"model/{n}": t for n, t in theirs.items()})


@pytest.mark.parametrize("form", FORMS)
def test_a_large_file_is_not_read_to_be_opened(tmp_path, form):
    """One GB of zeros: sparse where the format allows it, tiny where it deflates."""
    path, size = tmp_path / "w", 2**28
    if form == "safetensors":
        about = {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}
        header = json.dumps({"w": about}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    elif form == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("small.npy", b"")
        small = np.zeros((1024, 1024), "f4")
        np.savez_compressed(tmp_path / "w.npz", w=small)
        path = tmp_path / "w.npz"
        size = small.size
    else:
        tensors = {"w": torch.zeros(2**20)}
        write(path, form, tensors)
        size = 2**20
    if form == "safetensors":
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + 4 * size)
    open_file(write(tmp_path / "warm", form, values()))
    tracemalloc.start()
    file = open_file(path)
    assert file.nbytes() == 4 * size
    assert file.shape(file.names()[0])[0] > 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


# headers that lie


def safetensors(path: Path, header: str, data: int = 16) -> Path:
    text = header.encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return path


def entry(shape: str, start: int, end: int, dtype: str = "F32") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f'{{"w":{entry("[4]", 0, 16)},"w":{entry("[4]", 0, 16)}}}', "w is in the h"),
        (f'{{"w":{entry("[4]", 8, 24)}}}', "not among the 16 of data"),
        (f'{{"w":{entry("[5]", 0, 16)}}}', "needs 20 bytes for its shape but has 16"),
        (f'{{"w":{entry("[2]", 0, 8)}}}', "not a readable safetensors"),
        (f'{{"a":{entry("[4]", 0, 16)},"b":{entry("[4]", 0, 16)}}}', "not a readable"),
        (f'{{"w":{entry("[-4]", 0, 16)}}}', "not a whole number from 0"),
        (f'{{"w":{entry("[4]", 0, 16, "F4")}}}', "has the precision F4"),
        (f'{{"w":{entry("4", 0, 16)}}}', "no shape"),
        ('{"w":5}', "not just dtype, shape and data_offsets"),
        ('{"w":', "no JSON"),
        ('{"w":' + "[" * 100_000, "no JSON"),
        ('{"__metadata__":{"a":5}}', "is not text under names"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path, header, expected):
    path = safetensors(tmp_path / "w", header)
    with pytest.raises(WeightsError, match=expected) as caught:
        open_file(path)
    assert "\n" not in str(caught.value)


def test_doubled_members_of_npz(tmp_path):
    path = tmp_path / "w.npz"
    write_npz(path, {"aa": torch.ones(2), "bb": torch.ones(2)})
    path.write_bytes(path.read_bytes().replace(b"bb.npy", b"aa.npy"))
    with pytest.raises(WeightsError, match=r"two members aa\.npy"):
        open_file(path)


def test_a_changed_byte_in_npz_is_found(tmp_path):
    path = tmp_path / "w.npz"
    write_npz(path, {"w": torch.full((4,), 1.5)})
    good = path.read_bytes()
    path.write_bytes(good.replace(struct.pack("<f", 1.5), struct.pack("<f", 1.25), 1))
    with pytest.raises(WeightsError, match=r"member w\.npy: Bad CRC-32"):
        open_file(path).read("w")


# views


def test_other_names(tmp_path):
    tensors = {"a": torch.ones(2, 3), "b": torch.tensor([1.0, float("nan")])}
    for file in (
        MemoryFile(tensors, metadata={"k": "v"}),
        open_file(write(tmp_path / "w", "pickle", tensors)),
    ):
        view = with_names(file, {"x.y": "a", "z": "b"})
        assert view.names() == ["x.y", "z"]
        assert "a" not in view
        assert view.path == file.path
        assert view.format == file.format
        assert view.metadata == file.metadata
        assert view.shape("x.y") == (2, 3)
        assert torch.equal(view.read("x.y"), tensors["a"])
        with pytest.raises(WeightsError, match="tensor b has values"):
            view.read("z")
        with pytest.raises(WeightsError, match="has no tensor a"):
            view.read("a")
        with pytest.raises(WeightsError, match="has no tensor c"):
            with_names(file, {"x": "c"})


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot be written: .* Free some space"):
        write_npz(tmp_path / "none" / "w.npz", {"w": torch.ones(1)})
    save_file({"w": torch.ones(1)}, tmp_path / "w")
    with pytest.raises(WeightsError, match="cannot be written"):
        write_npz(tmp_path / "w", {"w": np.array([object()])})
    same(read_all(open_file(tmp_path / "w")), {"w": torch.ones(1)})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
            "a pointer of Git LFS",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page in the place"),
        (b"<html><body>Sign in</body></html>", "a web page in the place"),
        (b"GGUF" + bytes(60), "a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file, as Keras writes"),
    ],
)
def test_what_is_often_given_in_place_of_weights_is_named(
    content, sentence, suffix, tmp_path
):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=sentence):
        open_file(file)
