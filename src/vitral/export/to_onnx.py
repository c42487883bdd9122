"""Convert a model in eval mode to an ONNX graph in memory, with dynamic sizes.

Its input is `image`, float32 [batch, channels, height, width] (or clips), its output
`logits`.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import jaxtyping
import torch
from torch import nn

from vitral.errors import GateError
from vitral.models import VisionModel
from vitral.weights.exported import IMAGE, LOGITS, import_onnx

OPSET = 20
MIN_SIDE = 32
"""Smallest side in pixels; a ResNet has no cell below."""
MAX_SIDE = 2**16


def to_onnx(model: VisionModel, *, image_size: tuple[int, int] | None = None) -> Any:
    """Convert `model` to an onnx.ModelProto; without `image_size` of dynamic sizes."""
    example, sizes = _example(model, image_size)
    proto = trace_onnx(model, example, sizes, names=(IMAGE, LOGITS))
    _name_by_module(proto)
    return proto


def trace_onnx(
    module: nn.Module,
    example: torch.Tensor,
    sizes: dict[int, Any],
    names: tuple[str, str],
) -> Any:
    """Convert a module with one input and one output to an onnx.ModelProto."""
    import_onnx()
    with torch.no_grad(), _suppress_exporter_output():
        try:
            program = torch.export.export(
                module, (example,), dynamic_shapes=(sizes,), strict=False
            )
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[names[0]],
                output_names=[names[1]],
                opset_version=OPSET,
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise GateError(
                f"{type(module).__name__} cannot be written as a graph for these "
                f"sizes ({type(error).__name__}: {reason}). Try `static`, or convert "
                "to another layout with `vitral convert`."
            ) from error
    assert exported is not None
    return exported.model_proto


def _example(
    model: VisionModel, image_size: tuple[int, int] | None
) -> tuple[torch.Tensor, dict[int, Any]]:
    """Return an input to trace with, and its dynamic axes."""
    config = model.config
    *before, _, _ = config.input_shape
    batch = torch.export.Dim("batch", min=1, max=MAX_SIDE)
    axis = 1 + len(before)
    if image_size is not None:
        return torch.zeros(2, *before, *image_size), {0: batch}
    patch = getattr(config, "patch_hw", (1, 1))
    sides, sizes = [], {0: batch}
    for i, (side, count, name) in enumerate(
        zip(patch, (3, 5), ("rows", "columns"), strict=True)
    ):
        if side == 1:
            sides.append(count * MIN_SIDE)
            dimension = torch.export.Dim(name, min=MIN_SIDE, max=MAX_SIDE)
        else:
            sides.append(count * side)
            dimension = side * torch.export.Dim(name, min=1, max=MAX_SIDE // side)
        sizes[axis + i] = dimension
    return torch.zeros(2, *before, *sides), sizes


def _name_by_module(proto: Any) -> None:
    """Prefix node names with their module: blocks.3.mlp.fc2/node_MatMul_9."""
    for node in proto.graph.node:
        for entry in node.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                scopes = [name.strip(" '\"") for name in entry.value[1:-1].split(",")]
                if len(scopes) > 1 and scopes[-2]:
                    node.name = f"{scopes[-2]}/{node.name}"
        # They contain local paths.
        del node.metadata_props[:]


@contextlib.contextmanager
def _suppress_exporter_output() -> Iterator[None]:
    """Silence the exporter, and disable jaxtyping: a traced size is no int."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", checks)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
