"""Weights by name: fetched once, checked, and read as their record says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf

import vitral as vt
from helpers import captured_log
from hub_server import COMMIT, closed_port, digest_of, run_hub
from network_settings import use_own_network
from vitral.errors import ConfigError, WeightsError
from vitral.weights import zoo
from vitral.weights.zoo import fetch_weights, local_copies, sources
from vitral.weights.zoo.record import Record

REPOSITORY = "timm/test_vit.r160_in1k"


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    use_own_network(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_vit.r160_in1k", pretrained=False).eval()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, bytes]:
    """The repository as timm writes it."""
    folder = tmp_path_factory.mktemp("repository")
    save_for_hf(model, str(folder), safe_serialization=True)
    names = ("model.safetensors", "config.json")
    return {f"{REPOSITORY}/{name}": (folder / name).read_bytes() for name in names}


@pytest.fixture
def hub(files, monkeypatch):
    with run_hub(dict(files)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def hub_cache(folder: Path, files: dict[str, bytes]) -> Path:
    """Put files into Hugging Face's cache, as huggingface_hub does."""
    root = folder / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for part in (snapshot, root / "blobs", root / "refs"):
        part.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        blob = root / "blobs" / digest_of(content)
        blob.write_bytes(content)
        (snapshot / name.rpartition("/")[2]).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def test_a_name_is_fetched_once_and_gives_timms_function(hub, model):
    loaded, preprocess, ledger = vt.load("test_vit")
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        difference = (loaded(pixels) - model(pixels)).abs().max()
    assert difference < 1e-5
    assert preprocess.image_size == (160, 160)
    assert preprocess.crop_fraction == 0.95
    assert ledger.counts()["copied"] > 50
    asked = len(hub.requests)
    for name in (REPOSITORY, f"hf-hub:{REPOSITORY}", "test_vit.r160_in1k"):
        assert vt.load(name).preprocess == preprocess
    assert len(hub.requests) == asked
    assert all(COMMIT in path for path, _ in hub.gets())


def test_what_is_cached_needs_no_network(hub, monkeypatch):
    folder = zoo.fetch("test_vit")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert zoo.fetch("test_vit") == folder
    pin = json.loads((folder / "source.json").read_text())
    assert pin["revision"] == COMMIT
    assert pin["licence"] == "apache-2.0"
    assert pin["files"]["model.safetensors"]["sha256"] == digest_of(
        hub.files[f"{REPOSITORY}/model.safetensors"]
    )


def test_the_record_comes_before_the_file(hub):
    name = f"{REPOSITORY}/config.json"
    settings = json.loads(hub.files[name])
    settings["pretrained_cfg"] |= {"mean": [0.1] * 3, "crop_pct": 0.5}
    hub.files[name] = json.dumps(settings).encode()
    _, preprocess, ledger = vt.load("test_vit")
    assert preprocess.mean == (0.5, 0.5, 0.5)
    assert preprocess.crop_fraction == 0.95
    assert "pixels as test_vit was trained on them, not as the files say" in (
        ledger.notes
    )


def test_dinov2_runs_at_the_size_of_its_authors(dinov2, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "weights" / "dinov2_s14"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to(dinov2)
    (folder / "source.json").write_text(
        '{"name": "dinov2_s14", "source": "a disk", "files": '
        '{"model.safetensors": {"bytes": 1, "sha256": ""}}}'
    )
    model, preprocess, ledger = vt.load("dinov2_s14")
    assert model.config.image_hw == preprocess.image_size == (224, 224)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert any(note.startswith("runs at 224 pixels, as its") for note in ledger.notes)
    assert vt.load("dinov2_s14", image_size=518).model.config.image_hw == (518, 518)
    assert vt.create("vit_s14", pretrained=True, num_classes=3).config.num_classes == 3


def test_a_path_of_the_same_name_wins_with_a_note(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(zoo.fetch("test_vit"), tmp_path / "test_vit")
    asked = len(hub.requests)
    with captured_log() as lines:
        vt.load("test_vit")
    assert any("the path of that name is taken" in line for line in lines)
    assert len(hub.requests) == asked


def test_a_folder_for_another_machine_is_the_whole_offline_story(
    hub, tmp_path, monkeypatch
):
    stick = tmp_path / "stick"
    made = zoo.fetch("test_vit", to=stick)
    assert made == stick / "test_vit"
    assert zoo.find_cached("test_vit") is None
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    assert vt.load(made).preprocess.crop_fraction == 0.95
    with pytest.raises(WeightsError, match="VITRAL_OFFLINE forbids the network"):
        vt.load("test_vit")
    monkeypatch.setenv("VITRAL_CACHE", str(tmp_path / "other"))
    shutil.copytree(made, zoo.cache_folder("test_vit"))
    assert vt.load("test_vit").preprocess.crop_fraction == 0.95


def test_the_refusal_offline_says_how_to_bring_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    with pytest.raises(WeightsError) as caught:
        vt.load("vit_s16_in21k")
    assert str(caught.value) == (
        "vit_s16_in21k is not in the cache, and VITRAL_OFFLINE forbids the network. "
        "On a machine with a network run `vitral weights fetch vit_s16_in21k --to "
        f"DIR`, and copy DIR/vit_s16_in21k here, into {tmp_path / 'cache' / 'weights'}."
    )


def test_hugging_faces_cache_is_used_if_its_bytes_are_right(
    files, tmp_path, monkeypatch
):
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    snapshot = hub_cache(tmp_path, files)
    folder = zoo.fetch("test_vit")
    assert zoo.verify_folder(folder) == []
    assert f"Hugging Face's cache, {snapshot}" in (folder / "source.json").read_text()
    zoo.remove_folder(folder)
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="test_vit is not in the cache"):
        zoo.fetch("test_vit")


def test_torchs_cache_is_used_if_the_checksum_is_right(tmp_path):
    content = b"weights of the authors"
    record = Record(
        **{
            **{it: getattr(zoo.records()["test_vit"], it) for it in Record.__slots__},
            "official": "https://example.org/w.pth",
            "checksum": f"sha256:{digest_of(content)[:8]}",
        }
    )
    file = tmp_path / "torch" / "hub" / "checkpoints" / "w.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert local_copies.find_official_copy(record) == file
    file.write_bytes(content + b"!")
    assert local_copies.find_official_copy(record) is None


def test_the_licence_is_asked_for_before_a_byte(hub, monkeypatch):
    with pytest.raises(WeightsError) as caught:
        zoo.fetch("mae_b16")
    assert "cc-by-nc-4.0, not for commercial use. Read it at" in str(caught.value)
    assert "`vitral weights fetch mae_b16 --accept-licence cc-by-nc-4.0`" in str(
        caught.value
    )
    assert hub.requests == []
    for repository in ("facebook/timesformer-base-finetuned-k400", "timm/" + MAE):
        with pytest.raises(WeightsError, match="not for commercial use"):
            zoo.fetch(repository)
    monkeypatch.setenv("VITRAL_ACCEPT_LICENCE", "x, cc-by-nc-4.0")
    with pytest.raises(WeightsError, match=r"mae_b16 cannot be had|No weights at"):
        zoo.fetch("mae_b16", origin="hub")
    assert hub.requests


MAE = "vit_base_patch16_224.mae"


def test_what_vitral_cannot_read_yet_is_said(hub):
    with pytest.raises(WeightsError, match="swin_ti cannot be loaded: its model has"):
        vt.load("swin_ti")
    assert hub.requests == []


def test_features_alone_answer_nothing_and_cost_nothing(hub):
    with pytest.raises(ConfigError, match="dinov2_s14 gives features alone"):
        vt.open("dinov2_s14")
    assert hub.requests == []


def test_weights_with_classes_answer(hub, tmp_path):
    from PIL import Image

    Image.new("RGB", (200, 180), (10, 200, 30)).save(tmp_path / "x.png")
    (answer,) = vt.open("test_vit").predict([tmp_path / "x.png"])
    assert len(answer.probabilities) == 1000
    assert {"tench", "crane", "crane bird", "toilet tissue"} <= set(
        answer.probabilities
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit_base_patch16_224", "may mean several weights: vit_b16_in21k, vit_b16"),
        ("vit_s16", "may mean several weights: vit_s16_in21k, vit_s16_in21k_in1k"),
        ("dinov2_s41", "Names like it are dinov2_s14"),
    ],
)
def test_a_name_that_is_none_has_candidates(hub, name, sentence):
    with pytest.raises(WeightsError, match=sentence):
        vt.load(name)
    assert hub.requests == []


def test_create_pretrained(hub):
    model = vt.create("test_vit", pretrained=True, num_classes=4)
    assert model.config.num_classes == 4
    with pytest.raises(
        WeightsError, match=r"vit_h14 has no weights by default. Choose"
    ):
        vt.create("vit_h14", pretrained=True)
    with pytest.raises(WeightsError, match="has none for vit_gigantic14"):
        vt.create("vit_gigantic14", pretrained=True)
    assert vt.create("vit_mu16").config.num_classes == 1000


def test_a_hub_id_with_and_without_a_revision(hub):
    hub.files["a/b/model.safetensors"] = hub.files[f"{REPOSITORY}/model.safetensors"]
    hub.files["a/b/config.json"] = hub.files[f"{REPOSITORY}/config.json"]
    assert vt.load("a/b").model.config == vt.load("a/b@v1.0").model.config
    names = sorted(it.name for it in zoo.list_cached())
    assert names == ["a--b", "a--b@v1.0"]
    with pytest.raises(WeightsError, match=r"No weights at a/none: .*has none of mod"):
        vt.load("a/none")


def test_a_hub_id_in_parts(hub, tmp_path):
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(hub.files[f"{REPOSITORY}/model.safetensors"])
    tensors = load_file(whole)
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    weight_map = {name: names[at % 2] for at, name in enumerate(tensors)}
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    hub.files["a/parts/model.safetensors.index.json"] = index
    hub.files["a/parts/config.json"] = hub.files[f"{REPOSITORY}/config.json"]
    for name in names:
        part = {k: v for k, v in tensors.items() if weight_map[k] == name}
        save_file(part, tmp_path / name)
        hub.files[f"a/parts/{name}"] = (tmp_path / name).read_bytes()
    assert vt.load("a/parts").ledger.counts()["copied"] == len(tensors)
    del hub.files[f"a/parts/{names[1]}"]
    zoo.remove_folder(zoo.cache_folder("a/parts"))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(WeightsError, match=f"has no {names[1]}, which"):
        vt.load("a/parts")


def test_a_pickle_of_unknown_content_has_a_limit(hub, monkeypatch):
    hub.files["a/clip/pytorch_model.bin"] = b"0" * 100
    monkeypatch.setattr(sources, "LARGEST_PICKLE", 50)
    with pytest.raises(WeightsError, match="has no safetensors, only pytorch_model"):
        zoo.fetch("a/clip")
    assert hub.gets() == []


def test_a_gated_repository_says_where_to_ask(hub):
    hub.gated = True
    with pytest.raises(WeightsError) as caught:
        zoo.fetch("a/b")
    sentence = str(caught.value)
    assert "refuses access (401: Access is gated.)" in sentence
    assert f"Ask for it at {hub.url}/a/b, and set HF_TOKEN" in sentence


def test_changed_bytes_are_found(hub):
    folder = zoo.fetch("test_vit")
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    (fault,) = zoo.verify_folder(folder)
    assert fault.startswith(f"{file} has SHA-256 ")
    zoo.remove_folder(folder)
    assert not folder.exists()


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
    assert fetch_weights.is_hub_id(text) is is_id


def test_a_path_that_is_not_there_is_no_id(tmp_path):
    with pytest.raises(WeightsError, match=r"No weights at .*none\.npz: give a weig"):
        vt.load(tmp_path / "none.npz")


def test_importing_vitral_imports_no_http_client():
    script = "import vitral.weights, sys; print('httpx2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
