"""Our model through compilers that do not change what it computes.

torch.compile, OpenVINO and ONNX Runtime, all in float32 and for the one batch size that
is measured. int8 and merged tokens are other functions and are not among them.
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
    """A compiled model that looks like a module; float32 images in, logits out."""

    def __init__(self, infer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.infer = infer

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.infer(x.numpy()))


def exact_sides(
    model: nn.Module, images: Tensor
) -> tuple[tuple[Side, ...], dict[str, str]]:
    """Every compiled form of `model` for such images; and why others are missing."""
    found, absent = [], {}
    for name, build in PATHS.items():
        try:
            built = build(model.eval(), images)
            found.append(Side(name=name, library="vitral", model=built, exact=True))
        except PeerUnavailable as reason:
            absent[name] = str(reason)
    return tuple(found), absent


def compile_torch(model: nn.Module, images: Tensor) -> nn.Module:
    """torch.compile with its default settings, compiled by a first call."""
    torch._dynamo.reset()
    try:
        made = torch.compile(model, dynamic=False)
        with torch.no_grad(), _quiet():
            made(images)
    except Exception as error:  # whatever the compiler of the machine lacks
        raise PeerUnavailable(f"cannot compile here: {_first_line(error)}") from error
    assert isinstance(made, nn.Module)
    return made


def compile_openvino(model: nn.Module, images: Tensor) -> nn.Module:
    """OpenVINO on the CPU, held to float32, from the graph of `vitral export`."""
    with _translate_missing_extra():
        core = runtimes.openvino_core()
        proto = _onnx_graph(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(proto, file)
        read = core.read_model(file)
        read.reshape({0: list(images.shape)})
        made = core.compile_model(
            read,
            "CPU",
            {
                # Where the processor multiplies bfloat16, it would be used unasked.
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
    request = made.create_infer_request()

    def infer(pixels: Any) -> Any:
        return request.infer({0: pixels}, share_inputs=True)[made.output(0)]

    return CompiledModule(infer)


def compile_onnx_runtime(model: nn.Module, images: Tensor) -> nn.Module:
    """ONNX Runtime on the CPU; its threads do not spin while others have their turn."""
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
    """The ONNX graph for images of the model's size, in batches of any."""
    assert isinstance(model, VisionModel)
    return to_onnx(model, image_size=model.config.image_hw)


@contextlib.contextmanager
def _translate_missing_extra() -> Iterator[None]:
    """A missing package as the reason why a form is absent."""
    try:
        yield
    except MissingExtraError as error:
        raise PeerUnavailable("not installed: pip install 'vitral[export]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of a compiler; its errors are raised."""
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
