"""Compile our model without changing its function.

torch.compile, OpenVINO and ONNX Runtime, in float32 and for one batch size. int8 and
token merging are other functions.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.peer_models import PeerUnavailable
from benchmarks.peers.peers import Side
from vitral.errors import MissingExtraError
from vitral.export.to_onnx import to_onnx
from vitral.export.to_openvino import save_onnx
from vitral.models import VisionModel
from vitral.weights.exported import runtimes


class CompiledModule(nn.Module):
    """A compiled model as a module: float32 images in, logits out."""

    def __init__(self, infer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.infer = infer

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.infer(x.numpy()))


def exact_sides(
    model: nn.Module, images: Tensor
) -> tuple[tuple[Side, ...], dict[str, str]]:
    """Return the compiled forms of `model`, and why others are missing."""
    sides, absent = [], {}
    for name, build in PATHS.items():
        try:
            built = build(model.eval(), images)
            sides.append(Side(name=name, library="vitral", model=built, exact=True))
        except PeerUnavailable as reason:
            absent[name] = str(reason)
    return tuple(sides), absent


def compile_torch(model: nn.Module, images: Tensor) -> nn.Module:
    """Compile by torch.compile with its default settings, in a first call."""
    torch._dynamo.reset()
    try:
        compiled = torch.compile(model, dynamic=False)
        with torch.no_grad(), _quiet():
            compiled(images)
    except Exception as error:  # whatever the compiler of the machine lacks
        raise PeerUnavailable(f"cannot compile here: {_first_line(error)}") from error
    assert isinstance(compiled, nn.Module)
    return compiled


def compile_openvino(model: nn.Module, images: Tensor) -> nn.Module:
    """Compile by OpenVINO for the CPU in float32, from the graph of `vitral export`."""
    with _translate_missing_extra():
        core = runtimes.openvino_core()
        proto = _onnx_graph(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(proto, file)
        model_graph = core.read_model(file)
        model_graph.reshape({0: list(images.shape)})
        compiled = core.compile_model(
            model_graph,
            "CPU",
            {
                # Otherwise bfloat16 is the default on processors that have it.
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
    request = compiled.create_infer_request()

    def infer(pixels: Any) -> Any:
        return request.infer({0: pixels}, share_inputs=True)[compiled.output(0)]

    return CompiledModule(infer)


def compile_onnx_runtime(model: nn.Module, images: Tensor) -> nn.Module:
    """Compile by ONNX Runtime for the CPU; idle threads do not spin."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise PeerUnavailable("not installed: pip install 'vitral[export]'")
    import onnxruntime

    with _translate_missing_extra():
        proto = _onnx_graph(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(proto, file)
        session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
    (name,) = (node.name for node in session.get_inputs())
    return CompiledModule(lambda pixels: session.run(None, {name: pixels})[0])


PATHS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "torch.compile": compile_torch,
    "OpenVINO": compile_openvino,
    "ONNX Runtime": compile_onnx_runtime,
}


@functools.lru_cache(maxsize=1)
def _onnx_graph(model: nn.Module) -> Any:
    """Return the ONNX graph for the model's image size and any batch size."""
    assert isinstance(model, VisionModel)
    return to_onnx(model, image_size=model.config.image_hw)


@contextlib.contextmanager
def _translate_missing_extra() -> Iterator[None]:
    """Raise PeerUnavailable for a missing package."""
    try:
        yield
    except MissingExtraError as error:
        raise PeerUnavailable("not installed: pip install 'vitral[export]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence a compiler's messages, not its errors."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch")
    ]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
