"""`vitral weights`, and a training that starts from weights by name."""

import json
import socket
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hub_server import run_hub
from network_settings import use_own_network
from vitral.cli import main
from vitral.weights import zoo

DINOV2 = "timm/vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    use_own_network(monkeypatch, tmp_path)


@pytest.fixture
def hub(dinov2, monkeypatch):
    """A mirror with DINOv2's ViT-S/14, as the hub keeps it."""
    settings = {
        "architecture": "vit_small_patch14_dinov2",
        "num_classes": 0,
        "global_pool": "token",
        "model_args": {"img_size": 518},
        "pretrained_cfg": {
            "input_size": [3, 518, 518],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }
    files = {
        f"{DINOV2}/model.safetensors": dinov2.read_bytes(),
        f"{DINOV2}/config.json": json.dumps(settings).encode(),
    }
    monkeypatch.setenv("VITRAL_TIMEOUT", "20")
    with run_hub(files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_list_has_every_row_and_filters(capsys):
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(zoo.records()) + 3
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("dinov2_s14 ") and "6.12" in line for line in lines)
    filters = ["--max-mb", "100", "--licence", "apache-2.0", "--task", "features"]
    assert main(["weights", "list", "--family", "dinov2", *filters]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["dinov2_s14", "dinov2_s14_reg"]
    assert main(["weights", "list", "--family", "nothing"]) == 4
    assert "No named weights fit these filters" in capsys.readouterr().err


def test_show_says_licence_size_and_who_published(capsys):
    assert main(["weights", "show", "mae_b16", "dinov2_s14"]) == 0
    out = capsys.readouterr().out
    assert "cc-by-nc-4.0, not for commercial use" in out
    assert "22.06 M, file of 88 MB" in out
    assert "linear 81.1, authors; k-NN 79.0, authors" in out
    assert main(["weights", "show", "dinov2_s41"]) == 4
    assert "Names like it are dinov2_s14" in capsys.readouterr().err


def test_flags_of_another_action_are_refused(capsys):
    assert main(["weights", "show", "mae_b16", "--to", "x"]) == 2
    assert main(["weights", "fetch"]) == 2
    assert "`vitral weights fetch` needs a name" in capsys.readouterr().err
    assert main(["weights", "list", "mae_b16"]) == 2


def test_fetch_then_train_offline(hub, dinov2, photos, tmp_path, capsys, monkeypatch):
    """The README's way for a folder of pictures."""
    assert main(["weights", "fetch", "dinov2_s14"]) == 0
    taken = capsys.readouterr()
    folder = zoo.find_cached("dinov2_s14")
    assert f"dinov2_s14: {folder} (88 MB, apache-2.0)" in taken.out
    assert (folder / "model.safetensors").read_bytes() == dinov2.read_bytes()
    asked = len(hub.requests)
    out = tmp_path / "run"
    command = ["train", str(photos), "--out", str(out), "--linear-probe", "--offline"]
    command += ["--epochs", "1", "--warmup", "0", "--image-size", "56"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "weights: dinov2_s14 from the cache (88 MB, apache-2.0); `--from-scratch` does "
        "without"
    )
    assert json.loads((out / "config.json").read_text())["weights"] == "dinov2_s14"
    card = (out / "model" / "README.md").read_text()
    assert "## Licence of the weights\n\napache-2.0" in card
    assert "trained from the weights dinov2\\_s14" in card
    block = json.loads((out / "model" / "config.json").read_text())["vitral"]
    assert block["pretrained"]["name"] == "dinov2_s14"
    assert len(hub.requests) == asked
    # The run goes on with its own weights, and neither asks nor chooses again.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert main([*command, "--resume"]) == 0
    assert not capsys.readouterr().out.startswith("weights:")
    assert main(["weights", "verify"]) == 0
    assert main(["weights", "path", "dinov2_s14"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    assert main(["weights", "remove", "dinov2_s14"]) == 0
    assert main(["weights", "path", "dinov2_s14"]) == 4


def test_a_licence_is_accepted_by_name(hub, capsys):
    hub.files["timm/vit_base_patch16_224.mae/model.safetensors"] = b"x" * 1000
    assert main(["weights", "fetch", "mae_b16"]) == 4
    assert "if you accept it, run `vitral weights fetch mae" in capsys.readouterr().err
    command = ["weights", "fetch", "mae_b16", "--accept-licence", "cc-by-nc-4.0"]
    assert main(command) == 0
    assert "cc-by-nc-4.0" in capsys.readouterr().out


def choose(device="cpu", **settings):
    return zoo.choose_default(device, **settings)


def test_the_default_is_the_best_that_is_here_or_reachable(hub, monkeypatch, tmp_path):
    reachable = choose()
    assert reachable.name == "dinov2_s14"
    assert reachable.sentence == (
        "weights: dinov2_s14, to be fetched from the hub (88 MB, apache-2.0)"
    )
    assert choose("cuda").name == ""  # this mirror has no dinov2_b14
    assert hub.gets() == []
    dry = choose(may_fetch=False)
    assert dry.name == ""
    assert "a dry run fetches nothing" in dry.sentence
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    assert choose().sentence == (
        "no pre-trained weights: dinov2_s14 is not on this machine, and the network is "
        "forbidden; `vitral weights fetch dinov2_s14` fetches it (88 MB, apache-2.0). "
        "Training from zero."
    )


def test_a_silent_hub_costs_three_seconds(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        choice = choose()
        assert time.monotonic() - started < 4
    assert choice.name == ""
    assert "gave no answer within 3 s" in choice.sentence


def test_small_pictures_and_own_models_train_from_zero(hub, tmp_path, capsys):
    dry = ["--dry-run", "--flops-per-second", "1e12"]
    zoo.fetch("dinov2_s14")
    assert main(["train", "digits", *dry]) == 0
    assert capsys.readouterr().out.startswith(
        "no pre-trained weights: pictures of 8 x 8 pixels would be enlarged more than 4"
    )
    for words in (["--from-scratch"], ["--model", "vit_mu8"], ["--set", "depth=2"]):
        assert main(["train", "digits", *words, *dry]) == 0
        assert capsys.readouterr().out.startswith("recipe: small.scratch")
    assert main(["train", "digits", "--from-scratch", "--weights", "x", *dry]) == 2
    assert "`--from-scratch` starts from random numbers" in capsys.readouterr().err


def test_a_download_that_fails_trains_from_zero_and_says_so(
    hub, photos, tmp_path, capsys
):
    hub.faults = ["404"]
    out = tmp_path / "run"
    command = ["train", str(photos), "--out", str(out), "--steps", "2"]
    assert main([*command, "--warmup", "0"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("no pre-trained weights: dinov2_s14 is not on this machine")
    assert "the download failed" in first
    assert json.loads((out / "config.json").read_text())["weights"] == ""
    assert load_file(out / "model" / "model.safetensors")


def test_offline_with_any_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert main(["--offline", "convert", "dinov2_s14", "--explain"]) == 4
    assert "VITRAL_OFFLINE forbids the network" in capsys.readouterr().err
    assert main(["convert", "dinov2_s14", "--explain"]) == 4
    assert "there is no way to 127.0.0.1:1" in capsys.readouterr().err


def test_everything_of_the_cache_is_in_one_folder(tmp_path):
    assert Path(zoo.cache_folder("x")).parent == tmp_path / "cache" / "weights"
