"""The layers of an OpenVINO model that int8 can hold, and a way back to float for each.

A layer is an operation with weights that the quantiser gave an int8 input. Its name is
that of the module it came from, such as `blocks.3.mlp.fc2`.
"""

import importlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from vitral.weights.exported import import_openvino

ATTENTION = "ScaledDotProductAttention"
COMPUTE_OPS = ("MatMul", "Convolution", "GroupConvolution")
QUANTIZER_OP = "FakeQuantize"
SMOOTHING_NAME = "nncf_smooth_quant"
"""In the name of the factor that the quantiser put before a layer's input."""
MOST_NODES = 30
"""Between a weight's constant and its layer; whatever has more comes from the image."""
_NO_MODULE_NAME = re.compile(r"node_|[A-Z]\w*_\d+(/|$)")
"""What torch's exporter calls it, and what OpenVINO calls an operation of its own."""
_BLOCK = re.compile(r"(?:^|[._/])blocks[._](\d+)[._](.*)")


class Int8Layer(NamedTuple):
    """One operation with int8 inputs."""

    op: str
    """Its name in the graph."""
    name: str
    """That of its module."""
    block: str
    """`blocks.3`; the module's own name outside of the blocks."""
    kind: str
    """What it is in every block, such as `mlp.fc2`."""


def find_int8_layers(quantised: Any) -> tuple[Int8Layer, ...]:
    """The layers of `quantised`, an openvino.Model, in the order of computation."""
    found: list[Int8Layer] = []
    for op in quantised.get_ordered_ops():
        sources = op.input_values()
        if op.get_type_name() not in COMPUTE_OPS or all(
            _find_quantizer(source) is None for source in sources
        ):
            continue
        layer = _layer(op)
        # One module can hold several, such as the queries of the last block alone.
        same = sum(other.name.split("#")[0] == layer.name for other in found)
        if same:
            number = f"#{same + 1}"
            layer = layer._replace(name=layer.name + number, kind=layer.kind + number)
        found.append(layer)
    return tuple(found)


def find_float_products(model: Any) -> list[str]:
    """Names of the products that are no layers.

    Those of what is computed from the image with what is computed from it too; and
    those of no module, with which a last block computes its one query: they cost
    nothing, and zeros between its heads make one scale for all of them a coarse one.
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
    """A copy of an openvino.Model in which what is computed from constants alone is a
    constant: a slice of a weight is then a weight, which the quantiser takes."""
    import_openvino()
    passes = importlib.import_module("openvino.passes")
    copy = model.clone()
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(copy)
    return copy


def restore_float(quantised: Any, original: Any, ops: Collection[str]) -> Any:
    """`quantised` with the operations named in `ops` computed in float again.

    Args:
        quantised: made from `original` by NNCF; it is not changed.
        original: the float model, whose weights and biases these operations get back.
    """
    model = quantised.clone()
    # A copy, so that its nodes can become part of the new graph.
    before = {op.get_friendly_name(): op for op in original.clone().get_ops()}
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if name not in ops:
            continue
        for place, source in enumerate(op.input_values()):
            float_source = before[name].input_value(place)
            if _is_constant(float_source):
                op.input(place).replace_source_output(float_source)
            elif _find_quantizer(source) is not None:
                op.input(place).replace_source_output(_skip_quantizer(source))
        _restore_bias(op, before)
    model.validate_nodes_and_infer_types()
    return model


def _restore_bias(op: Any, before: dict[str, Any]) -> None:
    """The quantiser moved the bias by the mean error that it had caused."""
    for target in op.output(0).get_target_inputs():
        add = target.get_node()
        old = before.get(add.get_friendly_name())
        if add.get_type_name() != "Add" or old is None:
            continue
        for place, source in enumerate(old.input_values()):
            if _is_constant(source):
                add.input(place).replace_source_output(source)


def _layer(op: Any) -> Int8Layer:
    name = _module(op)
    found = _BLOCK.search(name)
    if found is None:
        return Int8Layer(op.get_friendly_name(), name, name, name)
    number, kind = found.groups()
    return Int8Layer(op.get_friendly_name(), name, f"blocks.{number}", kind)


def _module(op: Any) -> str:
    """The module of an operation; `... product` after the module whose output it
    takes, where it belongs to no module itself, as in the last block of a class-token
    model."""
    node, steps = op, 0
    while _NO_MODULE_NAME.match(node.get_friendly_name()) and steps < MOST_NODES:
        node, steps = node.input_value(0).get_node(), steps + 1
        if not node.input_values():
            break
    name: str = node.get_friendly_name().split("/")[0]
    return f"{name} product" if steps else name


def _find_quantizer(source: Any) -> Any:
    """The node that quantises an input at run time; None where it is not quantised."""
    node = source.get_node()
    if node.get_type_name() != QUANTIZER_OP or _is_constant(source):
        return None
    return node


def _skip_quantizer(source: Any) -> Any:
    before = source.get_node().input_value(0)
    if SMOOTHING_NAME in before.get_node().get_friendly_name():
        # The weights were divided by this factor; the old ones come without it.
        return before.get_node().input_value(0)
    return before


def _is_constant(source: Any) -> bool:
    """Whether nothing of the model's input reaches it."""
    waiting, seen = [source.get_node()], set()
    while waiting:
        node = waiting.pop()
        seen.add(node.get_friendly_name())
        if node.get_type_name() == "Parameter" or len(seen) > MOST_NODES:
            return False
        above = [value.get_node() for value in node.input_values()]
        waiting += [one for one in above if one.get_friendly_name() not in seen]
    return True
