"""Weights in several files with an index, and class names that come twice."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vitral as vt
from helpers import assert_near, images
from test_weights_json import edit, hugging_face, timm_folder
from vitral.cli import main
from vitral.errors import WeightsError
from vitral.workflows.features.cache_key import weights_file_hash

INDEX = "model.safetensors.index.json"


@pytest.fixture
def parts(tmp_path):
    """A folder in parts, as transformers writes one, and its model."""
    model = hugging_face(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    return tmp_path / "parts", model


def logits(model, image):
    with torch.no_grad():
        return model(image)


def test_parts_are_one_model(parts, capsys):
    folder, theirs = parts
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    image = images(2, 32, 32)
    wanted = logits(theirs, image).logits
    for path in (folder, folder / INDEX):
        loaded = vt.load(path)
        assert_near(logits(loaded.model, image), wanted, 1e-10)
        assert loaded.ledger.layout == "Hugging Face"
    assert main(["convert", str(folder), "--explain"]) == 0
    size = sum(it.stat().st_size for it in folder.glob("*.safetensors")) / 2**20
    assert f"{size:,.1f} MiB" in capsys.readouterr().out


def test_pickled_parts_are_one_model(parts, tmp_path):
    folder, theirs = parts
    content = json.loads((folder / INDEX).read_text())
    out = tmp_path / "pickled"
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    names = {}
    for name in set(content["weight_map"].values()):
        new = name.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        torch.save(load_file(folder / name), out / new)
        names[name] = new
    content["weight_map"] = {k: names[v] for k, v in content["weight_map"].items()}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    image = images(2, 32, 32)
    assert_near(logits(vt.load(out).model, image), logits(theirs, image).logits, 1e-10)


def test_a_part_alone_is_refused(parts):
    folder, _ = parts
    part = sorted(folder.glob("model-*"))[0]
    with pytest.raises(WeightsError, match=r"one of several files.*Give the folder"):
        vt.load(part)


def first_part(folder: Path) -> Path:
    return sorted(folder.glob("model-*"))[0]


def lose_a_part(folder):
    first_part(folder).unlink()


def lose_a_tensor(folder):
    save_file({"other": torch.zeros(1)}, first_part(folder))


def add_a_tensor(folder):
    tensors = load_file(first_part(folder))
    save_file({**tensors, "hidden": torch.zeros(1)}, first_part(folder))


def leave(folder):
    edit(folder / INDEX, ("weight_map", "classifier.bias"), "../w.safetensors")


def name_a_number(folder):
    edit(folder / INDEX, ("weight_map", "classifier.bias"), 7)


def empty_the_map(folder):
    edit(folder / INDEX, ("weight_map",), [])


def cut(folder):
    (folder / INDEX).write_text('{"weight_map": {')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_a_part, r"of which 1 are not beside it: model-00001-of"),
        (lose_a_tensor, r"is not in model-00001-of.*where the index has it"),
        (add_a_tensor, r"has the tensor hidden, which the index does not have"),
        (leave, r"it names the file \.\./w\.safetensors"),
        (name_a_number, r"it names the file int"),
        (empty_the_map, r"it has no object `weight_map`"),
        (cut, r"it is no JSON"),
    ],
)
def test_a_damaged_index_is_one_sentence(parts, damage, words):
    folder, _ = parts
    damage(folder)
    with pytest.raises(WeightsError, match=words):
        vt.load(folder)


def test_the_hash_covers_the_parts(parts):
    folder, _ = parts
    before = weights_file_hash(folder)
    name = first_part(folder)
    save_file({k: v + 1 for k, v in load_file(name).items()}, name)
    assert weights_file_hash(folder) != before


# class names that come twice


def hugging_face_twins(folder: Path) -> None:
    hugging_face(folder)
    for name, value in {"0": "crane", "1": "crane", "2": "cow"}.items():
        edit(folder / "config.json", ("id2label", name), value)


def timm_twins(folder: Path) -> None:
    folder.mkdir()
    timm_folder(folder)
    edit(folder / "config.json", ("label_names",), ["crane", "crane", "cow"])


def native_twins(folder: Path) -> None:
    timm_twins(folder.with_name("source"))
    model, preprocess, _ = vt.load(folder.with_name("source"))
    vt.save(folder, model.float(), preprocess, classes=("crane", "crane", "cow"))


@pytest.mark.parametrize("make", [hugging_face_twins, timm_twins, native_twins])
def test_two_classes_of_one_name_are_two_answers(tmp_path, capsys, make):
    folder, file = tmp_path / "model", tmp_path / "one.png"
    make(folder)
    source = vt.weights.read(folder)
    assert source.classes == ("crane (0)", "crane (1)", "cow")
    assert any("such as crane (0)" in note for note in source.notes)
    Image.new("RGB", (40, 40), (200, 30, 90)).save(file)
    assert main(["predict", str(folder), str(file)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_a_number_behind_a_name_is_no_other_name(tmp_path):
    folder = tmp_path / "model"
    timm_twins(folder)
    names = ["crane", "crane", "crane (1)"]
    edit(folder / "config.json", ("label_names",), names)
    assert vt.weights.read(folder).classes == ("crane (0)", "crane (1)'", "crane (1)")
    forms = ["caf\u00e9", "cafe\u0301", "tea"]
    edit(folder / "config.json", ("label_names",), forms)
    assert len(set(vt.weights.read(folder).classes)) == 3
    assert vt.weights.read(folder).classes[1] == "caf\u00e9 (1)"
