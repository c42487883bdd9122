"""OpenVINO models: a model.xml with its model.bin."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitral.errors import WeightsError
from vitral.weights.exported.model import ExportedGraph
from vitral.weights.exported.onnx import IMAGE, PIXELS
from vitral.weights.exported.runtimes import import_openvino, openvino_core


class OpenVinoGraph(ExportedGraph):
    """A model.xml."""

    backend = "openvino"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise WeightsError(
                f"{path} has no {weights.name} beside it, which holds its weights: "
                "copy the whole folder, or export the model again."
            )
        self._core = openvino_core()
        try:
            # Memory-mapped, an overwritten file would change the model in use.
            self._model = self._core.read_model(path, config={"ENABLE_MMAP": False})
        except Exception as error:
            raise self._damage_error(error) from error
        self._hint = "f32"
        self._compiled: dict[str, Any] = {}

    def text(self, key: str) -> str:
        if not self._model.has_rt_info([key]):
            return ""
        return str(self._model.get_rt_info([key]).value)

    def prepare(self, precision: str) -> None:
        self._hint = inference_precision(precision)
        self._compiled[self._input()] = self._compile(self._model)

    def logits(self, image: np.ndarray) -> np.ndarray:
        if IMAGE not in self._compiled:
            self._compiled[IMAGE] = self._compile(self._without_preprocess())
        return _infer(self._compiled[IMAGE], image)

    def logits_from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        return _infer(self._compiled[PIXELS], pixels)

    def _input(self) -> str:
        return PIXELS if PIXELS in self._model.inputs[0].get_names() else IMAGE

    def _compile(self, model: Any) -> Any:
        settings: dict[str, Any] = {
            # Its default may be bfloat16 on this CPU, without a message.
            "INFERENCE_PRECISION_HINT": self._hint,
            # Several streams would split the cores between batches.
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads or torch.get_num_threads(),
        }
        try:
            return self._core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise self._damage_error(error) from error

    def _without_preprocess(self) -> Any:
        module = import_openvino()
        model = self._model.clone()
        for op in model.get_ops():
            for output in op.outputs():
                if IMAGE in output.get_names():
                    return _from(module, model, output)
        raise WeightsError(
            f"{self.path} has no tensor `{IMAGE}`, where its pre-processing ends: "
            "export the model again."
        )

    def _damage_error(self, error: Exception) -> WeightsError:
        reason = " ".join(str(error).split())[-200:]
        return WeightsError(
            f"{self.path} is no OpenVINO model that can be loaded ({reason}): it or "
            "its .bin is damaged. Export the model again."
        )


def inference_precision(precision: str) -> str:
    """Return the runtime's precision where nothing is quantised.

    The rest of an int8 model is in bfloat16 where the CPU has it: as near to float32 as
    the int8 layers around it, and faster.
    """
    if precision == "fp32":
        return "f32"
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def _from(module: Any, model: Any, output: Any) -> Any:
    image = module.opset13.parameter(
        output.get_partial_shape(), output.get_element_type(), name=IMAGE
    )
    for target in output.get_target_inputs():
        target.replace_source_output(image.output(0))
    return module.Model(model.results, [image], "without pre-processing")


def _infer(compiled: Any, value: np.ndarray) -> np.ndarray:
    # Copy: the runtime overwrites this buffer with the next result.
    return np.array(compiled(value)[0], dtype=np.float32)
