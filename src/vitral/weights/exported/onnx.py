"""ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitral.errors import WeightsError
from vitral.weights.exported.runtimes import import_onnxruntime

IMAGE, PIXELS, LOGITS = "image", "pixels", "logits"
"""Tensors of every graph: pre-processed images, uint8 pixels, and the answer."""
FATAL = 4
"""The runtime's level of messages at which it stays silent: errors are raised."""


class OnnxGraph:
    """One .onnx file.

    Raises:
        WeightsError: it is no ONNX file, or a damaged one.
        MissingExtraError: ONNX Runtime is not installed.
    """

    backend = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._session = self._open(str(path))
        self._inner: Any = None

    def text(self, key: str) -> str:
        """What the file keeps under `key`; empty for nothing."""
        kept = self._session.get_modelmeta().custom_metadata_map
        return str(kept.get(key, ""))

    def prepare(self, precision: str) -> None:
        """The session is ready once it is open."""

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Of pre-processed images or clips in float32."""
        names = [given.name for given in self._session.get_inputs()]
        if names == [IMAGE]:
            return _run_session(self._session, IMAGE, image)
        if self._inner is None:
            self._inner = self._open(self._without_preprocess())
        return _run_session(self._inner, IMAGE, image)

    def logits_from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Of uint8 pixels [batch, height, width, 3], if it pre-processes."""
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
        """The same model from pre-processed images on."""
        import onnx
        from onnx.utils import Extractor

        whole = Extractor(onnx.load(self.path))
        part: bytes = whole.extract_model([IMAGE], [LOGITS]).SerializeToString()
        return part


def _run_session(session: Any, name: str, value: np.ndarray) -> np.ndarray:
    found: np.ndarray = session.run([LOGITS], {name: value})[0]
    return found
