"""`Record`: what is known of named weights before a byte of them is here."""

from dataclasses import dataclass, replace
from typing import Any

from vitral.data import Preprocess
from vitral.weights.numerics import HALF, IMAGENET_MEAN, IMAGENET_STD

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": (HALF, HALF),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "kinetics": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
"""Mean and deviation of the pixels by the table's word."""
NOT_COMMERCIAL = ("cc-by-nc-4.0",)
"""Licences that exclude commercial use."""
PICKLES = (".bin", ".pth", ".pt", ".tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Named weights: one row of `table.csv`. Empty text, 0 and None: not known."""

    name: str
    """Family, size, patch and data, such as `vit_s16_in21k_in1k`."""
    timm: str = ""
    """Name and tag in timm."""
    hub: str = ""
    """Repository on the Hugging Face hub."""
    hub_file: str = ""
    """Tensors in that repository."""
    revision: str = ""
    """Commit of the repository; empty for the newest, kept from then on."""
    also: str = ""
    """Repository of other layout with the same weights."""
    official: str = ""
    """Address of the authors' file."""
    checksum: str = ""
    """`sha256:` or `md5:` with the digits, or the first, of the official file."""
    official_bytes: int = 0
    """Size of the official file."""
    official_layout: str = ""
    """Layout of the official file, as `vitral.weights.available_layouts` names it."""
    state: str = "now"
    """`now`: vitral reads it; `later`: it does not, for `reason`."""
    reason: str = ""
    """Part that the model needs and vitral lacks."""
    model: str = ""
    """Size in vitral's names, such as `vit_s16`, whose tensors these are."""
    default: bool = False
    """True for the weights that `vitral.create(model, pretrained=True)` takes."""
    params_m: float
    """Parameters in millions, with the head of the file."""
    size_mb: float
    """Size of the hub's file in MB, of 10^6 bytes."""
    image_size: int
    """Pixels of the position table."""
    run_size: int
    """Pixels that the model is run at: those of its authors."""
    patch: int = 0
    """Pixels of a patch's side; 0 for a ResNet."""
    pixels: str
    """Mean and deviation: a key of `STATISTICS`."""
    crop: float = 0.0
    """Share of the side that the crop keeps; 0 for frames of clips."""
    interpolation: str = ""
    """Filter of the resize."""
    pooling: str
    """`token`, `avg` or `map`: pooling by attention."""
    act: str = ""
    """Activation that the weights were trained with, where files and timm differ."""
    trained_on: str
    """Data and labels of the pre-training."""
    classes: int
    """Outputs of the head in the file; 0: features alone."""
    timm_top1: float = 0.0
    """ImageNet-1k top-1 in percent, as timm measured it."""
    authors_knn: float = 0.0
    """ImageNet-1k k-NN in percent, as the authors published it."""
    authors_linear: float = 0.0
    """ImageNet-1k linear probe in percent, as the authors published it."""
    other: str = ""
    """Other published results, with their source."""
    licence: str
    """Licence of the weights, in SPDX's words where it has them."""
    gated: bool = False
    """True where the owner asks for a form before the download."""
    gmacs: float
    """Multiply-accumulates in 10^9, with the products of attention."""
    gmacs_run: float
    """The same at `run_size`."""
    gmacs_size: int
    """Pixels of `gmacs`."""
    note: str = ""
    """Facts that a user of these weights should know."""

    @property
    def family(self) -> str:
        """First word of the name, such as `dinov2`."""
        return self.name.partition("_")[0]

    @property
    def task(self) -> str:
        """`classify` with a head of classes, else `features`; `video` for clips."""
        if not self.crop:
            return "video"
        return "classify" if self.classes and self.pixels != "clip" else "features"

    @property
    def published(self) -> str:
        """Best known ImageNet-1k result in percent, and who published it."""
        if self.timm_top1:
            return f"top-1 {self.timm_top1:.1f}, timm"
        if self.authors_linear:
            return f"linear {self.authors_linear:.1f}, authors"
        return ""

    @property
    def is_commercial(self) -> bool:
        """True where the licence does not exclude commercial use."""
        return self.licence not in NOT_COMMERCIAL

    @property
    def needs_consent(self) -> bool:
        """True where a user must accept the licence before a download."""
        return self.gated or not self.is_commercial

    @property
    def is_pickle(self) -> bool:
        """True where no source has the tensors in a format without code."""
        if self.hub_file:
            return self.hub_file.endswith(PICKLES)
        return self.official.endswith(PICKLES)

    def preprocess(
        self, image_size: tuple[int, int], default: Preprocess
    ) -> Preprocess:
        """Return the pre-processing of these weights.

        Args:
            image_size: height and width in pixels.
            default: fields that the record does not have, such as frames of a clip.
        """
        mean, std = STATISTICS[self.pixels]
        changes: dict[str, Any] = {"image_size": image_size, "mean": mean, "std": std}
        if self.crop:
            changes |= {"crop_fraction": self.crop}
        if self.interpolation:
            changes |= {"interpolation": self.interpolation}
        return replace(default, **changes)

    def licence_line(self) -> str:
        """Return the licence and what it excludes, in a sentence."""
        words = [f"licence of {self.name}: {self.licence}"]
        if not self.is_commercial:
            words.append("not for commercial use")
        if self.gated:
            words.append("its owner asks for a form")
        return ", ".join(words)

    def facts(self) -> dict[str, str]:
        """Return what a run keeps of the weights that it began with."""
        facts = {"name": self.name, "licence": self.licence, "hub": self.hub}
        return {key: value for key, value in facts.items() if value}
