"""Weights: timm's layout and ours, sizes changed on the way in, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import VisionTransformer
from timm.models._helpers import load_checkpoint
from timm.models.vision_transformer import checkpoint_filter_fn

import vitral as vt
import vitral.weights
from helpers import TINY, images, randomise, tiny_vit
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.layers import Grid, resize
from vitral.models import ViTConfig
from vitral.weights import LedgerLine, Loaded
from vitral.weights.layouts.timm.settings import mlp_ratio

SIZES = {
    "img_size": (48, 80),
    "patch_size": 16,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
    "num_classes": 7,
}
NAME = "foreign.safetensors"
PREPROCESS = Preprocess(image_size=(48, 80), mean=(0.1, 0.2, 0.3), crop_fraction=0.9)


def timm_model(**changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**SIZES, **changes})
    randomise(model)
    return model.double().eval()


def saved(folder: Path, model: torch.nn.Module, **changes: Any) -> Path:
    """The tensors of `model` in a file, with `changes` to some; None removes one."""
    tensors = {**model.state_dict(), **changes}
    file = folder / NAME
    kept = {k: v.contiguous() for k, v in tensors.items() if v is not None}
    save_file(kept, file)
    return file


def tiny_file(folder: Path, **tensors: Any) -> Path:
    return saved(folder, timm_model(), **tensors)


def our_load(file: Path, **arguments: Any) -> Loaded:
    return vt.load(file, grid=(3, 5), num_heads=3, **arguments)


# timm's layout


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "map", "class_token": False},
        {"global_pool": "map"},
        {"reg_tokens": 4},
        {"reg_tokens": 4, "no_embed_class": True},
        {"init_values": 1e-5},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"num_classes": 0},
        {"in_chans": 2},
        {"patch_size": (16, 8), "img_size": (48, 40)},
    ],
    ids=str,
)
def test_timm_file_gives_timm_logits(tmp_path, changes):
    theirs = timm_model(**changes)
    model, preprocess, ledger = our_load(saved(tmp_path, theirs))
    height, width = changes.get("img_size", (48, 80))
    image = images(2, height, width, changes.get("in_chans", 3))
    with torch.no_grad():
        torch.testing.assert_close(
            model.double()(image), theirs(image), rtol=0, atol=1e-10
        )
    assert model.config.image_hw == preprocess.image_size == (height, width)
    assert ledger.counts() == {"copied": len(theirs.state_dict())}


def test_square_grid_and_named_heads_need_no_arguments(tmp_path):
    """Width 192 of 12 blocks is Ti, with 3 heads; a square table has one grid."""
    theirs = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=192, depth=12, num_heads=3, num_classes=5
    )
    loaded = vt.load(saved(tmp_path, theirs))
    assert loaded.model.config.num_heads == 3
    assert loaded.model.config.grid == Grid(4, 4)
    assert "pixel mean and deviation of 0.5 assumed" in loaded.ledger.summary()


def test_heads_of_64_channels_are_assumed_aloud(tmp_path):
    file = saved(tmp_path, timm_model(embed_dim=128, num_heads=2))
    loaded = vt.load(file, grid=(3, 5))
    assert loaded.model.config.num_heads == 2
    assert any("2 heads of 64 channels assumed" in n for n in loaded.ledger.notes)


def test_config_beside_tells_what_the_tensors_cannot(tmp_path):
    theirs = timm_model(global_pool="avg", fc_norm=False, act_layer="gelu_tanh")
    saved(tmp_path, theirs).rename(tmp_path / "model.safetensors")
    about = {
        "architecture": "vit_base_patch16_224",
        "global_pool": "avg",
        "model_args": {"num_heads": 3, "act_layer": "gelu_tanh"},
        "label_names": list("abcdefg"),
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "crop_pct": 0.9,
            "interpolation": "bilinear",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    model, preprocess, _ = vt.load(tmp_path, grid=(3, 5))
    with torch.no_grad():
        torch.testing.assert_close(model.double()(images()), theirs(images()))
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == (0.4, 0.5, 0.6)
    assert preprocess.crop_fraction == 0.9
    assert preprocess.interpolation == "bilinear"
    source = vitral.weights.read(tmp_path, grid=Grid(3, 5))
    assert source.classes == tuple("abcdefg")


# our own layout


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"representation_size": 20},
        {"global_pool": "token_avg"},
        {"position": "learned_2d"},
        {"position": "relative"},
        {"position": "sincos_2d", "class_token": False, "global_pool": "avg"},
        {"position_at": "every_layer"},
        {"init_values": 0.1, "qk_norm": True, "reg_tokens": 2, "no_embed_class": True},
    ],
    ids=str,
)
def test_own_folder_comes_back_bit_equal(tmp_path, changes):
    model = tiny_vit(**changes)
    vt.save(tmp_path, model, PREPROCESS, classes=tuple("abcdefg"), extra={"step": 12})
    back, preprocess, ledger = vt.load(tmp_path)
    assert back.config == model.config
    assert preprocess == PREPROCESS
    assert {line.action for line in ledger.lines} == {"copied"}
    stored = load_file(tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(stored[name], tensor), name
    with torch.no_grad():
        assert torch.equal(back(images()), model(images()))
    source = vitral.weights.read(tmp_path)
    assert source.classes == tuple("abcdefg")
    assert source.extra == {"step": 12}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"act": "gelu"},
        {"global_pool": "avg", "class_token": False},
        {"global_pool": "avg", "norm_after_pool": True},
        {"global_pool": "map"},
        {"reg_tokens": 3, "init_values": 0.1, "qk_norm": True},
        {"reg_tokens": 3, "no_embed_class": True},
        {"qkv_bias": False, "patch_size": (16, 8)},
        {"num_classes": 0},
        {"mlp": "swiglu"},
        {"mlp": "swiglu", "act": "gelu", "reg_tokens": 2, "global_pool": "avg"},
        # int(49 * (54 / 49)) is 53.
        {"mlp_dim": 54, "embed_dim": 49, "num_heads": 7, "global_pool": "map"},
        {"mlp_dim": 27, "embed_dim": 49, "num_heads": 7, "mlp": "swiglu"},
        {"global_pool": "avg_all"},
        {"global_pool": "avg_all", "norm_after_pool": True, "no_embed_class": True},
    ],
    ids=str,
)
def test_timm_opens_our_folder(tmp_path, changes):
    model = tiny_vit(**changes).float()
    vt.save(tmp_path, model, PREPROCESS)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["vitral"]["timm"] is True
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = images().float()
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), model(image), rtol=1e-5, atol=1e-5)
    assert theirs.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "changes",
    [
        {"representation_size": 20},
        {"global_pool": "token_avg"},
        {"position": "learned_2d"},
        {"position_at": "every_layer"},
        {"norm_eps": 1e-12},
        {"mlp": "swiglu", "global_pool": "map"},
        {"merge_rate": 2},
    ],
    ids=str,
)
def test_what_timm_cannot_express_is_marked(tmp_path, changes):
    vt.save(tmp_path, tiny_vit(**changes), PREPROCESS)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["vitral"]["timm"] is False
    assert "architecture" not in about


def test_timms_ratio_gives_every_width():
    for dim in (24, 49, 192, 1408, 1536):
        for hidden in (*range(1, 400), 4095, 6144):
            assert int(dim * mlp_ratio(hidden, dim)) == hidden


def test_a_model_that_merges_tokens_is_another_function_elsewhere(tmp_path):
    vt.save(tmp_path / "m", tiny_vit(merge_rate=2, act="gelu"), PREPROCESS)
    ledger = vt.convert(tmp_path / "m", tmp_path / "t", "timm").ledger
    told = [note for note in ledger.notes if "merges no tokens, this model 2" in note]
    assert len(told) == 1
    assert "architecture" not in json.loads((tmp_path / "t/config.json").read_text())


def test_a_note_names_the_record_of_the_training_once(tmp_path):
    extra = {"step": 3, "ledger": {}, "weights": "w", "temperature": 1.5}
    vt.save(tmp_path / "m", tiny_vit(act="gelu"), PREPROCESS, extra=extra)
    made = vt.convert(tmp_path / "m", tmp_path / "t", "timm")
    note = "timm keeps no temperature, record of the training with these weights"
    assert note in made.ledger.notes


def test_a_run_folder_a_model_folder_and_its_file_are_the_same(tmp_path):
    model = tiny_vit()
    vt.save(tmp_path / "model", model, PREPROCESS)
    for path in ("", "model", "model/model.safetensors"):
        assert vt.load(tmp_path / path).model.config == model.config


# another size, another head


@pytest.fixture
def wide(tmp_path) -> Path:
    """A model of 3 x 5 patches with the tanh layer of a pre-training head."""
    vt.save(tmp_path, tiny_vit(representation_size=20).float(), PREPROCESS)
    return tmp_path


@pytest.mark.parametrize("method", ["official", "bicubic_antialias"])
def test_another_resolution_and_number_of_classes(wide, method):
    source = vitral.weights.read(wide)
    config = replace(
        source.config,
        image_size=(80, 112),
        num_classes=4,
        representation_size=0,
        position_resize=method,
    )
    model, preprocess, ledger = vitral.weights.build(source, config)
    old, new = load_file(wide / "model.safetensors"), model.state_dict()
    assert old["pos_embed"].shape == (1, 16, 24)
    assert new["pos_embed"].shape == (1, 36, 24)
    assert torch.equal(new["pos_embed"][:, :1], old["pos_embed"][:, :1])
    rows = resize(old["pos_embed"][:, 1:], Grid(3, 5), Grid(5, 7), method)
    assert torch.equal(new["pos_embed"][:, 1:], rows)
    assert new["head.weight"].shape == (4, 24)
    assert not new["head.weight"].any()
    assert not new["head.bias"].any()
    touched = {"pos_embed", "head.weight", "head.bias"}
    for name in new.keys() - touched:
        assert torch.equal(new[name], old[name]), name
    assert preprocess == replace(PREPROCESS, image_size=(80, 112))
    expected = {name: LedgerLine(name, "copied") for name in new}
    detail = f"3 x 5 -> 5 x 7 patches, {method}"
    expected["pos_embed"] = LedgerLine("pos_embed", "resized", detail)
    for name in ("head.weight", "head.bias"):
        expected[name] = LedgerLine(name, "new", "zero, for 4 classes")
    for name in ("pre_logits.fc.weight", "pre_logits.fc.bias"):
        expected[name] = LedgerLine(name, "dropped", "the head of the pre-training")
    assert {line.name: line for line in ledger.lines} == expected
    assert len(ledger.lines) == len(expected)
    with torch.no_grad():
        assert not model(images(2, 80, 112).float()).any()


def test_the_table_of_384_pixels(tmp_path):
    """ViT-B/16 from 224 to 384 pixels: 197 rows become 577, at a tenth of the width."""
    small = tiny_vit(image_size=224, embed_dim=24)
    vt.save(tmp_path, small, PREPROCESS)
    model, _, ledger = vt.load(tmp_path, image_size=384)
    before = load_file(tmp_path / "model.safetensors")
    assert before["pos_embed"].shape[1] == 197
    assert model.pos_embed.shape[1] == 577
    assert ledger.counts()["resized"] == 1
    for name, tensor in model.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(tensor, before[name]), name


def test_same_size_and_head_change_nothing(wide):
    loaded = vt.load(wide, num_classes=7, image_size=(48, 80))
    assert {line.action for line in loaded.ledger.lines} == {"copied"}
    assert loaded.model.head.weight.any()


def test_a_part_that_the_file_lacks_is_new_and_said(wide):
    source = vitral.weights.read(wide)
    _, _, ledger = vitral.weights.build(source, replace(source.config, init_values=0.1))
    new = [line for line in ledger.lines if line.action == "new"]
    reason = "the file has no such part"
    assert new == [
        LedgerLine(f"blocks.{block}.{layer}.gamma", "new", reason)
        for block in (0, 1)
        for layer in ("ls1", "ls2")
    ]
    assert f"new        blocks.0.ls1.gamma  {reason}" in str(ledger)


@pytest.mark.parametrize("change", [{"reg_tokens": 2}, {"no_embed_class": True}])
def test_tokens_without_a_row_of_their_own_are_refused(wide, change):
    source = vitral.weights.read(wide)
    config = replace(source.config, **change, image_size=(80, 112))
    with pytest.raises(WeightsError, match=r"tensor pos_embed has shape \(1, 16, 24\)"):
        vitral.weights.build(source, config)


# what is refused


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"No weights at .*none\.safetensors: give"):
        vt.load(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"No weights at .*model\.safetensors"):
        vt.load(tmp_path)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sentinel,))


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.PTH"])
def test_a_pickle_is_not_opened(tmp_path, name):
    sentinel = tmp_path / "opened"
    torch.save({"x": Trap(sentinel)}, tmp_path / name)
    with pytest.raises(WeightsError, match="so it is refused and nothing was run"):
        vt.load(tmp_path / name)
    assert not sentinel.exists()


def test_a_pickle_with_a_false_name_is_not_opened(tmp_path):
    sentinel = tmp_path / "opened"
    torch.save({"x": Trap(sentinel)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="so it is refused and nothing was run"):
        vt.load(tmp_path / "a.safetensors")
    assert not sentinel.exists()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_file_cut_short(tmp_path, keep):
    file = tiny_file(tmp_path)
    whole = file.read_bytes()
    size = int(keep * len(whole)) if isinstance(keep, float) else keep
    file.write_bytes(whole[:size])
    with pytest.raises(WeightsError, match=r"not a readable safetensors file: .* cut"):
        our_load(file)


def test_a_damaged_header(tmp_path):
    file = tiny_file(tmp_path)
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        our_load(file)


def test_another_kind_of_model(tmp_path):
    file = tmp_path / "resnet.safetensors"
    save_file({"layer1.0.conv1.weight": torch.ones(4, 3, 3, 3)}, file)
    with pytest.raises(
        WeightsError,
        match=r"holds a network of convolutions .* are layer1\.0\.conv1\.weight",
    ):
        vt.load(file)


def test_an_empty_file_says_so(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(WeightsError, match=r"first tensors are none at all\."):
        vt.load(tmp_path / "empty.safetensors")


def test_extra_tensors_in_a_block(tmp_path):
    file = tiny_file(tmp_path, **{"blocks.0.attn.rope": torch.ones(3)})
    with pytest.raises(
        WeightsError, match=r"lacks nothing and has blocks\.0\.attn\.rope that the"
    ):
        our_load(file)


def test_missing_tensors(tmp_path):
    file = tiny_file(tmp_path, **{"blocks.1.norm2.weight": None, "norm.weight": None})
    with pytest.raises(
        WeightsError,
        match=r"it lacks blocks\.1\.norm2\.weight, norm\.weight and has nothing",
    ):
        our_load(file)


def test_a_block_without_the_usual_perceptron(tmp_path):
    file = tiny_file(tmp_path, **{"blocks.0.mlp.fc1.weight": None})
    with pytest.raises(WeightsError, match=r"tensor blocks\.0\.mlp\.fc1\.weight is mi"):
        our_load(file)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("blocks.1.norm1.weight", (23,)), ("norm.bias", (25,)), ("cls_token", (1, 1, 8))],
)
def test_a_tensor_of_another_shape(tmp_path, name, shape):
    file = tiny_file(tmp_path, **{name: torch.ones(shape)})
    with pytest.raises(WeightsError, match=rf"tensor {name} has shape \({shape[0]},"):
        our_load(file)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (24, 768)),
        ("pos_embed", (16, 24)),
        ("reg_token", (24,)),
        ("blocks.0.mlp.fc1.weight", ()),
    ],
)
def test_a_tensor_of_another_rank(tmp_path, name, shape):
    file = tiny_file(tmp_path, **{name: torch.ones(shape)})
    with pytest.raises(WeightsError, match=rf"tensor {name} has shape \("):
        our_load(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tmp_path, value):
    table = torch.ones(24)
    table[3] = value
    file = tiny_file(tmp_path, **{"norm.weight": table})
    with pytest.raises(
        WeightsError, match=r"tensor norm\.weight has values that are not finite"
    ):
        our_load(file)


def test_a_table_that_is_no_square_needs_its_grid(tmp_path):
    with pytest.raises(
        WeightsError,
        match=r"has 18 rows for 1 prefix tokens and a grid of patches that is not a "
        r"square\. Give the grid",
    ):
        vt.load(tiny_file(tmp_path, pos_embed=torch.ones(1, 18, 24)), num_heads=3)


def test_a_table_that_could_be_a_square_is_said(tmp_path):
    """3 x 5 patches and a class token are 16 rows; so are 4 x 4 patches alone."""
    loaded = vt.load(tiny_file(tmp_path), num_heads=3)
    assert any(n.startswith("4 x 4 patches assumed") for n in loaded.ledger.notes)
    assert not any("4 x 4" in n for n in our_load(tmp_path / NAME).ledger.notes)


def test_a_grid_that_does_not_fit(tmp_path):
    with pytest.raises(WeightsError, match="grid of patches that is not 4 x 5"):
        vt.load(tiny_file(tmp_path), grid=(4, 5), num_heads=3)


def test_unknown_heads(tmp_path):
    with pytest.raises(WeightsError, match=r"heads of a model of width 24 cannot .*"):
        vt.load(tiny_file(tmp_path), grid=(3, 5))


def test_heads_that_do_not_divide_the_width(tmp_path):
    with pytest.raises(ConfigError, match="`embed_dim` must be a multiple of"):
        vt.load(tiny_file(tmp_path), grid=(3, 5), num_heads=7)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("{", r"config\.json is not readable JSON"),
        ("[1]", r"config\.json must hold a JSON object"),
        ({"depht": 2}, "does not hold valid settings.*depht"),
        ({"depth": "2"}, "valid settings.*expected a whole number.*'2'"),
        ({"image_size": [48]}, r"settings\.image_size"),
        ({"image_size": [48, 81]}, "multiple of `patch_size`: got wid"),
        ({"global_pool": "best"}, "does not hold valid settings.*best"),
        ({"depth": 3}, r"lacks blocks\.2\..* has nothing that the model"),
        ({"depth": 1}, r"has blocks\.1\..* that the model has no place"),
        ({"mlp_dim": 41}, r"tensor blocks\.0\.mlp\.fc1\.weight has sha"),
    ],
    ids=str,
)
def test_config_json_that_is_wrong(tmp_path, change, sentence):
    vt.save(tmp_path, tiny_vit(), PREPROCESS)
    file = tmp_path / "config.json"
    if isinstance(change, dict):
        about = json.loads(file.read_text())
        about["vitral"]["config"] |= change
        change = json.dumps(about)
    file.write_text(change)
    with pytest.raises(WeightsError, match=sentence):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    "block", [None, [], {}, {"config": 3}, {"config": {}}, {"preprocess": {}}], ids=str
)
def test_a_vitral_block_that_is_not_whole(tmp_path, block):
    vt.save(tmp_path, tiny_vit(), PREPROCESS)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vitral": block}))
    with pytest.raises(WeightsError, match=r"config\.json.* `vitral`"):
        vt.load(tmp_path)


@pytest.mark.parametrize("change", [{"mean": 0.5}, {"resize": "fit"}, {"cut": 1}])
def test_a_preprocess_that_is_wrong(tmp_path, change):
    vt.save(tmp_path, tiny_vit(), PREPROCESS)
    file = tmp_path / "config.json"
    about = json.loads(file.read_text())
    about["vitral"]["preprocess"] |= change
    file.write_text(json.dumps(about))
    with pytest.raises(WeightsError, match=next(iter(change))):
        vt.load(tmp_path)


def test_extra_keys_of_our_own_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="`extra` may not have the key `config`"):
        vt.save(tmp_path, tiny_vit(), PREPROCESS, extra={"config": 1})


# a real file


def test_dinov2_is_copied_whole(dinov2):
    model, preprocess, ledger = vt.load(dinov2)
    assert model.config == ViTConfig(
        image_size=(518, 518),
        patch_size=(14, 14),
        num_classes=0,
        embed_dim=384,
        depth=12,
        num_heads=6,
        mlp_dim=1536,
        init_values=1e-5,
        act="gelu",
        position_resize="bicubic_antialias",
    )
    tensors = load_file(dinov2)
    state = model.state_dict()
    copied = [line.name for line in ledger.lines if line.action == "copied"]
    assert sum(state[name].numel() for name in copied) == 22_056_192
    assert all(torch.equal(state[name], tensors[name]) for name in copied)
    assert set(state) == set(copied)
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert any("ImageNet assumed, as for DINOv2" in note for note in ledger.notes)


def test_dinov2_gives_timm_features_at_224(dinov2):
    model = vt.load(dinov2, image_size=224).model
    theirs = timm.create_model(
        "vit_small_patch14_dinov2", img_size=224, num_classes=0
    ).eval()
    load_checkpoint(theirs, str(dinov2), filter_fn=checkpoint_filter_fn)
    image = images(2, 224, 224).float()
    with torch.no_grad():
        wanted = theirs.forward_features(image)
        found = model.forward_features(image)
    ours = torch.cat([found.cls[:, None], found.patches.flatten(1, 2)], dim=1)
    assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_our_helpers_describe_one_model():
    """The tests of timm and of ours above speak of the same sizes."""
    assert TINY["image_size"] == SIZES["img_size"]
