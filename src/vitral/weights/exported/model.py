"""Exported graph as a VisionModel that only gives logits."""

from abc import ABC, abstractmethod
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers.patch import patch_grid
from vitral.models import ModelConfig, VisionModel
from vitral.models.base import require_input


class ExportedGraph(ABC):
    """A loaded file of one runtime; `prepare` comes before any logits."""

    backend: str

    @abstractmethod
    def text(self, key: str) -> str:
        """Return the file's metadata under `key`; empty for nothing."""

    @abstractmethod
    def prepare(self, precision: str) -> None:
        """Compile the graph, to compute in `precision`."""

    @abstractmethod
    def logits(self, image: np.ndarray) -> np.ndarray:
        """Return logits of pre-processed images or clips in float32."""

    @abstractmethod
    def logits_from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return logits of uint8 pixels [batch, height, width, 3]."""


class ExportedModel(VisionModel):
    """An exported graph; `model(images)` gives logits, on the CPU and without gradient.

    Raises:
        ConfigError: in any call that needs more than logits.
    """

    fixed = True

    def __init__(
        self,
        config: ModelConfig,
        graph: ExportedGraph,
        *,
        precision: str = "fp32",
        image_size: tuple[int, int] | None = None,
        with_preprocess: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.backend = graph.backend
        self.image_size = image_size
        self.with_preprocess = with_preprocess
        self._graph = graph
        self.head = nn.Identity()
        # Callers take the device of the images from the first parameter.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self.eval()

    def forward(
        self,
        image: Float[Tensor, "batch *frames channels height width"],
        patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        if patch_mask is not None:
            self._refuse("masks patches")
        require_input(self.config, image)
        self._require_size((image.shape[-2], image.shape[-1]))
        pixels = image.detach().to("cpu", torch.float32).contiguous().numpy()
        return torch.from_numpy(self._graph.logits(pixels)).to(image.device)

    def from_pixels(
        self, pixels: UInt8[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch classes"]:
        """Return logits of images of any size, pre-processed inside the graph."""
        if not self.with_preprocess:
            raise ConfigError(
                "This model was exported without its pre-processing and takes no "
                "pixels: pre-process the images, or export with `with_preprocess=True`."
            )
        return torch.from_numpy(
            self._graph.logits_from_pixels(pixels.contiguous().numpy())
        )

    def _require_size(self, size: tuple[int, int]) -> None:
        if self.image_size is not None and size != self.image_size:
            raise ConfigError(
                f"This model was exported for images of {self.image_size[0]} x "
                f"{self.image_size[1]} pixels alone: got {size[0]} x {size[1]}. "
                "Resize them, or export with `static=False`."
            )
        patch = getattr(self.config, "patch_hw", None)
        if patch is not None:
            patch_grid(size, patch)

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"An exported model gives logits only, and this call {what}: use the run "
            "that it was exported from."
        )

    def embed(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the graph has no parts."""
        self._refuse("needs features")

    forward_blocks = forward_norm = forward_pool = embed

    def reset_head(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the graph is not trainable."""
        self._refuse("changes the head")

    def freeze(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the graph is not trainable."""
        self._refuse("trains")

    layer_index = freeze
