"""Build the same Vision Transformer in other libraries, with the same weights.

Every side must give our logits before it is timed. vit-pytorch's model has norms around
its patches and no attention bias, so it is compared with a vitral model like that.
"""

import contextlib
import io
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vitral.models
import vitral.weights
from benchmarks.peers import peer_models
from benchmarks.peers.peer_models import PeerUnavailable
from vitral.data import Preprocess
from vitral.errors import ConfigError, GateError
from vitral.models import VisionModel, ViTConfig
from vitral.weights.convert import convert, to_foreign_tensors
from vitral.weights.layouts import available_layouts

AGREEMENT = 1e-4
"""Largest difference of logits of two sides that compute one function."""
TWIN = "vitral as vit-pytorch"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One implementation: a module from images to logits."""

    name: str
    library: str
    model: nn.Module
    against: str = "vitral"
    """Name of the vitral side with the same function."""
    exact: bool = False
    """True for ours through a compiler."""

    @property
    def is_ours(self) -> bool:
        return self.library == "vitral"

    @property
    def kind(self) -> str:
        """Return `ours`, `exact` or `peer`."""
        return "exact" if self.exact else "ours" if self.is_ours else "peer"


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Sides that could be built, and why others could not, by library."""

    config: ViTConfig
    available: tuple[Side, ...]
    absent: dict[str, str]

    @property
    def ours(self) -> VisionModel:
        model = self.available[0].model
        assert isinstance(model, VisionModel)
        return model


def plain_config(name: str, image_size: tuple[int, int], classes: int) -> ViTConfig:
    """Return the config of a model that all libraries have.

    Raises:
        ConfigError: the name is unknown, or not that of a plain Vision Transformer.
    """
    changes = {"act": "gelu", "image_size": image_size, "num_classes": classes}
    config = vitral.models.get_config(name, changes)
    if type(config) is not ViTConfig or config.global_pool != "token":
        raise ConfigError(
            f"`{name}` cannot be held against other libraries: only plain Vision "
            "Transformers with a class token can, such as vit_s16."
        )
    return config


def build_sides(
    name: str, *, image_size: tuple[int, int] = (224, 224), classes: int = 1000
) -> Sides:
    """Build our model with random weights, and every peer with the same ones.

    Raises:
        ConfigError: see `plain_config`.
        GateError: a peer gives other logits.
    """
    config = plain_config(name, image_size, classes)
    generator = torch.Generator().manual_seed(0)
    ours = randomize_parameters(vitral.models.build_model(config), generator)
    available, absent = [Side(name="vitral", library="vitral", model=ours)], {}
    for library, build in BUILDERS.items():
        try:
            available += build(config, ours, generator)
        except PeerUnavailable as reason:
            absent[library] = str(reason)
    sides = Sides(config=config, available=tuple(available), absent=absent)
    images = torch.randn(2, config.in_chans, *config.image_hw, generator=generator)
    require_agreement(sides.available, images)
    return sides


def require_agreement(sides: tuple[Side, ...], images: Tensor) -> None:
    """Check that the logits of each side equal those of its vitral side.

    Raises:
        GateError: they differ by more than `AGREEMENT`.
    """
    with torch.no_grad():
        logits = {side.name: side.model.eval()(images) for side in sides}
    for side in sides:
        expected = logits[side.against]
        actual = logits[side.name]
        if actual.shape != expected.shape:
            raise GateError(
                f"{side.name} gives logits of shape {tuple(actual.shape)} and vitral "
                f"of {tuple(expected.shape)}: it is another function and was not timed."
            )
        difference = float((actual - expected).abs().max())
        if not difference <= AGREEMENT:
            raise GateError(
                f"{side.name} and {side.against} give logits that are {difference:.1e} "
                f"apart, of {float(expected.std()):.2f} standard deviation: at most "
                f"{AGREEMENT} was expected. They are different functions and were not "
                "timed."
            )


def randomize_parameters(model: nn.Module, generator: torch.Generator) -> Any:
    """Set all parameters to random numbers, as large as those of trained models.

    A fresh head or scale of zero would hide the layers before it.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "token" not in name and "pos" not in name:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(numbers / fan_in**0.5)
            else:
                ones = parameter.ndim == 1 and name.endswith("weight")
                parameter.copy_(0.1 * numbers + float(ones))
    return model.eval()


def timm_sides(config: ViTConfig, ours: VisionModel, _: torch.Generator) -> list[Side]:
    """Build timm's side."""
    model = peer_models.build_timm(config)
    model.load_state_dict(_foreign_state_dict("timm", config, ours))
    return [Side(name="timm", library="timm", model=model)]


def transformers_sides(
    config: ViTConfig, ours: VisionModel, _: torch.Generator
) -> list[Side]:
    """Build transformers' side, with fused attention."""
    transformers = peer_models.import_peer("transformers", "transformers")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        vitral.weights.save(root / "ours", ours, Preprocess())
        convert(root / "ours", root / "theirs", "huggingface")
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            model = transformers.ViTForImageClassification.from_pretrained(
                root / "theirs", attn_implementation="sdpa"
            )
    model = peer_models.LogitsOnly(model)
    return [Side(name="transformers", library="transformers", model=model)]


def torchvision_sides(
    config: ViTConfig, ours: VisionModel, _: torch.Generator
) -> list[Side]:
    """Build torchvision's side, for square images only."""
    model = peer_models.build_torchvision(config)
    model.load_state_dict(_foreign_state_dict("torchvision", config, ours))
    return [Side(name="torchvision", library="torchvision", model=model)]


def vit_pytorch_sides(
    config: ViTConfig, ours: VisionModel, generator: torch.Generator
) -> list[Side]:
    """Build vit-pytorch's side, and the vitral side with its function."""
    model = randomize_parameters(peer_models.build_vit_pytorch(config), generator)
    rows, columns = config.grid
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), file)
        twin = vitral.weights.load(
            file, grid=(rows, columns), num_heads=config.num_heads
        ).model
    return [
        Side(name=TWIN, library="vitral", model=twin.eval(), against=TWIN),
        Side(name="vit-pytorch", library="vit-pytorch", model=model, against=TWIN),
    ]


Builder = Callable[[ViTConfig, VisionModel, torch.Generator], list[Side]]
BUILDERS: dict[str, Builder] = {
    "timm": timm_sides,
    "transformers": transformers_sides,
    "torchvision": torchvision_sides,
    "vit-pytorch": vit_pytorch_sides,
}


def _foreign_state_dict(
    layout: str, config: ViTConfig, ours: VisionModel
) -> dict[str, Tensor]:
    chosen = available_layouts()[layout]
    if reason := chosen.unsupported_reason(config):
        raise PeerUnavailable(f"cannot hold this model, because {reason}")
    return to_foreign_tensors(chosen, config, ours.state_dict())
