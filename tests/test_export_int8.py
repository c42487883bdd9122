"""int8: the graph, the sensitivity list, the search within the bound, the sample."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitral as vt
from helpers import TINY
from photos import make_photos, tiny_config
from vitral.data.dataset import Example
from vitral.errors import ConfigError, DataError, GateError, MissingExtraError
from vitral.export.answers import answering, logits_over
from vitral.export.bounded import fewest, int8_within, is_right
from vitral.export.convert_onnx import to_onnx
from vitral.export.convert_openvino import to_openvino
from vitral.export.int8 import quantise
from vitral.export.layers import folded, quantised_layers, restored
from vitral.export.precisions import precisions
from vitral.export.sample import Labelled, Sample, balanced, sample_of
from vitral.export.sensitivity import Part, Sensitivity, change
from vitral.models import ViT, ViTConfig
from vitral.weights import runtimes

PLANTED = "blocks.1.mlp.fc2"
DEPTH = 3


def small_vit(planted: bool) -> ViT:
    """Random weights that tell images apart.

    Planted: two hidden units of block 1 that are 1,000 times the others and cancel in
    the second layer. In float nothing changes; one scale for their weights and those of
    the others leaves the others no digits.
    """
    generator = torch.Generator().manual_seed(5)
    model = ViT(ViTConfig(**{**TINY, "depth": DEPTH})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter[0].numel() if parameter.ndim > 1 else 1
            noise = torch.randn(parameter.shape, generator=generator)
            offset = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(0.1 * noise + offset if width == 1 else noise / width**0.5)
        if planted:
            fc1, fc2 = model.blocks[1].mlp.fc1, model.blocks[1].mlp.fc2
            fc1.weight[3] *= 1000
            fc1.bias[3] *= 1000
            fc1.weight[7], fc1.bias[7] = fc1.weight[3], fc1.bias[3]
            fc2.weight[:, 7] = -fc2.weight[:, 3]
        # In the middle of what it answers, or one class would win every picture.
        model.head.bias -= model(torch.from_numpy(pictures(64, 0))).mean(0)
    return model


def graph_of(model: ViT) -> Any:
    return folded(to_openvino(to_onnx(model, image_size=(48, 80))))


def pictures(number: int, seed: int) -> np.ndarray:
    """Colours with noise, [number, 3, 48, 80]."""
    generator = np.random.default_rng(seed)
    colour = generator.normal(size=(number, 3, 1, 1))
    noise = generator.normal(size=(number, 3, 48, 80))
    return (1.5 * colour + noise).astype(np.float32)


def batches_of(images: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(images[start : start + 8] for start in range(0, len(images), 8))


def sample_for(graph: Any) -> Sample:
    """Labels are the float model's own answers: its accuracy is 1."""

    def labels(seed: int, split: str, number: int) -> Labelled:
        batches = batches_of(pictures(number, seed))
        answer = logits_over(answering(graph, "fp32"), batches).argmax(1)
        return Labelled(
            split=split,
            ids=tuple(f"{split}/{index}" for index in range(number)),
            batches=batches,
            targets=np.eye(7)[answer],
            labels=answer,
        )

    return Sample(calibration=labels(1, "train", 32), check=labels(2, "val", 120))


@pytest.fixture(scope="module")
def plain() -> Any:
    return graph_of(small_vit(planted=False))


@pytest.fixture(scope="module")
def planted() -> Any:
    return graph_of(small_vit(planted=True))


@pytest.fixture(scope="module")
def plain_int8(plain: Any) -> Any:
    return quantise(plain, sample_for(plain).calibration.batches)


def test_try(plain, planted, plain_int8):
    for g in (plain, planted):
        s = sample_for(g)
        print(np.bincount(s.check.labels))
        r = int8_within(g, s, max_drop=10.0, say=lambda l: print(l))
        print("\n".join(r.report.lines()))
        print(r.report.steps)
