"""EVA-01, EVA-02 and timm's models with EVA-02's angles, in timm's names."""

import json
import math

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import vitral as vt
from test_weights_clip import gap, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export.to_onnx import to_onnx
from vitral.layers import Grid, IndexRotaryPosition
from vitral.models import ViT, ViTConfig

TIMM = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 16}
VIT = {
    "image_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 128,
    "mlp": "swiglu",
    "mlp_norm": True,
    "num_classes": 5,
    "position": "learned_rotary",
    "k_bias": False,
    "act": "gelu",
    "global_pool": "avg",
    "norm_after_pool": True,
}
PLACES = ((64, 64), (96, 96), (48, 80))
NAMES = (
    "eva02_tiny_patch14_224",
    "eva02_base_patch14_448",
    "eva_giant_patch14_224",
    "eva_giant_patch14_clip_224",
    "vit_betwixt_patch16_rope_reg4_gap_256",
    "vit_mediumd_patch16_rope_reg1_gap_256",
)


def angles_by_hand(rows: int, columns: int, channels: int) -> np.ndarray:
    """Angles of each patch, by the formula of the authors' code, in float64."""
    quarter = channels // 4
    out = np.empty((rows * columns, 2 * quarter))
    for n in range(rows * columns):
        for axis, (index, side) in enumerate(
            zip(divmod(n, columns), (rows, columns), strict=True)
        ):
            for k in range(quarter):
                period = 10_000 ** (k / quarter)
                out[n, axis * quarter + k] = index / side * 16 / period
    return out


def test_neighbouring_channels_are_turned_by_hand():
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    layer = IndexRotaryPosition(1)
    angles = layer.angles(Grid(3, 5), 16, torch.device("cpu")).numpy()
    assert np.abs(angles - angles_by_hand(3, 5, 16)).max() < 1e-12
    found = layer(x, Grid(3, 5))
    assert torch.equal(found[:, :, :1], x[:, :, :1])
    wanted = torch.view_as_complex(x[:, :, 1:].unflatten(-1, (-1, 2)).contiguous())
    angles = torch.from_numpy(angles)
    wanted = wanted * torch.polar(torch.ones_like(angles), angles)
    assert gap(found[:, :, 1:], torch.view_as_real(wanted).flatten(-2)) < 1e-12


def timm_folder(name, folder, **changes):
    arguments = {**TIMM, "dynamic_img_size": True, **changes}
    theirs = randomise(timm.create_model(name, num_classes=5, **arguments))
    timm.models._hub.save_config_for_hf(
        theirs, folder / "config.json", {}, model_args=arguments
    )
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs


@pytest.mark.parametrize("name", NAMES)
def test_timms_model(name, tmp_path):
    theirs = timm_folder(name, tmp_path)
    model, preprocess, _ = vt.load(tmp_path, dtype=torch.float64)
    assert preprocess.mean == theirs.pretrained_cfg["mean"]
    own = None if theirs.rope is None else theirs.rope.get_embed
    assert model.config.image_hw == (64, 64)
    assert model.config.global_pool == ("token" if "clip" in name else "avg")
    for size in PLACES:
        with torch.no_grad():
            if own is not None:
                theirs.rope.get_embed = own
            # timm's angles, and its resized positions, are in float32.
            assert gap(model(images(*size)), theirs(images(*size))) < 2e-5
            if theirs.rope is not None:
                angles = torch.from_numpy(
                    angles_by_hand(size[0] // 16, size[1] // 16, 16)
                )
                angles = angles.repeat_interleave(2, dim=1)
                embed = torch.cat([angles.sin(), angles.cos()], dim=-1)
                theirs.rope.get_embed = lambda *args, embed=embed, **kwargs: embed
            tolerance = 1e-10 if size == (64, 64) or "rope" in name else 1e-6
            assert gap(model(images(*size)), theirs(images(*size))) < tolerance
    with torch.no_grad():
        turned = model(images(64, 64).flip(-1))
        assert gap(model(images(64, 64)), turned) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_timms_names_are_written_for_its_model(name, tmp_path):
    theirs = timm_folder(name, tmp_path)
    vt.convert(tmp_path, tmp_path / "native", "native")
    file = tmp_path / "timm.safetensors"
    vt.convert(tmp_path / "native", file, "timm_eva")
    before, after = theirs.state_dict(), load_file(file)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # The file alone, too: its heads, which no tensor shows, are in its metadata.
    again, first = vt.load(file).model.config, vt.load(tmp_path / "native").model.config
    assert vt.models.replace_config(again, {"global_pool": first.global_pool}) == first


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_models(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1000)
        ours = vt.create(f"{name}.some_tag", num_classes=1000)
    assert sum(math.prod(it.shape) for it in ours.parameters()) == sum(
        math.prod(it.shape) for it in theirs.parameters()
    )


def test_file_of_the_pretraining(tmp_path):
    theirs = timm_folder("eva02_tiny_patch14_224", tmp_path, use_fc_norm=False)
    tensors = {key: it for key, it in theirs.state_dict().items() if "head" not in key}
    tensors["mask_token"] = torch.zeros(1, 1, 48)
    tensors["lm_head.weight"] = torch.zeros(1024, 48)
    tensors["rope.freqs_cos"] = torch.zeros(16, 16)
    torch.save({"module": tensors}, tmp_path / "mim.pt")
    model, _, ledger = vt.load(tmp_path / "mim.pt", num_heads=3, dtype=torch.float64)
    assert ledger.counts()["dropped"] == 3
    with torch.no_grad():
        wanted = theirs.forward_features(images(64, 64))[:, 0]
        assert gap(model(images(64, 64)), wanted) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("eva02_base_patch16_clip_224", {}, "eva02_base_patch16_clip_224"),
        ("eva02_enormous_patch14_clip_224", {}, "eva02_enormous"),
        ("eva02_tiny_patch14_224", {"ref_feat_shape": [24, 24]}, "ref_feat_shape"),
        ("eva02_tiny_patch14_224", {"rope_rotate_half": True}, "rope_rotate_half"),
        ("eva02_tiny_patch14_224", {"qk_norm": True}, "qk_norm"),
        ("eva_giant_patch14_224", {"use_rot_pos_emb": True}, "use_rot_pos_emb"),
    ],
)
def test_other_models_of_timms_class_are_refused(name, changes, match, tmp_path):
    timm_folder(name, tmp_path, **changes)
    with pytest.raises(WeightsError, match=match):
        vt.load(tmp_path)


def test_arguments_that_contradict_the_tensors_are_refused(tmp_path):
    timm_folder("eva02_base_patch14_224", tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    fields["model_args"]["scale_mlp"] = False
    file.write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=r"model_args\.scale_mlp"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"merge_rate": 2}, "`position=learned_rotary`: a merged token"),
        ({"patch_drop_rate": 0.5}, "patch_drop_rate"),
        ({"head_dim": 6}, "position=learned_rotary` needs heads"),
        ({"mlp": "plain"}, "`mlp_norm` is of a gated perceptron"),
        ({"position": "rotary_index", "position_at": "every_layer"}, "not added"),
    ],
)
def test_settings_that_no_model_has_are_refused(changes, match):
    with pytest.raises(ConfigError, match=match):
        ViTConfig(**{**VIT, **changes})


def test_weights_gradients_and_the_onnx_file(tmp_path):
    model = ViT(ViTConfig(**VIT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    pixels = images(64, 64).float()
    block, x = model.blocks[0], model.embed(pixels)
    normed = block.norm1(x.x)
    weights = block.attn.attention_weights(normed, x.grid)
    v = block.attn.qkv(normed).unflatten(-1, (3, 3, 16))[:, :, 2].transpose(1, 2)
    by_hand = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    assert gap(block.attn(normed, x.grid).detach(), by_hand.detach()) < 1e-5
    model(pixels).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    for size in PLACES:
        pixels = images(*size).float()
        found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
        with torch.no_grad():
            assert gap(torch.from_numpy(found), model(pixels)) < 1e-4
    vt.save(tmp_path / "native", model, Preprocess(image_size=(64, 64)))
    bigger, _, ledger = vt.load(tmp_path / "native", image_size=(96, 64))
    assert "4 x 4 -> 6 x 4 patches" in ledger.summary()
    with torch.no_grad():
        assert gap(bigger(images(96, 64).float()), model(images(96, 64).float())) < 1e-5
