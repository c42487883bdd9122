"""Convert an ONNX graph to an OpenVINO model in memory.

OpenVINO's reader of torch.export graphs lacks the arithmetic on sizes.
"""

import tempfile
from pathlib import Path
from typing import Any

from vitral.weights.exported import import_onnx, import_openvino

MAX_ONNX_BYTES = 1_900_000_000
"""Bytes of weights; an ONNX file is limited to 2 GB."""


def to_openvino(proto: Any) -> Any:
    """Convert an onnx.ModelProto to an openvino.Model, weights in float32."""
    module = import_openvino()
    # A file, since an ONNX message is limited to 2 GB.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(proto, file)
        return module.convert_model(file)


def chain_models(before: Any, after: Any) -> Any:
    """Return an openvino.Model of `after` on the output of `before`.

    Each is converted by itself: OpenVINO would take the batch size for both from the
    first input, and the two could not be separated again.
    """
    source = before.results[0].input_value(0)
    for target in after.parameters[0].output(0).get_target_inputs():
        target.replace_source_output(source)
    return import_openvino().Model(after.results, before.parameters, "from pixels")


def save_onnx(proto: Any, file: Path) -> None:
    """Write a graph; larger weights go into a second file."""
    large = proto.ByteSize() > MAX_ONNX_BYTES
    import_onnx().save(
        proto, file, save_as_external_data=large, location=f"{file.name}.data"
    )
