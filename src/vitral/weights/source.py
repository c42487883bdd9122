"""A weights file as read, before a model is made of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitral.data import Preprocess
from vitral.errors import WeightsError
from vitral.models import ViTConfig

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a file says about itself, in our names."""

    path: Path
    config: ViTConfig
    """The model that the tensors belong to, with the head that the file has."""
    tensors: dict[str, Tensor]
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    """Names of the head's classes; empty when unknown."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else a native folder carries: temperature, views, source."""
    notes: tuple[str, ...] = ()
    """What had to be assumed."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file.

    Raises:
        WeightsError: missing, a pickle, corrupt, or a value is not finite.
    """
    if not path.is_file():
        raise WeightsError(
            f"No weights at {path}: give a .safetensors file, or a model folder that "
            "has model.safetensors."
        )
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which can run code when it is read: vitral does not "
            "open it. Save the same state dict with safetensors.torch.save_file and "
            "give that file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a readable safetensors file: {error}. It may be cut short "
            "or damaged; fetch it again and compare its sha256."
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{path}: tensor {name} has values that are not finite, so the model "
                "would answer NaN. Use an earlier checkpoint."
            )
    return tensors
