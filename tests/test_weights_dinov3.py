"""DINOv3: rotary positions by hand, timm's and transformers' names."""

import json
import math

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

import vitral as vt
from test_weights_clip import gap, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.export.to_onnx import to_onnx
from vitral.layers import Grid, RotaryPosition
from vitral.models import ViT, ViTConfig

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_register_tokens": 4,
    "image_size": 64,
}
TIMM = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
VIT = {
    "image_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 96,
    "num_classes": 0,
    "reg_tokens": 4,
    "position": "rotary",
    "init_values": 0.1,
    "norm_eps": 1e-5,
}
PLACES = ((64, 64), (48, 80))


def angles_by_hand(rows: int, columns: int, channels: int) -> np.ndarray:
    """Angles of each patch, by the formula of the authors' code, in float64."""
    quarter = channels // 4
    out = np.empty((rows * columns, 2 * quarter))
    for n in range(rows * columns):
        row, column = divmod(n, columns)
        for k in range(quarter):
            period = 100 ** (k / quarter)
            for axis, (index, side) in enumerate(((row, rows), (column, columns))):
                centre = 2 * (index + 0.5) / side - 1
                out[n, axis * quarter + k] = 2 * math.pi * centre / period
    return out


def test_angles_are_those_of_the_specification():
    angles = RotaryPosition(5).angles(Grid(3, 5), 16, torch.device("cpu")).numpy()
    first = [-4.18879020, -1.32461177, -0.41887902, -0.13246118]
    assert np.abs(angles[0, :4] - first).max() < 1e-8
    assert abs(2 * np.abs(angles).sum() - 252.29327431) < 1e-7
    assert np.abs(angles - angles_by_hand(3, 5, 16)).max() < 1e-12


def test_a_patch_is_turned_and_a_prefix_token_is_not():
    x = torch.randn(2, 3, 17, 16, dtype=torch.float64)
    found = RotaryPosition(2)(x, Grid(3, 5))
    assert torch.equal(found[:, :, :2], x[:, :, :2])
    angles = torch.from_numpy(angles_by_hand(3, 5, 16))
    turned = torch.view_as_complex(torch.stack([x[..., :8], x[..., 8:]], -1))
    turned = turned[:, :, 2:] * torch.polar(torch.ones_like(angles), angles)
    wanted = torch.cat([turned.real, turned.imag], dim=-1)
    assert gap(found[:, :, 2:], wanted) < 1e-12


class Exact(nn.Module):
    """The angles of transformers in float64; its own are in float32."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sides = (side // 16 for side in pixels.shape[-2:])
        angles = torch.from_numpy(angles_by_hand(*sides, 16)).repeat(1, 2)
        return angles.cos(), angles.sin()


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_transformers_model(gated, bias, tmp_path):
    config = transformers.DINOv3ViTConfig(
        **SIZES,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
        query_bias=bias,
        value_bias=bias,
    )
    theirs = randomise(transformers.DINOv3ViTModel(config))
    theirs.save_pretrained(tmp_path / "theirs")
    model, preprocess, _ = vt.load(tmp_path / "theirs", dtype=torch.float64)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    for exact, tolerance in ((False, 1e-5), (True, 1e-10)):
        if exact:
            theirs.rope_embeddings = Exact()
        for size in PLACES:
            with torch.no_grad():
                wanted = theirs(images(*size))
                found = model.forward_features(images(*size))
                last = wanted.last_hidden_state[:, 5:]
                assert gap(found.patches.flatten(1, 2), last) < tolerance
                assert gap(model(images(*size)), wanted.pooler_output) < tolerance
    vt.convert(tmp_path / "theirs", tmp_path / "native", "native")
    out = vt.convert(tmp_path / "native", tmp_path / "out", "huggingface_dinov3").path
    again = transformers.DINOv3ViTModel.from_pretrained(out).double().eval()
    again.rope_embeddings = Exact()
    with torch.no_grad():
        wanted = theirs(images(64, 64)).last_hidden_state
        assert gap(again(images(64, 64)).last_hidden_state, wanted) < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_dinov3",
        "vit_small_patch16_dinov3_qkvb",
        "vit_small_plus_patch16_dinov3",
    ],
)
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_timms_model(name, pool, tmp_path):
    arguments = {**TIMM, "global_pool": pool}
    theirs = randomise(timm.create_model(name, num_classes=3, **arguments))
    timm.models._hub.save_config_for_hf(
        theirs, tmp_path / "config.json", {}, model_args=arguments
    )
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    model, preprocess, _ = vt.load(tmp_path, dtype=torch.float64)
    assert model.config.global_pool == pool
    assert preprocess.std == (0.229, 0.224, 0.225)
    for size in PLACES:
        with torch.no_grad():
            assert gap(model(images(*size)), theirs(images(*size))) < 1e-5
    # timm's angles are in float32; with float64 ones the two are equal.
    angles = torch.from_numpy(angles_by_hand(4, 4, 16)).repeat(1, 2)
    embed = torch.cat([angles.sin(), angles.cos()], dim=-1)
    theirs.rope.get_embed = lambda *args, **kwargs: embed
    with torch.no_grad():
        assert gap(model(images(64, 64)), theirs(images(64, 64))) < 1e-10


def test_timms_names_are_written_for_its_model(tmp_path):
    ours = randomise(ViT(ViTConfig(**{**VIT, "act": "gelu", "qkv_bias": False})))
    vt.save(tmp_path / "native", ours.float(), Preprocess(image_size=(64, 64)))
    file = tmp_path / "timm.safetensors"
    vt.convert(tmp_path / "native", file, "timm_dinov3")
    theirs = timm.create_model(
        "vit_small_patch16_dinov3",
        num_classes=0,
        global_pool="token",
        mlp_ratio=2,
        checkpoint_path=str(file),
        **TIMM,
    )
    with torch.no_grad():
        found = theirs.double().eval()(images(64, 64))
        assert gap(found, ours.double()(images(64, 64))) < 1e-5


def test_other_models_of_timms_class_are_not_read_as_dinov3(tmp_path):
    name = "vit_small_patch16_dinov3"
    theirs = timm.create_model(name, num_classes=0, **TIMM)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"architecture": "vit_small_patch16_eupe"}))
    with pytest.raises(WeightsError, match="vit_small_patch16_eupe"):
        vt.load(tmp_path)
    arguments = {"rope_temperature": 10_000}
    file.write_text(json.dumps({"architecture": name, "model_args": arguments}))
    with pytest.raises(WeightsError, match="rope_temperature"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("rope_theta", 10_000.0), ("hidden_act", "relu")]
)
def test_fields_of_another_function_are_refused(field, value, tmp_path):
    config = transformers.DINOv3ViTConfig(**SIZES, **{field: value})
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=f"`{field}` is"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"merge_rate": 2}, "no position to be rotated by"),
        ({"patch_drop_rate": 0.5}, "patch_drop_rate"),
        ({"head_dim": 6}, "a multiple of 4: got 6"),
        ({"position_at": "every_layer"}, "not added to tokens"),
    ],
)
def test_rotary_positions_refuse_what_they_cannot_do(changes, match):
    with pytest.raises(ConfigError, match=match):
        ViTConfig(**{**VIT, **changes})


def test_weights_gradients_and_the_onnx_file():
    model = ViT(ViTConfig(**VIT)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    pixels = images(64, 64).float()
    block = model.blocks[0]
    x = model.embed(pixels)
    normed = block.norm1(x.x)
    weights = block.attn.attention_weights(normed, x.grid)
    v = block.attn.qkv(normed).unflatten(-1, (3, 3, 16))[:, :, 2].transpose(1, 2)
    by_hand = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    assert gap(block.attn(normed, x.grid).detach(), by_hand.detach()) < 1e-5
    model(pixels).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})[0]
    with torch.no_grad():
        assert gap(torch.from_numpy(found), model(pixels)) < 1e-4
