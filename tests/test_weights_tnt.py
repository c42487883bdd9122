"""Weights of TNT: timm's own logits, the authors' names, and the legacy port."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.tnt import TNT as TimmTNT
from timm.models.tnt import checkpoint_filter_fn
from torch import nn

import vitral as vt
import vitral.models
import vitral.weights
from helpers import TINY, images, randomise
from memory_file import MemoryFile
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid
from vitral.models import TNTConfig
from vitral.weights import available_layouts
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.convert import convert
from vitral.weights.layouts.timm import arguments
from vitral.weights.mismatch import find_mismatches

SIZES: dict[str, Any] = {
    "img_size": (48, 80),
    "patch_size": (16, 8),
    "embed_dim": 24,
    "inner_dim": 10,
    "depth": 3,
    "num_heads_inner": 2,
    "num_heads_outer": 3,
    "mlp_ratio": 40.5 / 24,
    "num_classes": 7,
}
OURS: dict[str, Any] = {
    **TINY,
    "patch_size": (16, 8),
    "depth": 3,
    "inner_dim": 10,
    "inner_num_heads": 2,
    "inner_mlp_dim": 40,
    "word_size": (4, 4),
    "position_resize": "bicubic_antialias",
}
"""The same in our words."""
PREPROCESS = Preprocess(
    image_size=(48, 80), mean=(0.1, 0.2, 0.3), resize="crop", crop_fraction=0.9
)


def timms(**changes: Any) -> Any:
    model = TimmTNT(**{**SIZES, **changes})
    randomise(model)
    return model.eval()


def ours(**changes: Any) -> Any:
    model = vitral.models.build_model(TNTConfig(**{**OURS, **changes}))
    randomise(model, seed=4)
    return model.eval()


def folder_of(model: nn.Module, folder: Path, **arguments: Any) -> Path:
    """A folder as timm saves one, with the arguments that its tensors do not tell."""
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    kept: dict[str, Any] = {**SIZES, **arguments}
    about = {"architecture": "tnt_s_patch16_224", "model_args": kept}
    about |= {"pretrained_cfg": {"input_size": [3, *kept["img_size"]]}}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def agree(mine: nn.Module, theirs: nn.Module, height: int, width: int) -> None:
    x = images(2, height, width)
    with torch.no_grad():
        mine.float(), theirs.float()
        first, second = mine(x.float()), theirs(x.float())
        assert second.std() > 1e-2
        assert (first - second).abs().max() <= 1e-5 * second.abs().max()
        mine.double(), theirs.double()
        assert (mine(x) - theirs(x)).abs().max() < 1e-10


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qkv_bias": True, "global_pool": "avg", "num_classes": 5},
        {"first_stride": 2, "patch_size": (8, 16), "num_heads_outer": 6},
        {"img_size": (64, 112)},
        {"inner_dim": 12, "num_heads_inner": 3, "mlp_ratio": 4.0},
    ],
)
def test_logits_equal_timm(tmp_path, changes):
    theirs = timms(**changes)
    kept = {**SIZES, **changes}
    grid = tuple(
        a // b for a, b in zip(kept["img_size"], kept["patch_size"], strict=True)
    )
    loaded = vt.load(folder_of(theirs, tmp_path, **changes), grid=grid)
    config = loaded.model.config
    assert isinstance(config, TNTConfig)
    assert (config.patch_hw, config.image_hw) == (kept["patch_size"], kept["img_size"])
    assert config.word_hw == (kept.get("first_stride", 4),) * 2
    assert config.inner_num_heads == kept["num_heads_inner"]
    agree(loaded.model, theirs, *kept["img_size"])


def test_logits_equal_timm_after_a_resize_of_the_positions(tmp_path):
    """timm resizes when it loads, and not in the forward pass as we do."""
    theirs = timms().double()
    bigger = timms(img_size=(64, 112)).double()
    state = checkpoint_filter_fn(
        {name: tensor.clone() for name, tensor in theirs.state_dict().items()}, theirs
    )
    rows = torch.nn.functional.interpolate(
        state["patch_pos"][:, 1:].mT.unflatten(2, (3, 10)),
        size=(4, 14),
        mode="bicubic",
        antialias=True,
    )
    rows = torch.cat([state["patch_pos"][:, :1], rows.flatten(2).mT], dim=1)
    bigger.load_state_dict({**state, "patch_pos": rows})
    folder = folder_of(theirs, tmp_path)
    for changes in ({}, {"image_size": (64, 112)}):
        mine = vt.load(folder, grid=(3, 10), **changes).model.double()
        x = images(2, 64, 112)
        with torch.no_grad():
            assert (mine(x) - bigger(x)).abs().max() < 1e-10


def test_a_published_name_of_timm(tmp_path):
    theirs = timm.create_model("tnt_s_patch16_224", num_classes=7, depth=1).eval()
    randomise(theirs)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    loaded = vt.load(tmp_path / "w.safetensors")
    config = loaded.model.config
    wanted = vitral.models.get_config(
        "tnt_s_patch16_224", {"num_classes": 7, "depth": 1}
    )
    assert vitral.models.replace_config(
        config, {"patch_size": 16}
    ) == vitral.models.replace_config(
        wanted, {"image_size": (224, 224), "word_size": (4, 4)}
    )
    assert [note.split(":")[0] for note in loaded.ledger.notes] == [
        "words of 4 x 4 pixels assumed, and so patches of 16 x 16",
        "pixel mean and deviation of 0.5 and a crop of 0.9 assumed, as for the "
        "published TNT",
        "assumed, as the file does not say",
    ]
    assert loaded.preprocess.crop_fraction == 0.9
    assert loaded.ledger.counts() == {"copied": 39, "joined": 2, "transposed": 1}
    agree(loaded.model, theirs, 224, 224)


@pytest.mark.parametrize("size", ["s", "b"])
def test_a_folder_as_the_hub_keeps_it(size):
    """The architecture tells all that tensors do not; nothing is assumed."""
    name = f"tnt_{size}_patch16_224"
    with torch.device("meta"):
        model = timm.create_model(name)
    about = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std")}
    about |= {"crop_pct": 0.9, "interpolation": "bicubic"}
    beside = {"architecture": name, "global_pool": "token", "pretrained_cfg": about}
    source = available_layouts()["timm"].read(
        LayoutInput(file=MemoryFile(model.state_dict()), config_json=beside)
    )
    assert find_mismatches(source) == ([], [], [], [])
    assert source.notes == ()
    assert vitral.models.get_model_name(source.config) == f"tnt_{size}16"
    assert source.config.macs() == vitral.models.get_config(name).macs()
    assert source.preprocess.crop_fraction == 0.9


@pytest.mark.parametrize("changes", [{}, {"global_pool": "avg", "qkv_bias": True}])
def test_timm_opens_what_is_written(tmp_path, changes):
    mine = ours(**changes)
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    about = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert about["vitral"]["timm"] is False
    assert not {"architecture", "model_args"} & about.keys()
    there = convert(tmp_path / "ours", tmp_path / "there", "timm")
    assert there.ledger.notes == ()
    about = json.loads((tmp_path / "there" / "config.json").read_text())
    assert about["pretrained_cfg"]["first_conv"] == "pixel_embed.proj"
    assert about["pretrained_cfg"]["fixed_input_size"] is True
    theirs = timm.create_model(f"local-dir:{tmp_path / 'there'}", pretrained=True)
    agree(mine, theirs.eval(), 48, 80)
    again = vt.load(tmp_path / "there")
    assert again.model.config == mine.config
    assert again.preprocess.mean == PREPROCESS.mean


def test_every_size_is_one_of_timm_with_our_tensors():
    for name in vitral.models.families()["tnt"].sizes:
        config = vitral.models.get_config(name)
        found = arguments.find_timm_model(config)
        assert found is not None
        with torch.device("meta"):
            theirs = timm.create_model(found.architecture, **found.arguments)
        shapes = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
        rules = available_layouts()["timm"].mappings(config)
        ours_ = vitral.models.tensor_shapes(config)
        expected = {
            their: shape
            for rule in rules
            for their, shape in zip(
                rule.theirs, rule.expected_shapes(ours_[rule.ours]), strict=True
            )
        }
        assert shapes == expected


# The authors' names


def huawei(theirs: nn.Module, num_patches: int = 30) -> dict[str, torch.Tensor]:
    """timm's tensors under the authors' names, mapped here by hand."""
    words = [
        ("norm_mlp_in.", "inner_norm2."),
        ("norm_in.", "inner_norm1."),
        ("attn_in.", "inner_attn."),
        ("mlp_in.", "inner_mlp."),
        ("norm_out.", "outer_norm1."),
        ("attn_out.", "outer_attn."),
        ("norm_mlp.", "outer_norm2."),
        (".mlp.", ".outer_mlp."),
        ("norm1_proj.", "proj_norm1."),
        ("norm2_proj.", "proj_norm2."),
        ("pixel_embed.", "patch_embed."),
        ("patch_pos", "outer_pos"),
    ]
    made = {}
    for name, tensor in theirs.state_dict().items():
        if name == "pixel_pos":
            _, dim, rows, columns = tensor.shape
            made["inner_pos"] = torch.stack(
                [
                    tensor[0, :, row, column]
                    for row in range(rows)
                    for column in range(columns)
                ]
            ).view(1, -1, dim)
            continue
        for before, after in words:
            if before in name:
                name = name.replace(before, after)
                break
        made[name] = tensor
    made["outer_tokens"] = torch.zeros(1, num_patches, 24)
    return made


def test_the_authors_checkpoint(tmp_path):
    """Square words and patches, as nothing in such a file says otherwise."""
    theirs = timms(patch_size=16, inner_dim=12, num_heads_inner=4, mlp_ratio=4.0)
    file = tmp_path / "tnt_x.pth.tar"
    torch.save({"state_dict": huawei(theirs, 15)}, file)
    loaded = vt.load(file, grid=(3, 5), num_heads=3)
    assert loaded.ledger.layout == "TNT"
    assert loaded.model.config.patch_hw == (16, 16)
    assert loaded.ledger.counts()["dropped"] == 1
    (line,) = [line for line in loaded.ledger.lines if line.action == "dropped"]
    assert line.detail == "the authors' code makes it and never uses it"
    assert "3 outer and 4 inner heads assumed: the file cannot say" in (
        loaded.ledger.notes
    )
    agree(loaded.model, theirs, 48, 80)


def fractions(shape: tuple[int, ...], shift: float) -> torch.Tensor:
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    value = (12.9898 * count + shift).sin() * 43758.5453
    return (value - value.floor()).view(shape)


def test_numbers_of_the_authors_class(tmp_path):
    """Logits that their own code gave for weights by formula, in float64."""
    theirs = timms(
        img_size=(32, 32),
        patch_size=16,
        embed_dim=32,
        inner_dim=8,
        depth=2,
        num_heads_outer=4,
        mlp_ratio=4.0,
        num_classes=5,
    )
    tensors = huawei(theirs)
    for name, tensor in tensors.items():
        values = 0.2 * (fractions(tuple(tensor.shape), sum(name.encode()) % 97) - 0.5)
        gain = tensor.ndim == 1 and name.endswith(".weight")
        tensors[name] = values + 1 if gain else values
    tensors["outer_tokens"] = torch.zeros(1, 4, 32, dtype=torch.float64)
    kept = {"vitral.inner_num_heads": "2"}
    save_file(tensors, tmp_path / "w.safetensors", metadata=kept)
    mine = vt.load(tmp_path / "w.safetensors", num_heads=4).model
    assert next(mine.parameters()).dtype == torch.float64
    with torch.no_grad():
        logits = mine(2 * fractions((1, 3, 32, 32), 1) - 1)[0]
    wanted = [-0.02034201, -0.25376135, 0.24185803, -0.21172573]
    assert logits[:4].tolist() == pytest.approx(wanted, abs=1e-7)
    assert logits.abs().sum().item() == pytest.approx(0.76372632, abs=1e-7)


def test_the_authors_layout_is_written(tmp_path):
    mine = ours(inner_mlp_dim=16, word_size=(2, 2), norm_eps=1e-6, act="gelu_tanh")
    vt.save(tmp_path / "ours", mine, PREPROCESS)
    there = convert(tmp_path / "ours", tmp_path / "w.safetensors", "tnt")
    assert [note.split(",")[0] for note in there.ledger.notes] == [
        "the authors' code computes the exact GELU",
        "the authors' code has an epsilon of 1e-05 in its LayerNorms",
    ]
    tensors = load_file(there.path)
    assert tensors["outer_tokens"].shape == (1, 30, 24)
    assert not tensors["outer_tokens"].any()
    assert tensors["blocks.2.inner_attn.qk.weight"].shape == (20, 10)
    assert tensors["blocks.2.outer_attn.v.weight"].shape == (24, 24)
    assert tensors["inner_pos"].shape == (1, 32, 10)
    with safe_open(there.path, "pt") as file:
        assert file.metadata()["vitral.words"] == "8 x 4 of 2 x 2"
    back = vt.load(there.path).model.config
    same = {"norm_eps": 1e-6, "act": "gelu_tanh"}
    same |= {"position_resize": "bicubic_antialias"}
    assert vitral.models.replace_config(back, same) == mine.config


# What is refused


@pytest.mark.parametrize("with_folder", [False, True])
def test_the_legacy_port_is_refused(tmp_path, with_folder):
    theirs = timms(legacy=True)
    if with_folder:
        path = folder_of(theirs, tmp_path / "folder")
    else:
        path = tmp_path / "w.safetensors"
        save_file(theirs.state_dict(), path)
    with pytest.raises(WeightsError) as error:
        vt.load(path, grid=(3, 10))
    said = str(error.value)
    assert "it is timm's legacy TNT, another function than the paper's" in said
    assert "convolves the whole image before it is cut into patches" in said
    assert "Use timm for it, or the weights of tnt_s_patch16_224." in said


def test_an_architecture_of_the_legacy_port_is_refused(tmp_path):
    folder = folder_of(timms(), tmp_path)
    file = folder / "config.json"
    file.write_text(file.read_text().replace("tnt_s_patch16", "tnt_s_legacy_patch16"))
    with pytest.raises(WeightsError, match="it is timm's legacy TNT"):
        vt.load(folder, grid=(3, 10))


@pytest.mark.parametrize(
    ("layout", "changes", "reason"),
    [
        ("tnt", {"global_pool": "avg"}, "its head sees the class token"),
        ("tnt", {"mlp_dim": 48}, "widen by the same factor"),
        ("tnt", {"reg_tokens": 2}, "it has no registers"),
        ("timm", {"inner_mlp_dim": 30}, "4 times as wide as a word"),
        ("timm", {"global_pool": "map"}, "it pools one way only"),
        ("timm", {"word_kernel": 9}, "its words are computed from 7 x 7 pixels"),
        ("timm", {"word_size": (2, 4)}, "its words are square"),
        ("timm", {"no_embed_class": True}, "a class token with a position of its own"),
        ("timm", {"position": "sincos_2d"}, "its positions are learned"),
        ("timm", {"mlp": "swiglu"}, "its perceptrons are plain"),
        ("timm", {"proj_bias": False}, "a bias wherever the attention projects"),
        ("huggingface", {}, "it has no such family of models"),
        ("torchvision", {}, "it has no such family of models"),
    ],
)
def test_what_a_layout_cannot_hold(layout, changes, reason):
    config = TNTConfig(**{**OURS, **changes})
    assert reason in available_layouts()[layout].unsupported_reason(config)


def test_a_conversion_that_is_refused_names_who_can(tmp_path):
    vt.save(tmp_path / "ours", ours(), PREPROCESS)
    with pytest.raises(ConfigError, match=r"Layouts that can hold it: native, timm\."):
        convert(tmp_path / "ours", tmp_path / "w.npz", "google")


def test_words_that_are_no_square(tmp_path):
    made = huawei(timms())
    save_file(made, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="inner_pos has 8 words in a patch, which"):
        vt.load(tmp_path / "w.safetensors", grid=(3, 10))


def test_heads_that_nothing_tells(tmp_path):
    save_file(timms().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="heads of a TNT of widths 24 and 10 cannot"):
        vt.load(tmp_path / "w.safetensors", grid=(3, 10))


def test_a_bare_reshape_of_the_word_positions_would_be_wrong(tmp_path):
    theirs = timms()
    folder = folder_of(theirs, tmp_path)
    mine = vt.load(folder, grid=(3, 10)).model
    wrong = theirs.pixel_pos.detach().reshape(1, 8, 10)
    assert mine.patch_embed.word_pos.shape == wrong.shape
    assert not torch.equal(mine.patch_embed.word_pos, wrong)
    assert mine.config.word_grid == Grid(4, 2)
