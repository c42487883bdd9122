"""`vitral convert`: what it prints, what it writes, how it says no."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vitral as vt
from helpers import TINY, tiny_vit
from test_weights_files import shifted
from vitral.cli import main
from vitral.data import Preprocess
from vitral.models import ViTConfig, build_model
from vitral.weights import available_layouts

GRID = ["--grid", "3", "5", "--num-heads", "3"]


@pytest.fixture
def folder(tmp_path) -> Path:
    model = tiny_vit(act="gelu_tanh").float()
    preprocess = Preprocess(image_size=(48, 80))
    vt.save(tmp_path / "ours", model, preprocess, classes=tuple("abcdefg"))
    return tmp_path / "ours"


def test_a_conversion_prints_a_line_per_tensor_and_the_next_command(folder, capsys):
    out = folder.with_name("w.npz")
    assert main(["convert", str(folder), str(out), "--to", "google"]) == 0
    lines = capsys.readouterr().out.splitlines()
    qkv = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"
    assert f"  split      {qkv}  from blocks.1.attn.qkv.weight" in lines
    assert "  copied     cls  from cls_token" in lines
    with np.load(out) as arrays:
        number = len(arrays.files)
    assert sum(line.startswith("  ") for line in lines) == number
    assert lines[-3].startswith(f"{out} (vision_transformer): ")
    assert lines[-2] == f"files: {out}, read again and found bit-equal"
    assert lines[-1] == f"next: vitral convert {out} --explain"
    back = folder.with_name("back")
    assert main(["convert", str(out), str(back), "--to", "native", *GRID]) == 0
    assert "  joined     blocks.0.attn.qkv.bias" in capsys.readouterr().out
    before = load_file(folder / "model.safetensors")
    after = load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_a_file_is(folder, capsys):
    assert main(["convert", str(folder), "--explain"]) == 0
    out = capsys.readouterr().out
    for words in (
        "model.safetensors (safetensors, ",
        "float32)",
        "layout      vitral",
        "model       vit, ",
        "patches     3 x 5, 1 tokens before them, positions learned_1d, 1 rows of",
        "head        7 classes (a, b, c, ...)",
        "pixels      48 x 80, squash, bilinear, mean 0.5/0.5/0.5, deviation 0.5/0.5",
        "would load  yes",
        f"next: vitral train DATA --weights {folder} --out RUN",
    ):
        assert words in out
    fits = next(line for line in out.splitlines() if line.startswith("fits"))
    assert {"google", "timm", "native"} <= set(fits.replace(",", "").split())


def test_everything_that_is_wrong_is_listed(folder, tmp_path, capsys):
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.1.norm2.wieght"] = tensors.pop("blocks.1.norm2.weight")
    tensors["blocks.0.mlp.fc1.weight"] = tensors["blocks.0.mlp.fc1.weight"].T
    tensors["norm.bias"][3] = float("nan")
    file = tmp_path / "bad.safetensors"
    save_file({name: t.contiguous() for name, t in tensors.items()}, file)
    assert main(["convert", str(file), "--explain", *GRID]) == 4
    found = capsys.readouterr()
    for problem in (
        "problem     missing: blocks.1.norm2.weight",
        "problem     no place in the model for blocks.1.norm2.wieght",
        "tensor norm.bias has values that are not finite",
        "would load  no: ",
    ):
        assert problem in found.out
    assert f"{file} would not load: " in found.err
    assert found.err.count("\n") == 1


def test_a_file_of_nobody_is_explained_as_far_as_it_goes(tmp_path, capsys):
    file = tmp_path / "other.safetensors"
    save_file({"layer1.0.conv1.weight": torch.ones(4, 3, 3, 3)}, file)
    assert main(["convert", str(file), "--explain"]) == 4
    found = capsys.readouterr()
    assert "1 tensors, 108 values, float32" in found.out
    assert "holds a network of convolutions without attention" in found.err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["{in}"], 2, "A conversion needs OUT and `--to LAYOUT`"),
        (["{in}", "{out}"], 2, "A conversion needs OUT and `--to LAYOUT`"),
        (
            ["{in}", "{out}", "--to", "tim"],
            2,
            "Unknown layout `tim`. Did you mean ti",
        ),
        (
            ["{in}", "{out}", "--to", "google"],
            2,
            "must end in .npz: the layout of vi",
        ),
        (
            ["{in}", "{in}", "--to", "timm"],
            2,
            "exists; a conversion overwrites noth",
        ),
        (
            ["{in}", "{out}.npz", "--to", "timm"],
            2,
            "must be a folder for the layout ",
        ),
        (["{in}x", "{out}", "--to", "timm"], 4, "No weights at "),
        (["{in}", "{out}.npz", "--to", "simple_vit"], 2, "must end in .safetensors"),
        (
            ["{in}", "{out}.safetensors", "--to", "simple_vit"],
            2,
            "cannot be written in the layout of vit-pytorch SimpleViT, because its",
        ),
        (
            ["{in}", "--explian"],
            2,
            "unknown argument --explian. Did you mean --exp",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_line(folder, capsys, words, code, sentence):
    places = {"in": str(folder), "out": str(folder.with_name("made"))}
    filled = [word.format(**places) for word in words]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["convert", *filled]) == code
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not [path for path in folder.parent.iterdir() if "made" in path.name]


def test_help_lists_every_layout(capsys):
    assert main(["convert", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    for name, layout in available_layouts().items():
        assert "".join(f"{name} ({layout.title})".split()) in text


def test_a_disk_that_is_full_leaves_nothing(folder, monkeypatch, capsys):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitral.weights.files.write.write_atomic", full)
    out = folder.with_name("w.npz")
    assert main(["convert", str(folder), str(out), "--to", "google"]) == 4
    assert "cannot be written: " in capsys.readouterr().err
    out = folder.with_name("again")
    assert main(["convert", str(folder), str(out), "--to", "timm"]) == 4
    assert not out.exists()


def test_what_does_not_come_back_is_removed(folder, monkeypatch, capsys):
    """A layout with a mistake in it must not leave a file behind."""
    from dataclasses import replace

    google = available_layouts()["google"]
    wrong = replace(google, pack=lambda made: {n: t * 2 for n, t in made.items()})
    module = importlib.import_module("vitral.weights.convert")
    monkeypatch.setattr(module, "get_layout", lambda to: wrong)
    out = folder.with_name("w.npz")
    assert main(["convert", str(folder), str(out), "--to", "google", *GRID]) == 4
    assert "did not give back what was written: " in capsys.readouterr().err
    assert not out.exists()


def test_half_precision_stays_half_in_a_file_and_is_float32_in_a_model(tmp_path):
    model = tiny_vit(act="gelu_tanh").float()
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    out = tmp_path / "half.npz"
    words = [str(tmp_path / "half.safetensors"), str(out), "--to", "google", *GRID]
    assert main(["convert", *words]) == 0
    with np.load(out) as arrays:
        assert {str(arrays[name].dtype) for name in arrays.files} == {"|V2"}
    loaded = vt.load(out, grid=(3, 5)).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.head.weight, state["head.weight"].float())


MEMORY = """
import sys
import vitral.weights

def high():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = high()
model = vitral.weights.load(sys.argv[1], num_heads=6).model
print((high() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("to", ["native", "shifted", "google"])
def test_a_model_takes_the_memory_of_its_file(tmp_path, to):
    """Not twice: no initial values are made, and tensors are read one by one."""
    sizes = {**TINY, "image_size": 224, "embed_dim": 384, "mlp_dim": 1536, "depth": 12}
    config = ViTConfig(**{**sizes, "num_heads": 6})
    vt.save(tmp_path / "ours", build_model(config), Preprocess(image_size=(224, 224)))
    file = tmp_path / "ours"
    if to == "shifted":  # read from an odd place, and not mapped beside that
        shifted(file / "model.safetensors", 8)
    elif to != "native":
        file = tmp_path / "w.npz"
        words = [str(tmp_path / "ours"), str(file), "--to", to]
        assert main(["convert", *words]) == 0
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )
    tensors = load_file(tmp_path / "ours/model.safetensors")
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert 0.5 * size < int(done.stdout) < 1.3 * size


def test_models_lists_every_family_with_its_source(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines()[1:-1]}
    assert "25,549,352" in rows["bit_r50x1"]
    assert rows["bit_r50x1"].endswith("arXiv 1912.11370")
    assert "98,659,112" in rows["r50_vit_b16"]
    assert "86,567,656" in rows["vit_b16"]
    assert set(rows) == set(vt.names())


@pytest.mark.parametrize("to", ["timm", "native"])
def test_a_file_of_ours_tells_its_grid_and_heads_alone(folder, tmp_path, to):
    """3 x 5 patches are no square and 24 channels no multiple of 64."""
    out = tmp_path / "alone.safetensors"
    vt.convert(folder, out, to)
    config = vt.load(out).model.config
    assert config.grid == (3, 5)
    assert config.num_heads == 3
    assert vt.explain(out).problem == ""


def test_text_in_a_file_that_says_nonsense_is_as_good_as_none(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    for text in ("3 by 5", "-3 x 5 + 1", "3 x five + 1", "9" * 5000):
        said = {"vitral.grid": text, "vitral.num_heads": "none"}
        save_file(tensors, tmp_path / "w.safetensors", metadata=said)
        loaded = vt.load(tmp_path / "w.safetensors", num_heads=3)
        assert "4 x 4 patches assumed" in loaded.ledger.summary()


@pytest.mark.usefixtures("no_report")
def test_a_foreign_folder_is_trained_on(folder, tmp_path):
    """A Hugging Face folder, 3 x 5 patches, straight into a run."""
    from photos import make_photos

    theirs = vt.convert(folder, tmp_path / "theirs", "huggingface").path
    photos = make_photos(tmp_path / "photos", per_class=4)
    words = ["train", str(photos), "--weights", str(theirs), "--steps", "2"]
    words += ["--warmup", "1", "--eval-every", "0", "--image-size", "48", "80"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run = vt.open(tmp_path / "run")
    assert run.model.config.image_hw == (48, 80)
    assert run.model.config.act == "gelu_tanh"
