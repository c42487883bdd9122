"""Find the int8 layers of an OpenVINO model, and restore layers to float.

A layer is an operation with weights and an int8 input. Its name is that of its module,
such as `blocks.3.mlp.fc2`.
"""

import importlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from vitral.weights.exported import import_openvino

ATTENTION = "ScaledDotProductAttention"
COMPUTE_OPS = ("MatMul", "Convolution", "GroupConvolution")
QUANTIZER_OP = "FakeQuantize"
SMOOTHING_NAME = "nncf_smooth_quant"
"""Part of the name of NNCF's smoothing factor before a layer's input."""
MOST_NODES = 30
"""Most nodes between a constant and its layer; more means the image is its source."""
_NO_MODULE_NAME = re.compile(r"node_|[A-Z]\w*_\d+(/|$)")
"""Names by torch's exporter and by OpenVINO for operations of no module."""
_BLOCK = re.compile(r"(?:^|[._/])blocks[._](\d+)[._](.*)")


@dataclass(frozen=True, slots=True)
class Int8Layer:
    """One operation with int8 inputs."""

    op: str
    """Name in the graph."""
    name: str
    """Name of its module."""
    block: str
    """`blocks.3`; the module's own name outside of the blocks."""
    kind: str
    """Name within its block, such as `mlp.fc2`."""


def find_int8_layers(quantized: Any) -> tuple[Int8Layer, ...]:
    """Return the layers of `quantized`, an openvino.Model, in execution order."""
    layers: list[Int8Layer] = []
    for op in quantized.get_ordered_ops():
        sources = op.input_values()
        if op.get_type_name() not in COMPUTE_OPS or all(
            _find_quantizer(source) is None for source in sources
        ):
            continue
        layer = _layer(op)
        # A module can have several, such as the queries of the last block.
        same = sum(other.name.split("#")[0] == layer.name for other in layers)
        if same:
            suffix = f"#{same + 1}"
            layer = replace(layer, name=layer.name + suffix, kind=layer.kind + suffix)
        layers.append(layer)
    return tuple(layers)


def find_float_products(model: Any) -> list[str]:
    """Return the names of the products that are no layers.

    These are products of two activations, and those of no module, with which a last
    block computes its one query. The latter cost nothing, and zeros between their heads
    make a single scale coarse.
    """
    return [
        op.get_friendly_name()
        for op in model.get_ops()
        if op.get_type_name() == ATTENTION
        or (
            op.get_type_name() == "MatMul"
            and (
                _NO_MODULE_NAME.match(op.get_friendly_name())
                or not any(_is_constant(source) for source in op.input_values())
            )
        )
    ]


def fold_constants(model: Any) -> Any:
    """Return a copy of an openvino.Model with constants folded: a slice of a weight
    becomes a weight, which NNCF can quantize."""
    import_openvino()
    passes = importlib.import_module("openvino.passes")
    copy = model.clone()
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(copy)
    return copy


def restore_float(quantized: Any, original: Any, ops: Collection[str]) -> Any:
    """Return a copy of `quantized`, made of `original` by NNCF, with `ops` in float."""
    model = quantized.clone()
    # A copy, so that its nodes can become part of the new graph.
    before = {op.get_friendly_name(): op for op in original.clone().get_ops()}
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if name not in ops:
            continue
        for index, source in enumerate(op.input_values()):
            float_source = before[name].input_value(index)
            if _is_constant(float_source):
                op.input(index).replace_source_output(float_source)
            elif _find_quantizer(source) is not None:
                op.input(index).replace_source_output(_skip_quantizer(source))
        _restore_bias(op, before)
    model.validate_nodes_and_infer_types()
    return model


def _restore_bias(op: Any, before: dict[str, Any]) -> None:
    """Restore the bias, which NNCF shifted by the mean error of int8."""
    for target in op.output(0).get_target_inputs():
        add = target.get_node()
        old = before.get(add.get_friendly_name())
        if add.get_type_name() != "Add" or old is None:
            continue
        for index, source in enumerate(old.input_values()):
            if _is_constant(source):
                add.input(index).replace_source_output(source)


def _layer(op: Any) -> Int8Layer:
    name = _module(op)
    match = _BLOCK.search(name)
    if match is None:
        return Int8Layer(op.get_friendly_name(), name, name, name)
    index, kind = match.groups()
    return Int8Layer(op.get_friendly_name(), name, f"blocks.{index}", kind)


def _module(op: Any) -> str:
    """Return the module of an operation. One of no module, as in the last block of a
    class-token model, is `M product` for the module M of its input."""
    node, steps = op, 0
    while _NO_MODULE_NAME.match(node.get_friendly_name()) and steps < MOST_NODES:
        node, steps = node.input_value(0).get_node(), steps + 1
        if not node.input_values():
            break
    name: str = node.get_friendly_name().split("/")[0]
    return f"{name} product" if steps else name


def _find_quantizer(source: Any) -> Any:
    """Return the node that quantizes an input at run time; None without one."""
    node = source.get_node()
    if node.get_type_name() != QUANTIZER_OP or _is_constant(source):
        return None
    return node


def _skip_quantizer(source: Any) -> Any:
    before = source.get_node().input_value(0)
    if SMOOTHING_NAME in before.get_node().get_friendly_name():
        # Skip the factor: the restored weights are not divided by it.
        return before.get_node().input_value(0)
    return before


def _is_constant(source: Any) -> bool:
    """Return whether it does not depend on the model's input."""
    waiting, seen = [source.get_node()], set()
    while waiting:
        node = waiting.pop()
        seen.add(node.get_friendly_name())
        if node.get_type_name() == "Parameter" or len(seen) > MOST_NODES:
            return False
        parents = [value.get_node() for value in node.input_values()]
        waiting += [
            parent for parent in parents if parent.get_friendly_name() not in seen
        ]
    return True
