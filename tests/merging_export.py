"""Run by test_merging.py: a merging model exported, for any batch, gives its logits."""

import tempfile
import warnings
from pathlib import Path

import onnxruntime
import openvino
import torch

from helpers import images, tiny_vit
from vitral.models import set_merge


def main() -> None:
    x, other = images().float(), images(5).float()
    batch = torch.export.Dim("batch", min=1, max=64)
    free = ({0: batch},)
    for changes in ({}, {"global_pool": "avg", "reg_tokens": 2}):
        model = tiny_vit(depth=3, **changes).float().requires_grad_(False)
        set_merge(model, 3)
        wanted = model(other)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(other), wanted, atol=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own tree types
            program = torch.export.export(model, (x,), dynamic_shapes=free)
            exported = torch.onnx.export(
                model, (x,), dynamo=True, dynamic_shapes=free, verbose=False
            )
        assert torch.allclose(program.module()(other), wanted, atol=1e-5)
        proto = exported.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(
            proto, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
        assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(proto)
            exact = {"INFERENCE_PRECISION_HINT": "f32"}
            run = openvino.Core().compile_model(str(file), "CPU", exact)
            found = torch.from_numpy(run(other.numpy())[0])
        assert torch.allclose(found, wanted, atol=1e-5)


main()
