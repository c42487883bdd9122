"""ONNX files, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitral.errors import WeightsError
from vitral.weights.exported.model import ExportedGraph
from vitral.weights.exported.runtimes import import_onnxruntime

IMAGE, PIXELS, LOGITS = "image", "pixels", "logits"
"""Tensors of every graph: pre-processed images, uint8 pixels, and the logits."""
FATAL = 4
"""Log level at which the runtime is silent: errors are raised."""


class OnnxGraph(ExportedGraph):
    """An .onnx file."""

    backend = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._session = self._open(str(path))
        self._inner: Any = None

    def text(self, key: str) -> str:
        return str(self._session.get_modelmeta().custom_metadata_map.get(key, ""))

    def prepare(self, precision: str) -> None:
        """Do nothing: the session is ready once it is open."""

    def logits(self, image: np.ndarray) -> np.ndarray:
        names = [graph_input.name for graph_input in self._session.get_inputs()]
        if names == [IMAGE]:
            return _run_session(self._session, IMAGE, image)
        if self._inner is None:
            self._inner = self._open(self._without_preprocess())
        return _run_session(self._inner, IMAGE, image)

    def logits_from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return _run_session(self._session, PIXELS, pixels)

    def _open(self, source: str | bytes) -> Any:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads or torch.get_num_threads()
        options.log_severity_level = FATAL
        try:
            return runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"{self.path} is no ONNX model that can be loaded ({reason}): it is "
                "damaged, or no ONNX file. Export the model again."
            ) from error

    def _without_preprocess(self) -> bytes:
        import onnx
        from onnx.utils import Extractor

        extractor = Extractor(onnx.load(self.path))
        part: bytes = extractor.extract_model([IMAGE], [LOGITS]).SerializeToString()
        return part


def _run_session(session: Any, name: str, value: np.ndarray) -> np.ndarray:
    logits: np.ndarray = session.run([LOGITS], {name: value})[0]
    return logits
