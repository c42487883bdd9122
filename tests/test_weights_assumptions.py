"""Files without a config.json: one line says what is assumed, and the user decides."""

import json

import pytest
import timm
import torch
import vit_pytorch
from safetensors.torch import save_file

import vitral as vt
from helpers import assert_near, images, randomise, tiny_vit
from test_weights_json import SIZES, timm_folder
from vitral.cli import main
from vitral.errors import ConfigError


def said(ledger) -> list[str]:
    return [note for note in ledger.notes if note.startswith("assumed, as the file")]


def timm_file(folder, **arguments):
    """Write timm's tensors alone; return its model in float64."""
    arguments = {**SIZES, **arguments}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    randomise(model)
    model = model.double().eval()
    save_file(model.state_dict(), folder / "w.safetensors")
    return model


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ({}, {}, "the class token is pooled, exact GELU, no gate, 3 heads; timm's"),
        ({"global_pool": "avg"}, {}, "the mean of the patches is pooled, exact"),
        ({"global_pool": "avg", "fc_norm": False}, {"global_pool": "avg"}, "class to"),
        (
            {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True},
            {"global_pool": "avg_all"},
            "class token",
        ),
        ({"act_layer": "gelu_tanh"}, {"act": "gelu_tanh"}, "exact GELU"),
        ({"num_heads": 2}, {"num_heads": 2}, "3 heads"),
    ],
    ids=str,
)
def test_a_file_of_timms_says_what_it_assumes(tmp_path, arguments, settings, words):
    theirs, image = timm_file(tmp_path, **arguments), images(2, 32, 32)
    file = tmp_path / "w.safetensors"
    loaded = vt.load(file, num_heads=3, settings=settings)
    assert [words in note for note in said(loaded.ledger)] == [True]
    plain = vt.load(file, num_heads=3).model
    with torch.no_grad():
        assert_near(loaded.model(image), theirs(image), 1e-10)
        if settings:
            with pytest.raises(AssertionError):
                assert_near(plain(image), theirs(image), 1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit_pytorchs_mean_over_all_tokens(tmp_path, pool):
    sizes = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2}
    theirs = vit_pytorch.ViT(**sizes, dim_head=12, mlp_dim=40, num_classes=3)
    randomise(theirs)
    theirs.double().eval()
    # As versions 0.14 to 1.7.4: a class token whichever the pooling.
    theirs.pool = pool
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    settings = {"global_pool": "avg_all"} if pool == "mean" else {}
    loaded = vt.load(tmp_path / "w.safetensors", num_heads=2, settings=settings)
    (note,) = said(loaded.ledger)
    assert "the class token is pooled" in note
    assert "`pool='mean'` of versions 0.14 to 1.7.4, which is global_pool=a" in note
    assert "ats_vit, which drops tokens, have the same names" in note
    image = images(2, 32, 32)
    with torch.no_grad():
        assert_near(loaded.model(image), theirs(image), 1e-10)


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        (
            "dino",
            {"image_size": 48, "num_classes": 0, "init_values": 1e-5, "mlp": "swiglu"},
        ),
        (
            "simple_vit",
            {
                "class_token": False,
                "global_pool": "avg",
                "position": "sincos_2d",
                "patch_norm": True,
                "qkv_bias": False,
                "proj_bias": False,
                "patch_size": 16,
            },
        ),
    ],
)
def test_each_file_alone_has_the_line(tmp_path, layout, changes):
    model = tiny_vit(**{"act": "gelu", **changes})
    vt.save(tmp_path / "m", model, vt.load(timm_at(tmp_path)).preprocess)
    made = vt.convert(tmp_path / "m", tmp_path / "w.safetensors", layout)
    assert said(made.ledger) == []
    (note,) = said(vt.load(tmp_path / "w.safetensors").ledger)
    assert ("a SiLU gate" in note) == ("mlp" in changes)
    assert "3 heads" in note


def timm_at(folder):
    (folder / "t").mkdir()
    timm_folder(folder / "t")
    return folder / "t"


def test_a_folder_that_says_it_has_no_such_line(tmp_path):
    folder = timm_at(tmp_path)
    assert said(vt.load(folder).ledger) == []
    content = json.loads((folder / "config.json").read_text())
    del content["architecture"], content["model_args"]
    (folder / "config.json").write_text(json.dumps(content))
    assert len(said(vt.load(folder, num_heads=3).ledger)) == 1


def test_settings_that_tensors_show_are_refused(tmp_path):
    timm_file(tmp_path)
    file = tmp_path / "w.safetensors"
    with pytest.raises(ConfigError, match=r"pos_embed would be \(1, 7, 24\), and is"):
        vt.load(file, num_heads=3, settings={"reg_tokens": 2})
    with pytest.raises(ConfigError, match="no setting `pool`"):
        vt.load(file, num_heads=3, settings={"pool": "avg"})


def test_convert_takes_settings(tmp_path, capsys):
    theirs = timm_file(tmp_path, global_pool="avg", fc_norm=False)
    source, out = str(tmp_path / "w.safetensors"), str(tmp_path / "out")
    argv = ["convert", source, out, "--to", "timm", "--num-heads", "3"]
    assert main([*argv, "--set", "global_pool=avg"]) == 0
    assert "as given: global_pool=avg" in capsys.readouterr().out
    image = images(2, 32, 32)
    with torch.no_grad():
        assert_near(vt.load(out).model(image), theirs(image), 1e-10)


def test_the_mean_of_all_tokens_leaves_masked_patches_out():
    model = tiny_vit(global_pool="avg_all", norm_after_pool=True)
    image, mask = images(2), torch.ones(2, 3, 5, dtype=torch.bool)
    mask[:, 1, 2:4] = False
    features = model.forward_features(image, mask)
    kept = features.patches.flatten(1, 2)[mask.flatten(1)].reshape(2, 13, -1)
    tokens = torch.cat([features.cls[:, None], kept], dim=1)
    wanted = model.head(model.fc_norm(tokens.mean(dim=1)))
    with torch.no_grad():
        assert_near(model(image, mask), wanted, 1e-12)
