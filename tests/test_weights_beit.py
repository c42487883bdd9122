"""BEiT and BEiT v2: relative position bias, timm's and transformers' names."""

import json
import math

import onnxruntime
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import vitral as vt
from test_weights_clip import gap, images, randomise
from vitral.data import Preprocess
from vitral.errors import ConfigError, GateError, WeightsError
from vitral.export.to_onnx import to_onnx
from vitral.layers import Grid
from vitral.layers.relative_bias import RelativeBias
from vitral.models import ViT, ViTConfig
from vitral.weights.numerics import HALF, IMAGENET_MEAN

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "num_labels": 5,
}
TIMM = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}
VIT = {
    "image_size": 64,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 96,
    "num_classes": 5,
    "position": "relative_bias",
    "k_bias": False,
    "position_resize": "geometric",
    "init_values": 0.1,
    "act": "gelu",
    "global_pool": "avg",
    "norm_after_pool": True,
}
OTHER = ((96, 96), (48, 80), (80, 32))


def test_bias_by_hand():
    grid, heads = Grid(2, 3), 2
    layer = RelativeBias(grid, heads, "bilinear").double()
    with torch.no_grad():
        layer.table.normal_()
    found = layer.bias(torch.zeros(1, heads, 7, 4).double(), grid)[0]
    table = layer.table
    for query in range(7):
        for key in range(7):
            if query and key:
                (y, x), (v, u) = (divmod(it - 1, 3) for it in (query, key))
                wanted = table[(y - v + 1) * 5 + (x - u + 2)]
            else:
                # 15 offsets; then from the class token, to it, and of it with itself.
                wanted = table[17 if query == key else 15 if query == 0 else 16]
            assert torch.equal(found[:, query, key], wanted)


def timm_folder(name, folder, classes=5, **changes):
    arguments = {**TIMM, "mlp_ratio": 2, **changes}
    theirs = randomise(timm.create_model(name, num_classes=classes, **arguments))
    timm.models._hub.save_config_for_hf(
        theirs, folder / "config.json", {}, model_args=arguments
    )
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("beit_base_patch16_224", {}),
        ("beit_large_patch16_224", {"global_pool": "token"}),
        ("beitv2_base_patch16_224", {"init_values": None}),
        (
            "beitv2_large_patch16_224",
            {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        ),
        ("beit_base_patch16_224", {"img_size": [48, 80], "use_fc_norm": False}),
        ("beit_base_patch16_224", {"qkv_bias": False}),
    ],
)
def test_timms_model(name, changes, tmp_path):
    theirs = timm_folder(name, tmp_path, **changes)
    model, preprocess, ledger = vt.load(tmp_path, dtype=torch.float64)
    v2 = name.startswith("beitv2")
    assert preprocess.mean == (IMAGENET_MEAN if v2 else HALF)
    assert preprocess.crop_fraction == (0.95 if "v2_large" in name else 0.9)
    assert ("share" in ledger.summary()) == ("use_shared_rel_pos_bias" in changes)
    native = tuple(model.config.image_hw)
    with torch.no_grad():
        assert gap(model(images(*native)), theirs(images(*native))) < 1e-10
        for size in OTHER:
            # timm resizes the table in float32.
            theirs.set_input_size(size)
            assert gap(model(images(*size)), theirs(images(*size))) < 1e-5
            theirs = timm_folder(name, tmp_path, **changes)


def test_timms_names_are_written_for_its_model(tmp_path):
    ours = randomise(ViT(ViTConfig(**VIT)))
    vt.save(tmp_path / "native", ours.float(), Preprocess(image_size=(64, 64)))
    file = tmp_path / "timm.safetensors"
    vt.convert(tmp_path / "native", file, "timm_beit")
    theirs = timm.create_model(
        "beit_base_patch16_224",
        num_classes=5,
        mlp_ratio=2,
        checkpoint_path=str(file),
        **TIMM,
    )
    with torch.no_grad():
        found = theirs.double().eval()(images(64, 64))
        assert gap(found, ours.double()(images(64, 64))) < 1e-10
    again = vt.load(file, dtype=torch.float64).model
    with torch.no_grad():
        assert gap(again(images(48, 80)), ours(images(48, 80))) < 1e-10


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "token"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("head", [True, False], ids=["head", "features"])
def test_transformers_model(mean, shared, head, tmp_path):
    config = transformers.BeitConfig(
        **SIZES,
        use_relative_position_bias=not shared,
        use_shared_relative_position_bias=shared,
        use_mean_pooling=mean,
        use_mask_token=shared,
    )
    kind = "BeitForImageClassification" if head else "BeitModel"
    theirs = randomise(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path / "theirs")

    def answer(model, *size):
        out = model(images(*size))
        return out.logits if head else out.pooler_output

    model = vt.load(tmp_path / "theirs", dtype=torch.float64).model
    with torch.no_grad():
        for size in ((64, 64), *OTHER):
            assert gap(model(images(*size)), answer(theirs, *size)) < 1e-10
    # Another function than the one above, were the bias left out.
    for block in model.blocks:
        block.attn.relative.table.data.zero_()
    with torch.no_grad():
        assert gap(model(images(64, 64)), answer(theirs, 64, 64)) > 1e-3
    vt.convert(tmp_path / "theirs", tmp_path / "native", "native")
    out = vt.convert(tmp_path / "native", tmp_path / "out", "huggingface_beit").path
    again = getattr(transformers, kind).from_pretrained(out).double().eval()
    with torch.no_grad():
        for size in ((64, 64), OTHER[1]):
            assert gap(answer(again, *size), answer(theirs, *size)) < 1e-10


def test_pretrained_file_of_transformers(tmp_path):
    config = transformers.BeitConfig(**SIZES, use_shared_relative_position_bias=True)
    theirs = randomise(transformers.BeitForMaskedImageModeling(config))
    theirs.save_pretrained(tmp_path)
    model, _, ledger = vt.load(tmp_path, dtype=torch.float64)
    assert "a file of the pre-training" in ledger.summary()
    with torch.no_grad():
        wanted = theirs.layernorm(theirs.beit(images(64, 64)).last_hidden_state)
        found = model.forward_features(images(64, 64))
        assert gap(found.patches.flatten(1, 2), wanted[:, 1:]) < 1e-10
        assert gap(model(images(64, 64)), wanted[:, 1:].mean(1)) < 1e-10


def test_file_of_the_authors_is_read(tmp_path):
    """Theirs is pickled, wrapped, and has the indices and the head of pre-training."""
    theirs = timm_folder(
        "beitv2_base_patch16_224",
        tmp_path,
        classes=0,
        global_pool="token",
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
    )
    tensors = theirs.state_dict()
    tensors["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17).long()
    tensors["mask_token"] = torch.zeros(1, 1, 48)
    tensors["lm_head.weight"] = torch.zeros(8192, 48)
    tensors["cls_pt_layers.0.norm1.weight"] = torch.zeros(48)
    torch.save({"model": tensors, "epoch": 7}, tmp_path / "authors.pth")
    model, _, ledger = vt.load(tmp_path / "authors.pth", dtype=torch.float64)
    assert "0.5 assumed, as for BEiT" in ledger.summary()
    assert ledger.counts()["dropped"] == 4
    with torch.no_grad():
        assert gap(model(images(64, 64)), theirs(images(64, 64))) < 1e-10


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"swiglu_mlp": True}, "gated perceptron|swiglu_mlp"),
        ({"use_abs_pos_emb": True}, "absolute positions as well|use_abs_pos_emb"),
        ({"use_shared_rel_pos_bias": True}, "in every block and one that they share"),
    ],
)
def test_other_models_of_timms_class_are_refused(changes, match, tmp_path):
    timm_folder("beit_base_patch16_224", tmp_path, **changes)
    with pytest.raises(WeightsError, match=match):
        vt.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=match):
        vt.load(tmp_path / "model.safetensors")


def test_a_table_of_another_grid_is_refused(tmp_path):
    timm_folder("beit_base_patch16_224", tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    fields["model_args"]["img_size"] = 80
    file.write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match="has 49 offsets, but a grid of 5 x 5"):
        vt.load(tmp_path)
    fields["model_args"] |= {"img_size": 64, "num_heads": 4}
    file.write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match=r"model_args\.num_heads"):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("use_mean_pooling", False, "use_mean_pooling"),
        ("hidden_act", "relu", "hidden_act"),
        ("use_mean_pooling", "yes", "true or false"),
        ("num_attention_heads", 4, "num_attention_heads"),
    ],
)
def test_fields_that_contradict_the_tensors_are_refused(field, value, match, tmp_path):
    config = transformers.BeitConfig(**SIZES, use_relative_position_bias=True)
    transformers.BeitModel(config).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(WeightsError, match=match):
        vt.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reg_tokens": 2}, "rows for one class token"),
        ({"class_token": False}, "rows for one class token"),
        ({"patch_drop_rate": 0.5}, "patch_drop_rate"),
        ({"position_at": "every_layer"}, "not added to tokens"),
        ({"position": "learned_1d"}, "`position_resize=geometric` resizes a table"),
    ],
)
def test_relative_bias_refuses_what_it_cannot_do(changes, match):
    with pytest.raises(ConfigError, match=match):
        ViTConfig(**{**VIT, **changes})


def test_parameters_of_timms_models():
    """On the meta device: 86.53 M and 304.43 M, as timm counts."""
    for name, size in (("beit_base", "b"), ("beitv2_large", "l")):
        with torch.device("meta"):
            theirs = timm.create_model(f"{name}_patch16_224")
            changes = {key: VIT[key] for key in VIT if key not in {**TIMM, **SIZES}}
            del changes["mlp_dim"]
            ours = vt.create(f"vit_{size}16", **{**changes, "num_classes": 1000})
            named = vt.create(f"{name}_patch16_224.tag", num_classes=1000)
        values = {"init_values": 0.1 if size == "b" else 1e-5}
        assert named.config == vt.models.replace_config(ours.config, values)
        found = sum(math.prod(it.shape) for it in ours.parameters())
        assert found == sum(math.prod(it.shape) for it in theirs.parameters())


def test_weights_gradients_merging_and_the_onnx_file():
    model = ViT(ViTConfig(**{**VIT, "position_resize": "bilinear"})).eval()
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
    assert_onnx_file_equal(model, to_onnx(model), (64, 64), (48, 80))
    timms = ViT(ViTConfig(**VIT)).eval()
    timms.load_state_dict(model.state_dict())
    assert_onnx_file_equal(timms, to_onnx(timms, image_size=(48, 80)), (48, 80))
    with pytest.raises(GateError, match="geometric` is not possible in a graph"):
        to_onnx(timms)


def assert_onnx_file_equal(model, proto, *sizes):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for size in sizes:
        pixels = images(*size).float()
        found = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
        with torch.no_grad():
            assert gap(torch.from_numpy(found[0]), model(pixels)) < 1e-4


def test_native_file_holds_the_table(tmp_path):
    ours = randomise(ViT(ViTConfig(**VIT))).float()
    vt.save(tmp_path / "native", ours, Preprocess(image_size=(64, 64)))
    tensors = load_file(tmp_path / "native/model.safetensors")
    assert tensors["blocks.1.attn.relative.table"].shape == (52, 3)
    bigger, _, ledger = vt.load(tmp_path / "native", image_size=(96, 64))
    assert "4 x 4 -> 6 x 4 patches, geometric" in ledger.summary()
    with torch.no_grad():
        size = images(96, 64).float()
        assert gap(bigger(size), ours(size)) < 1e-5
