"""Weights of Google's two projects: the golden model, timm's readers, both ways."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import vitral as vt
import vitral.weights
from helpers import images, randomise, tiny_vit
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import ViTConfig, build_model
from vitral.weights import available_layouts
from vitral.weights.convert import convert, to_foreign_tensors
from vitral.weights.layouts.google import flax_names

GOLDEN = [
    ("token", "gelu_tanh", 0, (0.836758318, 0.582039578, 0.053578530)),
    ("token", "gelu", 0, (0.836766641, 0.582040281, 0.053571281)),
    ("gap", "gelu_tanh", 0, (-0.191248501, 0.178491739, 0.464284525)),
    ("gap", "gelu", 0, (-0.191247378, 0.178492727, 0.464284913)),
    ("token", "gelu_tanh", 8, (0.654899896, 1.164735885, 1.126778388)),
    ("token", "gelu", 8, (0.654833145, 1.164679162, 1.126758371)),
]


def golden_arrays(pool: str, hidden: int) -> dict[str, np.ndarray]:
    """The tensors of the specification: a * sin(0.7 i + k), k by the sorted names."""
    dim, mlp, heads, patch, classes = 8, 16, 2, 4, 3
    shapes: dict[str, tuple[int, ...]] = {
        "Transformer/posembed_input/pos_embedding": (1, 6 + (pool == "token"), dim),
        "embedding/kernel": (patch, patch, 3, dim),
        "embedding/bias": (dim,),
        "head/kernel": (hidden or dim, classes),
        "head/bias": (classes,),
    }
    if pool == "token":
        shapes["cls"] = (1, 1, dim)
    if hidden:
        shapes |= {"pre_logits/kernel": (dim, hidden), "pre_logits/bias": (hidden,)}
    norms = ["Transformer/encoder_norm"]
    for block in range(2):
        at = f"Transformer/encoderblock_{block}"
        norms += [f"{at}/LayerNorm_0", f"{at}/LayerNorm_1"]
        attention = f"{at}/MultiHeadDotProductAttention_0"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (dim, heads, dim // heads)
            shapes[f"{attention}/{part}/bias"] = (heads, dim // heads)
        shapes[f"{attention}/out/kernel"] = (heads, dim // heads, dim)
        shapes[f"{attention}/out/bias"] = (dim,)
        shapes[f"{at}/MlpBlock_0/Dense_0/kernel"] = (dim, mlp)
        shapes[f"{at}/MlpBlock_0/Dense_0/bias"] = (mlp,)
        shapes[f"{at}/MlpBlock_0/Dense_1/kernel"] = (mlp, dim)
        shapes[f"{at}/MlpBlock_0/Dense_1/bias"] = (dim,)
    for norm in norms:
        shapes |= {f"{norm}/scale": (dim,), f"{norm}/bias": (dim,)}
    arrays = {}
    for k, name in enumerate(sorted(shapes)):
        index = np.arange(np.prod(shapes[name]), dtype=np.float64)
        values = 0.6 * np.sin(0.7 * index + k) + name.endswith("/scale")
        arrays[name] = values.reshape(shapes[name])
    return arrays


def golden_file(folder: Path, pool: str, hidden: int) -> Path:
    file = folder / "golden.npz"
    np.savez(file, **golden_arrays(pool, hidden))
    return file


def golden_image() -> torch.Tensor:
    values = np.cos(0.3 * np.arange(8 * 12 * 3, dtype=np.float64))
    return torch.from_numpy(values.reshape(8, 12, 3)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("pool", "act", "hidden", "logits"), GOLDEN)
def test_the_golden_model(tmp_path, pool, act, hidden, logits):
    source = vitral.weights.read(golden_file(tmp_path, pool, hidden), grid=Grid(2, 3))
    model = vitral.weights.build(source, replace(source.config, act=act)).model
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == (1_771 if hidden else {"token": 1_699, "gap": 1_683}[pool])
    with torch.no_grad():
        found = model(golden_image())[0]
    wanted = torch.tensor(logits, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_the_golden_model_inside(tmp_path):
    file = golden_file(tmp_path, "token", 0)
    model = vt.load(file, grid=(2, 3)).model
    assert model.config.act == "gelu_tanh"
    with torch.no_grad():
        embedded = model.patch_embed(golden_image())[0, 0, :4]
        tokens = model.embed(golden_image())
        block = model.blocks[0]
        row = block.attn.attention_weights(block.norm1(tokens.x), Grid(2, 3))[0, 0, 0]
    wanted = [-1.5081779625, -2.1243252572, -1.7413691899, -0.5394199830]
    torch.testing.assert_close(
        embedded, torch.tensor(wanted, dtype=torch.float64), atol=1e-9, rtol=0
    )
    known = [2.44e-12, 3.86e-13, 0.8262172873, 2.41695e-6, 1.07e-12, 0.1737802959]
    torch.testing.assert_close(
        row[:6], torch.tensor(known, dtype=torch.float64), atol=1e-9, rtol=5e-3
    )


def test_both_ways_of_counting_modules_are_one_model(tmp_path):
    new = golden_arrays("token", 0)
    old = {
        name.replace("LayerNorm_1", "LayerNorm_2")
        .replace("Attention_0", "Attention_1")
        .replace("MlpBlock_0", "MlpBlock_3"): array
        for name, array in new.items()
    }
    np.savez(tmp_path / "old.npz", **old)
    np.savez(tmp_path / "opt.npz", **{f"opt/target/{k}": v for k, v in old.items()})
    first = vt.load(golden_file(tmp_path, "token", 0), grid=(2, 3)).model.state_dict()
    for name in ("old", "opt"):
        second = vt.load(tmp_path / f"{name}.npz", grid=(2, 3)).model.state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_heads_are_columns_in_the_files_order(tmp_path):
    """Column 4 h + c of our query matrix is channel c of head h (golden K5)."""
    arrays = golden_arrays("token", 0)
    model = vt.load(golden_file(tmp_path, "token", 0), grid=(2, 3)).model
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_0/{}/kernel"
    weight = model.blocks[1].attn.qkv.weight.detach()
    for part, which in enumerate(("query", "key", "value")):
        for head in range(2):
            for channel in range(4):
                column = arrays[name.format(which)][:, head, channel]
                row = weight[part * 8 + head * 4 + channel]
                assert np.array_equal(row.numpy(), column)


# timm reads what we write

TIMM = {
    "img_size": 48,
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
    "num_classes": 7,
}


def square(**changes: Any) -> ViTConfig:
    sizes = {"image_size": 48, "patch_size": 16, "embed_dim": 24, "depth": 2}
    sizes |= {"num_heads": 3, "mlp_dim": 40, "num_classes": 7, "act": "gelu"}
    return ViTConfig(**{**sizes, **changes})


def saved(folder: Path, config: ViTConfig) -> tuple[torch.nn.Module, Path]:
    model = build_model(config).eval()
    randomise(model)
    from vitral.data import Preprocess

    vt.save(folder / "ours", model, Preprocess(image_size=config.image_hw))
    return model, folder / "ours"


@pytest.mark.parametrize(
    ("to", "changes", "theirs"),
    [
        ("google", {}, {}),
        ("google", {"class_token": False, "global_pool": "avg"}, None),
        ("big_vision", {"no_embed_class": True}, {"no_embed_class": True}),
        (
            "big_vision",
            {"class_token": False, "global_pool": "avg"},
            {"class_token": False, "global_pool": "avg", "fc_norm": False},
        ),
        (
            "big_vision",
            {"class_token": False, "global_pool": "map"},
            {"class_token": False, "global_pool": "map"},
        ),
    ],
    ids=str,
)
def test_timm_reads_what_is_written(tmp_path, to, changes, theirs):
    ours, folder = saved(tmp_path, square(**changes))
    file = convert(folder, tmp_path / "w.npz", to, num_heads=3).path
    back = vt.load(file).model
    back_config = replace(back.config, act="gelu")
    assert replace(back_config, position_resize="official") == replace(
        ours.config, image_size=(48, 48), patch_size=(16, 16)
    )
    if theirs is None:
        return
    other = VisionTransformer(**{**TIMM, **theirs}).eval()
    randomise(other, seed=5)
    other.load_pretrained(str(file))
    image = images(2, 48, 48).float()
    with torch.no_grad():
        torch.testing.assert_close(ours(image), other(image), rtol=1e-5, atol=1e-5)


# from one to the other and back


@pytest.mark.parametrize(
    ("config", "to"),
    [
        (square(act="gelu_tanh", image_size=(48, 80)), "google"),
        (square(act="gelu_tanh", representation_size=20, num_classes=0), "google"),
        (square(act="gelu_tanh", no_embed_class=True), "big_vision"),
        (
            square(act="gelu_tanh", class_token=False, global_pool="map", depth=3),
            "big_vision_scan",
        ),
        (
            square(
                act="gelu_tanh",
                class_token=False,
                global_pool="avg",
                position="sincos_2d",
                image_size=(48, 80),
            ),
            "big_vision",
        ),
    ],
    ids=str,
)
def test_there_and_back_is_bit_equal(tmp_path, config, to):
    _, folder = saved(tmp_path, config)
    there = convert(folder, tmp_path / "there.npz", to)
    back = convert(
        there.path, tmp_path / "back", "native", grid=tuple(config.grid), num_heads=3
    )
    first, second = vt.load(folder).model, vt.load(back.path).model
    state = second.state_dict()
    assert state.keys() == first.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert second.config.num_heads == 3
    assert second.config.grid == config.grid
    image = images(2, *config.image_hw).float()
    with torch.no_grad():
        assert torch.equal(
            first.forward_head(first.forward_features(image)),
            second.forward_head(second.forward_features(image)),
        )
    assert there.ledger.layout in (to, "vision_transformer")


def test_scanned_blocks_are_stacked(tmp_path):
    config = square(class_token=False, global_pool="map", depth=3)
    _, folder = saved(tmp_path, config)
    file = convert(folder, tmp_path / "w.npz", "big_vision_scan").path
    with np.load(file) as arrays:
        name = "params/Transformer/encoderblock/LayerNorm_1/scale"
        assert arrays[name].shape == (3, 24)
        assert not any("encoderblock_0" in name for name in arrays.files)
    assert vt.load(file).ledger.layout == "big_vision_scan"


def test_the_row_of_the_class_token_moves_into_it_and_the_function_stays(tmp_path):
    """Golden M15: cls + pos[0] is all that the forward pass uses of either."""
    ours, folder = saved(tmp_path, square(act="gelu_tanh"))
    there = convert(folder, tmp_path / "bv.npz", "big_vision")
    assert any("class token's position was added" in n for n in there.ledger.notes)
    moved = vt.load(there.path).model
    assert moved.config.no_embed_class
    back = convert(there.path, tmp_path / "vt.npz", "google")
    assert any("a position of zeros" in note for note in back.ledger.notes)
    image = images(2, 48, 48).float()
    with torch.no_grad():
        logits = ours(image)
        assert torch.equal(moved(image), logits)
        assert torch.equal(vt.load(back.path).model(image), logits)


def test_a_head_of_zeros_and_a_head_of_another_width(tmp_path):
    arrays = golden_arrays("token", 8)
    arrays["head/kernel"] = np.zeros((8, 3))
    np.savez(tmp_path / "zero.npz", **arrays)
    loaded = vt.load(tmp_path / "zero.npz", num_classes=5, grid=(2, 3))
    assert not loaded.model.head.weight.any()
    assert loaded.model.head.weight.shape == (5, 8)
    loaded = vt.load(tmp_path / "zero.npz", grid=(2, 3))
    assert not loaded.model.head.weight.any()


# what is refused


@pytest.mark.parametrize(
    ("to", "changes", "because"),
    [
        ("google", {"reg_tokens": 2}, "it has no register tokens"),
        ("google", {"init_values": 0.1}, "it has no LayerScale"),
        ("google", {"qk_norm": True}, "it has no norm on queries"),
        ("google", {"qkv_bias": False}, "its attention has biases everywhere"),
        ("google", {"global_pool": "map"}, "it has no attention pooling"),
        ("google", {"position": "learned_2d"}, "it learns one position a patch"),
        ("big_vision", {"position": "relative"}, "it learns one position a patch, or"),
        ("big_vision", {"position_at": "every_layer"}, "it adds its positions"),
        ("big_vision", {"global_pool": "token_avg"}, "it pools one way only"),
        ("big_vision", {"norm_after_pool": True, "global_pool": "avg"}, "it normalise"),
        ("big_vision", {"global_pool": "avg"}, "the class token is for pooling"),
        ("big_vision", {"mlp": "swiglu"}, "its perceptron is the plain one"),
        ("big_vision", {"patch_norm": True}, "its patches have no norms"),
    ],
    ids=str,
)
def test_what_a_layout_cannot_hold(tmp_path, to, changes, because):
    _, folder = saved(tmp_path, square(**changes))
    with pytest.raises(ConfigError, match=f"because {because}") as caught:
        convert(folder, tmp_path / "no.npz", to)
    assert "Layouts that can hold it: " in str(caught.value)
    assert "native" in str(caught.value)
    assert not (tmp_path / "no.npz").exists()


def test_a_square_cannot_be_guessed(tmp_path):
    with pytest.raises(WeightsError, match=r"pos_embedding has 7 rows for 1 prefix"):
        vt.load(golden_file(tmp_path, "token", 0))
    with pytest.raises(WeightsError, match=r"that is not 3 x 3\. Give the grid"):
        vt.load(golden_file(tmp_path, "token", 0), grid=(3, 3))


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "head/kernel",
            lambda a: a.T,
            r"shape \(3, 8\), expected \(8, 3\): it is tra",
        ),
        ("cls", None, "lacks nothing|pos_embedding"),
        (
            "Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias",
            None,
            "lacks Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias and has nothing",
        ),
        (
            "Transformer/encoder_norm/scale",
            lambda a: a[:7],
            r"\(7,\), exp",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, name, change, sentence):
    arrays = golden_arrays("token", 0)
    changed = change(arrays.pop(name)) if change else arrays.pop(name) * 0
    if change:
        arrays[name] = changed
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(WeightsError, match=sentence):
        vt.load(tmp_path / "bad.npz", grid=(2, 3))


def test_a_renamed_array_is_recognised(tmp_path):
    arrays = golden_arrays("token", 0)
    name = "Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias"
    arrays[f"{name}s"] = arrays.pop(name)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(WeightsError, match=f"{name}s looks like {name}, renamed"):
        vt.load(tmp_path / "bad.npz", grid=(2, 3))


def test_every_name_of_flax_is_used_once():
    config = square(representation_size=20)
    names = [
        name
        for rule in flax_names.vit_mappings(config, flax_names.OLD)
        for name in rule.theirs
    ]
    assert len(names) == len(set(names))
    ours = tiny_vit(representation_size=20).state_dict()
    made = to_foreign_tensors(
        available_layouts()["google"], tiny_vit(representation_size=20).config, ours
    )
    assert set(made) == set(names)


def test_registers_without_a_row_reach_timm_as_an_equal_function(tmp_path):
    """timm gives rows to all tokens or to none."""
    config = square(reg_tokens=4, no_embed_reg=True, init_values=0.1)
    ours, folder = saved(tmp_path, config)
    made = convert(folder, tmp_path / "timm", "timm")
    assert any("position was added to the token itself" in n for n in made.ledger.notes)
    theirs = timm.create_model(f"local-dir:{made.path}", pretrained=True).eval()
    image = images(2, 48, 48).float()
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), ours(image), rtol=1e-5, atol=1e-5)
