"""Traps of published weights: each is right or refused, never another function."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save

import vitral as vt
from hub_server import run_hub
from network_settings import use_own_network
from test_weights_clip import gap, images, open_clip_tensors, randomise
from vitral.weights import zoo
from vitral.weights.numerics import CLIP_MEAN
from vitral.weights.zoo import records

PIXELS = {
    "half": "vit_s16_in21k r26_vit_s32_in21k bit_m_r50x1 tnt_s16 siglip_b16 beit_b16 "
    "vit_little16_sbb",
    "imagenet": "deit_s16 deit3_s16 dino_s16 dinov2_s14 mae_b16 swin_ti tv_vit_b16",
    "clip": "clip_b32 clip_l14 openclip_b16_datacomp",
}
"""Mean and deviation by family, as their authors state them."""
CROPS = {
    0.9: "vit_s16_in21k_in1k deit_s16 dino_s16 mae_b16 siglip_b16",
    1.0: "dinov2_s14 deit3_s16 swag_b16_384",
    0.95: "vit_little16_sbb",
    0.875: "bit_m_r50x1",
}


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    use_own_network(monkeypatch, tmp_path)


@pytest.fixture
def hub(monkeypatch):
    with run_hub({}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def publish(hub, name: str, **pretrained: object) -> torch.nn.Module:
    """Put a model of timm, with random numbers, where the record looks for it."""
    record = records()[name]
    torch.manual_seed(0)
    model = timm.create_model(record.timm, num_classes=record.classes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    cfg = model.pretrained_cfg
    about = {
        key: cfg[key]
        for key in ("input_size", "mean", "std", "crop_pct", "interpolation")
    }
    settings = {
        "architecture": record.timm.partition(".")[0],
        "num_classes": record.classes,
        "global_pool": getattr(model, "global_pool", "token"),
        "pretrained_cfg": about | pretrained,
    }
    hub.files[f"{record.hub}/{record.hub_file}"] = save(model.state_dict())
    hub.files[f"{record.hub}/config.json"] = json.dumps(settings).encode()
    return model


@pytest.mark.parametrize("pixels", PIXELS)
def test_mean_and_deviation_by_family(pixels):
    for name in PIXELS[pixels].split():
        assert records()[name].pixels == pixels, name


@pytest.mark.parametrize("crop", CROPS)
def test_crop_by_family(crop):
    for name in CROPS[crop].split():
        assert records()[name].crop == crop, name


@pytest.mark.parametrize("wrong", [{"mean": [0.5] * 3}, {"crop_pct": 0.5}, {}])
def test_a_file_with_the_wrong_mean_is_read_with_the_right_one(hub, wrong):
    publish(hub, "deit_ti16", **wrong)
    _, preprocess, _ = vt.load("deit_ti16")
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert preprocess.crop_fraction == 0.9
    assert preprocess.interpolation == "bicubic"


def test_dinov2_runs_at_224_and_is_timms_function_there(hub):
    model = publish(hub, "dinov2_s14")
    _, preprocess, _ = vt.load("dinov2_s14")
    assert preprocess.image_size == (224, 224)
    full, *_ = vt.load("dinov2_s14", image_size=518, dtype=torch.float64)
    pixels = torch.randn(1, 3, 518, 518, dtype=torch.float64)
    with torch.no_grad():
        theirs = model.double()(pixels)
        difference = (full(pixels) - theirs).abs().max()
    assert difference < 1e-9


def test_the_head_of_imagenet_21k_has_its_rows(hub):
    publish(hub, "vit_ti16_in21k")
    model, _, _ = vt.load("vit_ti16_in21k")
    assert model.config.num_classes == 21_843


def test_orig_in21k_has_no_head_and_no_hidden_layer():
    for name in ("vit_b16_orig_in21k", "r50_vit_b16_orig_in21k"):
        assert records()[name].classes == 0
        # Google's own file has both: another model under the same words.
        assert not records()[name].official


def test_a_giant_of_dinov2_is_not_the_giant_of_2106_04560():
    for name in ("dinov2_g14", "dinov2_g14_reg"):
        record = records()[name]
        assert record.model == ""
        assert record.params_m == 1136.48


def test_licences_that_old_copies_have_wrong():
    by_name = {name: record.licence for name, record in records().items()}
    assert by_name["dinov2_s14"] == "apache-2.0"
    assert by_name["clip_b32"] == "mit"
    assert by_name["beit_b16"] == "mit"
    assert by_name["dinov3_s16"] == "dinov3-license"
    not_commercial = {name for name, row in records().items() if not row.is_commercial}
    assert not_commercial == {
        "mae_b16",
        "mae_l16",
        "mae_h14",
        "timesformer_b16_k400",
        "swag_b16_384",
    }


def test_dinov3_pools_as_its_authors_do():
    assert {records()[f"dinov3_{size}16"].pooling for size in "sbl"} == {"token"}


def test_an_official_pickle_is_read_and_never_run(hub, monkeypatch, tmp_path):
    """The authors' address gives a `.pth`: its tensors are taken, its code is not."""
    model = publish(hub, "deit_ti16")
    file = tmp_path / "deit.pth"
    torch.save({"model": model.state_dict()}, file)
    hub.files["own/deit/deit.pth"] = file.read_bytes()
    record = records()["deit_ti16"]
    fields = {it: getattr(record, it) for it in type(record).__slots__}
    fields |= {"official": f"{hub.url}/own/deit/deit.pth", "checksum": ""}
    monkeypatch.setattr(
        "vitral.weights.zoo.fetch_weights.find_record",
        lambda name: type(record)(**fields),
    )
    folder = zoo.fetch("deit_ti16", origin="official")
    monkeypatch.undo()
    use_own_network(monkeypatch, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    ours, preprocess, _ = vt.load(str(folder / "deit.pth"), dtype=torch.float64)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    by_name, _, _ = vt.load("deit_ti16", dtype=torch.float64)
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(pixels).numpy()
        assert np.abs(ours(pixels).numpy() - expected).max() < 1e-9
        assert np.abs(by_name(pixels).numpy() - expected).max() < 1e-9


@pytest.mark.parametrize("about", [{"tag": "openai"}, {}], ids=["tag", "no tag"])
def test_clip_is_never_read_as_a_plain_model(hub, about):
    """The hub's file holds both towers, and timm's name hides OpenAI's QuickGELU."""
    record = records()["clip_b32"]
    name = "vit_base_patch32_clip_quickgelu_224"
    theirs = randomise(timm.create_model(name, num_classes=record.classes, depth=1))
    theirs = theirs.half().double()
    torch.nn.init.zeros_(theirs.head.bias)
    tensors = open_clip_tensors(theirs).items()
    tensors = save({key: value.half() for key, value in tensors})
    settings = {
        "architecture": record.timm.partition(".")[0],
        "num_classes": record.classes,
        "pretrained_cfg": {"input_size": [3, 224, 224], **about},
    }
    hub.files[f"{record.hub}/{record.hub_file}"] = tensors
    hub.files[f"{record.hub}/config.json"] = json.dumps(settings).encode()
    model, preprocess, _ = vt.load("clip_b32", dtype=torch.float64)
    assert preprocess.mean == CLIP_MEAN
    assert model.config.act == "quick_gelu"
    assert records()["openclip_b16_datacomp"].act == "gelu"
    with torch.no_grad():
        assert gap(model(images(224, 224)), theirs(images(224, 224))) < 1e-10
