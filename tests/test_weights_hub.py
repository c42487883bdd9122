"""Hub ids: the cache's own layout, offline, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import vitral as vt
from helpers import tiny_vit
from vitral.data import Preprocess
from vitral.errors import MissingExtraError, WeightsError
from vitral.weights import hub

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cached_model(cache: Path) -> None:
    """A model as huggingface_hub keeps it after a download."""
    folder = cache / "models--tiny--photos"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    vt.save(
        folder / "snapshots" / REVISION,
        tiny_vit(),
        Preprocess(image_size=(48, 80)),
        classes=tuple("abcdefg"),
    )


SCRIPT = """
import vitral as vt
from vitral.errors import WeightsError
for name in ("tiny/photos", "hf-hub:tiny/photos", "tiny/photos@main"):
    model, preprocess, ledger = vt.load(name)
    print(model.config.image_hw, ledger.counts())
for name in ("tiny/none", "tiny/photos@other"):
    try:
        vt.load(name)
    except WeightsError as error:
        print(error)
"""


def run_offline(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_hub_id_is_found_in_the_cache_without_a_network(tmp_path):
    cached_model(tmp_path / "hub")
    done = run_offline(SCRIPT, tmp_path)
    lines = done.stdout.splitlines()
    count = len(tiny_vit().state_dict())
    assert lines[:3] == [f"(48, 80) {{'copied': {count}}}"] * 3
    assert lines[3].startswith("No weights at tiny/none: it is no path here, and nei")
    assert lines[4].startswith("No weights at tiny/photos@other: it is no path here")
    assert "with HF_HUB_OFFLINE=1 only the cache is asked." in lines[3]


PARTS_SCRIPT = """
import vitral as vt
from vitral.errors import WeightsError
print(vt.load("tiny/photos").ledger.counts())
path = vt.weights.detect.resolve_path("tiny/photos")
sorted(path.glob("model-*"))[0].unlink()
try:
    vt.load("tiny/photos")
except WeightsError as error:
    print(error)
"""


def test_a_hub_id_in_parts(tmp_path):
    cache = tmp_path / "hub"
    cached_model(cache)
    folder = cache / "models--tiny--photos" / "snapshots" / REVISION
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = {name: names[at % 2] for at, name in enumerate(tensors)}
    for name in names:
        mine = {k: v for k, v in tensors.items() if weight_map[k] == name}
        save_file(mine, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    done = run_offline(PARTS_SCRIPT, tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{{'copied': {len(tensors)}}}"
    assert "tiny/photos: model-00001-of-00002.safetensors, which" in lines[1]


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("timm/vit_tiny_patch16_224.augreg_in21k", True),
        ("hf-hub:google/vit-base-patch16-224", True),
        ("google/vit-base-patch16-224@main", True),
        ("./google/vit", False),
        ("/tmp/model", False),
        ("../up/model", False),
        ("a/b/c", False),
        ("weights.npz", False),
        ("weights/b16.npz", False),
        ("folder/missing", False),
    ],
)
def test_what_looks_like_an_id(tmp_path, monkeypatch, text, is_id):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert hub.is_id(text) is is_id


def test_without_huggingface_hub_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vitral\[hf\]'"):
        vt.load("tiny/photos")


def test_a_path_that_is_not_there_is_no_id(tmp_path):
    with pytest.raises(WeightsError, match=r"No weights at .*none\.npz: give a weig"):
        vt.load(tmp_path / "none.npz")
