"""Predictions of the worker process: labels, maps, embeddings, logits."""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitral.data import Preprocess
from vitral.data.images import Size, decode
from vitral.errors import ConfigError, ImageError, WeightsError
from vitral.evaluation import softmax
from vitral.inspection import grad_cam, rollout
from vitral.layers import Attention
from vitral.models import MergeSchedule
from vitral.weights import ExportedModel
from vitral.workflows import Run, open_run
from vitral.workflows.inference import predict_logits

_MAP_DIGITS = 6
"""Decimal places of a map's values."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """HTTP error of one image."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One decoded and preprocessed image."""

    pixels: Tensor
    size: Size
    notes: tuple[str, ...]


class Predictor:
    """A model that predicts batches of encoded images, with an error per image."""

    def __init__(
        self,
        path: str,
        *,
        merge: int | None,
        merge_schedule: MergeSchedule | None,
        max_pixels: int,
        threads: int,
    ) -> None:
        """Open the model; `warm_up` runs its self-test.

        Raises:
            WeightsError: it is missing or corrupt, or changed while it was read.
            ConfigError: it has no head, takes clips, or cannot merge as requested.
        """
        before = _file_states(path)
        self.run = _open_image_run(path, merge, merge_schedule)
        self.max_pixels = max_pixels
        self._decoders = ThreadPoolExecutor(max(1, threads))
        self.model = self.run.model.eval()
        _copy_weights(self.model)
        self.name, self.hash = Path(path).absolute().name, _hash(path)
        if _file_states(path) != before:
            raise WeightsError(
                f"The files of {path} changed while they were read, so that they may "
                "not belong together. Try again when they are complete."
            )

    def describe(self) -> dict[str, Any]:
        """Return what /model answers about the model."""
        return {
            "model": self.name,
            "hash": self.hash,
            "classes": list(self.run.classes),
            "image_size": list(self.run.preprocess.image_size),
            "multi_label": self.run.multi_label,
            "temperature": self.run.temperature,
            "maps": self.missing_features_reason() == "",
        }

    def missing_features_reason(self) -> str:
        """Return why the model gives no map or embedding; empty if it does."""
        if not isinstance(self.model, ExportedModel):
            return ""
        return (
            "The server runs an exported model, which holds the way from pixels to "
            "logits and nothing between: serve the run itself for heat maps and "
            "embeddings, or ask without `map` and `embedding`."
        )

    def warm_up(self, batch: int) -> None:
        """Run the self-test: one pass of a full batch and one of a single image.

        Raises:
            WeightsError: the logits of a grey image are not finite.
        """
        height, width = self.run.preprocess.image_size
        grey = self.run.preprocess.normalize(torch.full((3, height, width), 127.0))
        for batch_size in {1, batch}:
            logits = self._logits(grey.expand(batch_size, -1, -1, -1).contiguous())
        if not torch.isfinite(logits).all():
            raise WeightsError(
                f"The model in {self.run.path} gives logits that are not finite for a "
                "grey image: its weights are damaged. Export or train it again."
            )

    def predict(
        self, contents: Sequence[bytes], wants: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return a row per file: its answer, or `refused`: status, code, message."""
        rows: list[dict[str, Any]] = [{} for _ in contents]
        images: dict[int, PreparedImage] = {}
        for index, image in enumerate(self._decode_all(contents, wants)):
            if isinstance(image, Rejection):
                rows[index] = {"refused": [image.status, image.code, image.message]}
            else:
                images[index] = image
        if not images:
            return rows
        pixels = torch.stack([image.pixels for image in images.values()])
        logits = self._logits(pixels)
        chosen = {index: row for row, index in enumerate(images)}
        for index, image in images.items():
            rows[index] = self._build_row(logits[chosen[index]], wants[index])
            rows[index]["notes"] = list(image.notes)
            # Set here, not by the server: a reload may have replaced the model since.
            rows[index]["model"] = {"name": self.name, "hash": self.hash}
        self._add_embeddings(rows, chosen, wants, pixels)
        self._add_maps(rows, chosen, wants, pixels)
        for index, image in images.items():
            if "map" in rows[index]:
                rows[index]["map"]["box"] = visible_box(self.run.preprocess, image.size)
        return rows

    def _decode_all(
        self, contents: Sequence[bytes], wants: Sequence[dict[str, Any]]
    ) -> list[PreparedImage | Rejection]:
        if len(contents) == 1:
            return [self._decode(contents[0], wants[0])]
        return list(self._decoders.map(self._decode, contents, wants))

    def _decode(
        self, content: bytes, wants: dict[str, Any]
    ) -> PreparedImage | Rejection:
        missing = self.missing_features_reason()
        if missing and (wants.get("map") or wants.get("embedding")):
            return Rejection(422, "no_features", missing)
        try:
            decoded = decode(content, self.max_pixels)
            pixels = self.run.preprocess_input(decoded.image)
        except ImageError as error:
            return Rejection(
                422,
                "unreadable_image",
                f"The image cannot be read: {error}. Send a complete image of at most "
                f"{self.max_pixels:,} pixels.",
            )
        size = Size(decoded.image.height, decoded.image.width)
        return PreparedImage(pixels, size, decoded.notes)

    def _logits(self, pixels: Tensor) -> Tensor:
        return predict_logits(
            self.model,
            pixels,
            views=self.run.extra.get("eval_views", "one"),
            bf16=self.run.extra.get("precision") == "bf16",
            multi_label=self.run.multi_label,
        )

    def _build_row(self, logits: Tensor, wants: dict[str, Any]) -> dict[str, Any]:
        names = self.run.classes or tuple(str(i) for i in range(len(logits)))
        if self.run.multi_label:
            shares = logits.sigmoid().numpy()
        else:
            shares = softmax(logits[None].numpy() / self.run.temperature)[0]
        order = (-shares).argsort(kind="stable")
        best = int(order[0])
        label = names[best]
        if self.run.multi_label:
            label = ";".join(n for n, p in zip(names, shares, strict=True) if p >= 0.5)
        row: dict[str, Any] = {
            "label": label,
            "confidence": float(shares[best]),
            "probabilities": {
                names[i]: float(shares[i]) for i in order[: wants["top"]]
            },
        }
        if wants.get("logits"):
            row["logits"] = [float(value) for value in logits]
        return row

    def _add_embeddings(
        self,
        rows: list[dict[str, Any]],
        chosen: dict[int, int],
        wants: Sequence[dict[str, Any]],
        pixels: Tensor,
    ) -> None:
        requested = [index for index in chosen if wants[index].get("embedding")]
        if not requested:
            return
        with torch.no_grad():
            batch = pixels[[chosen[index] for index in requested]]
            pooled = self.model.forward_pool(self.model.forward_features(batch))
        for index, vector in zip(requested, pooled.float(), strict=True):
            rows[index]["embedding"] = [float(value) for value in vector]

    def _add_maps(
        self,
        rows: list[dict[str, Any]],
        chosen: dict[int, int],
        wants: Sequence[dict[str, Any]],
        pixels: Tensor,
    ) -> None:
        requested = [index for index in chosen if wants[index].get("map")]
        names = list(self.run.classes)
        has_attention = any(isinstance(m, Attention) for m in self.model.modules())
        # One at a time: the attention of a whole batch is large.
        for index in requested:
            image = pixels[chosen[index]][None]
            if has_attention:
                table = rollout(self.model, image)[0]
            else:
                first = next(iter(rows[index]["probabilities"]))
                best = names.index(first) if names else int(first)
                table = grad_cam(self.model, image, torch.tensor([best]))[0]
            rows[index]["map"] = {
                "method": "rollout" if has_attention else "grad_cam",
                "rows": table.shape[0],
                "columns": table.shape[1],
                "values": [
                    [round(float(value), _MAP_DIGITS) for value in row] for row in table
                ],
            }


def visible_box(preprocess: Preprocess, size: Size) -> list[float]:
    """Return the visible part of an image: left, top, right, bottom as fractions."""
    full = preprocess.size_before_crop(size)
    height, width = preprocess.image_size
    top = round((full.height - height) / 2) / full.height
    left = round((full.width - width) / 2) / full.width
    right, bottom = left + width / full.width, top + height / full.height
    return [round(edge, _MAP_DIGITS) for edge in (left, top, right, bottom)]


def _open_image_run(
    path: str, merge: int | None, merge_schedule: MergeSchedule | None
) -> Run:
    run = open_run(path, merge, merge_schedule)
    run.require_head()
    if run.preprocess.sampling:
        raise ConfigError(
            f"The model in {path} takes clips, and the server answers for images: "
            "`vitral predict RUN CLIPS` answers for clips."
        )
    return run


def _copy_weights(model: nn.Module) -> None:
    """Copy the weights from the mapped file, so that overwriting it is harmless."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _file_states(path: str) -> list[tuple[str, int, int, int]]:
    """Return name, inode, size and modification time of a model's files."""
    location = Path(path)
    if location.is_dir():
        inner = location / "model"
        files = list((inner if inner.is_dir() else location).iterdir())
    else:
        files = [f for f in location.parent.iterdir() if f.stem == location.stem]
    states = []
    for file in sorted(files):
        # A file deleted meanwhile shows by its absence.
        with contextlib.suppress(OSError):
            stat = file.stat()
            if file.is_file():
                times = stat.st_mtime_ns
                states.append((file.name, stat.st_ino, stat.st_size, times))
    return states


def _hash(path: str) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of the weight files' content."""
    location = Path(path)
    paths = [location / "model" / "model.safetensors", location / "model.safetensors"]
    files = [file for file in paths if file.is_file()][:1]
    if not files:
        folder = location if location.is_dir() else location.parent
        is_openvino = location.suffix != ".onnx"
        files = sorted(folder.glob("*.bin")) if is_openvino else [location]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:12]


def is_finite(row: dict[str, Any]) -> bool:
    """Return whether JSON can represent an answer."""
    return all(map(math.isfinite, row.get("probabilities", {}).values()))
