"""Run by test_models.py: one graph for torch.compile, free sizes for torch.export."""

import warnings

import torch

from helpers import TINY, images, randomise, tiny_tnt, tiny_vit
from vitral.models.hybrid import Hybrid, HybridConfig
from vitral.models.resnet import ResNet, ResNetConfig
from vitral.models.timesformer.timesformer import TimeSformer, TimeSformerConfig


def main() -> None:
    vits = [tiny_vit(), tiny_vit(global_pool="avg", position="sincos_2d")]
    for model in (*vits, *with_convolutions(), *for_clips()):
        model = model.float().eval()
        frames = 3 if isinstance(model, TimeSformer) else 0
        x = pixels(2, frames)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), model(x), atol=1e-5)
        batch = torch.export.Dim("batch", min=1, max=64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own tree types
            program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
        other = pixels(5, frames)
        assert torch.allclose(program.module()(other), model(other), atol=1e-5)


def pixels(batch: int, frames: int) -> torch.Tensor:
    """A batch of images, or of clips where there are frames."""
    found = images(batch * max(frames, 1)).float()
    return found.unflatten(0, (batch, frames)) if frames else found


def for_clips() -> list[torch.nn.Module]:
    sizes = {**TINY, "num_frames": 4, "depth": 1}
    schemes = ("divided", "local_global")
    found = [TimeSformer(TimeSformerConfig(**sizes, attention_type=s)) for s in schemes]
    for model in found:
        randomise(model)
    return found


def with_convolutions() -> list[torch.nn.Module]:
    small = {"stem_width": 8, "num_groups": 4, "units": (1, 2), "num_classes": 7}
    resnet = ResNet(ResNetConfig(**small))
    hybrid = Hybrid(HybridConfig(**{**TINY, **small, "image_size": (48, 80)}))
    for model in (resnet, hybrid):
        randomise(model)
    return [resnet, hybrid, tiny_tnt(in_chans=3)]


main()
