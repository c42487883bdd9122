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

from vitral.data.images import Size, decode
from vitral.errors import ImageError, WeightsError
from vitral.inspection import grad_cam, has_attention, rollout
from vitral.models import MergeSchedule
from vitral.weights import ExportedModel
from vitral.workflows import Run, open_run

_MAP_DIGITS = 6
"""Decimal places of a map's values."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One decoded and preprocessed image."""

    pixels: Tensor
    size: Size
    """Of the file."""
    notes: tuple[str, ...]
    wants: dict[str, Any]


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
            "task": self.run.task.name,
            **self.run.labels.extra(),
            **self._fitted(),
            "maps": self.missing_features_reason() == "",
        }

    def _fitted(self) -> dict[str, Any]:
        run = self.run
        return {k: run.stored.get(k, v) for k, v in run.task.stored_keys.items()}

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
        """Run the self-test: one pass of a full batch and one of a single image."""
        height, width = self.run.preprocess.image_size
        grey = self.run.preprocess.normalize(torch.full((3, height, width), 127.0))
        for batch_size in {1, batch}:
            logits = self.run.predict_outputs(
                grey.expand(batch_size, -1, -1, -1).contiguous()
            )
        if not torch.isfinite(logits).all():
            raise WeightsError(
                f"The model in {self.run.path} gives logits that are not finite for a "
                "grey image: its weights are damaged. Export or train it again."
            )

    def predict(
        self, contents: Sequence[bytes], wants: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return a row per file: its answer, or `refused`: status, code, message."""
        decode_each = map if len(contents) == 1 else self._decoders.map
        decoded = list(decode_each(self._decode, contents, wants))
        images = [image for image in decoded if isinstance(image, PreparedImage)]
        rows = iter(self._answer(images) if images else ())
        return [
            next(rows) if isinstance(item, PreparedImage) else {"refused": item}
            for item in decoded
        ]

    def _decode(
        self, content: bytes, wants: dict[str, Any]
    ) -> PreparedImage | list[Any]:
        """Return the image, or status, code and message of its error."""
        missing = self.missing_features_reason()
        if missing and (wants.get("map") or wants.get("embedding")):
            return [422, "no_features", missing]
        try:
            decoded = decode(content, self.max_pixels)
            pixels = self.run.preprocess_input(decoded.image)
        except ImageError as error:
            return [
                422,
                "unreadable_image",
                f"The image cannot be read: {error}. Send a complete image of at most "
                f"{self.max_pixels:,} pixels.",
            ]
        size = Size(decoded.image.height, decoded.image.width)
        return PreparedImage(pixels, size, decoded.notes, wants)

    def _answer(self, images: Sequence[PreparedImage]) -> list[dict[str, Any]]:
        pixels = torch.stack([image.pixels for image in images])
        logits = self.run.predict_outputs(pixels)
        # A request asks for its own number of names.
        answers = [
            self.run.decode(row[None], top=image.wants["top"], sizes=(image.size,))[0]
            for row, image in zip(logits, images, strict=True)
        ]
        embedded = [i for i, image in enumerate(images) if image.wants.get("embedding")]
        embeddings = iter(self._embed(pixels[embedded]) if embedded else ())
        rows = []
        for index, image in enumerate(images):
            row = answers[index].row() | {
                "notes": list(image.notes),
                # Not by the server: a reload may have replaced the model since.
                "model": {"name": self.name, "hash": self.hash},
            }
            if image.wants.get("logits"):
                row["logits"] = logits[index].tolist()
            if image.wants.get("embedding"):
                row["embedding"] = next(embeddings).tolist()
            if image.wants.get("map"):
                row["map"] = self._compute_map(image, answers[index].explained_output)
            rows.append(row)
        return rows

    @torch.no_grad()
    def _embed(self, pixels: Tensor) -> Tensor:
        return self.model.forward_pool(self.model.forward_features(pixels)).float()

    def _compute_map(self, image: PreparedImage, label: int) -> dict[str, Any]:
        # One image at a time: the attention of a whole batch is large.
        pixels = image.pixels[None]
        with_attention = has_attention(self.model)
        if with_attention:
            table = rollout(self.model, pixels)[0]
        else:
            table = grad_cam(self.model, pixels, torch.tensor([label]))[0]
        seen = self.run.preprocess.geometry(image.size).visible_box()
        return {
            "method": "rollout" if with_attention else "grad_cam",
            "rows": table.shape[0],
            "columns": table.shape[1],
            "values": [
                [round(float(value), _MAP_DIGITS) for value in row] for row in table
            ],
            "box": [round(edge, _MAP_DIGITS) for edge in seen],
        }


def _open_image_run(
    path: str, merge: int | None, merge_schedule: MergeSchedule | None
) -> Run:
    run = open_run(path, merge, merge_schedule)
    run.require_head()
    run.preprocess.require_images(
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


def is_finite(row: Any) -> bool:
    """Return whether JSON can represent an answer."""
    if isinstance(row, dict):
        return all(map(is_finite, row.values()))
    return not isinstance(row, float) or math.isfinite(row)
