"""Names of modules for the operations of a graph that came through torch.export.

torch.export numbers operations by their kind (`linear_7`); a list of layers must say
`blocks.1.mlp.fc2`, which the program still knows.
"""

from typing import Any

from torch.export import ExportedProgram

LAYERS = ("MatMul", "Convolution", "GroupConvolution", "ScaledDotProductAttention")


def name_layers(graph: Any, program: ExportedProgram) -> None:
    """Rename, in place, the layers of an openvino.Model after their modules.

    Args:
        program: what `graph` was converted from.
    """
    modules = _modules(program)
    for op in graph.get_ops():
        if op.get_type_name() not in LAYERS:
            continue
        name = op.get_friendly_name()
        # The converter breaks conv2d down into convolution, one for one.
        node = name.split("/")[0].replace("convolution", "conv2d")
        if modules.get(node):
            op.set_friendly_name(f"{modules[node]}/{name}")


def _modules(program: ExportedProgram) -> dict[str, str]:
    """The name of each operation in the program to that of the innermost module."""
    found = {}
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            path = list(stack.values())[-1][0]
            found[node.name] = path.removeprefix("L['self'].").removeprefix("self.")
    return found
