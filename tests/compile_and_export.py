"""Run by test_models.py: one graph for torch.compile, free sizes for torch.export."""

import warnings

import torch

from helpers import images, tiny_vit


def main() -> None:
    for changes in ({}, {"global_pool": "avg", "position": "sincos_2d"}):
        model = tiny_vit(**changes).float()
        x = images().float()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), model(x), atol=1e-5)
        batch = torch.export.Dim("batch", min=1, max=64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own tree types
            program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
        other = images(5).float()
        assert torch.allclose(program.module()(other), model(other), atol=1e-5)


main()
