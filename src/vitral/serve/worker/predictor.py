"""Predictions of the worker process: answers, maps, embeddings, raw outputs.

Images come decoded and preprocessed, from the decoders (`decoder.py`).
"""

import contextlib
import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vitral.errors import WeightsError
from vitral.inspection import grad_cam, has_attention, rollout
from vitral.models import MergeSchedule
from vitral.serve.worker.decoded_image import DecodedInput
from vitral.serve.worker.description import (
    DRAWN,
    describe_display,
    describe_task,
    suffixes_by_type,
)
from vitral.tasks import Answer
from vitral.weights import ExportedModel
from vitral.workflows import Run, open_run

ROW = "application/json"
"""Media type of an answer that is no file."""
_MAP_DIGITS = 6
"""Decimal places of a map's values."""
_JPEG_QUALITY = 90


class Predictor:
    """A model that predicts batches of images, with an error per image."""

    def __init__(
        self,
        path: str,
        *,
        merge: int | None,
        merge_schedule: MergeSchedule | None,
    ) -> None:
        """Open the model; `warm_up` runs its self-test.

        Raises:
            WeightsError: it is missing or corrupt, or changed while it was read.
            ConfigError: it has no head, takes clips, or cannot merge as requested.
        """
        before = _file_states(path)
        self.run = _open_image_run(path, merge, merge_schedule)
        self.presentation = self.run.task.present(self.run.labels, self.run.metadata)
        self._suffixes = suffixes_by_type(self.presentation)
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
            "image_size": list(self.run.preprocess.image_size),
            "task": self.run.task.name,
            **{name: fact.value for name, fact in self.presentation.facts.items()},
            "display": describe_display(
                self.run.task, self.run.labels, self.presentation
            ),
            "maps": self.missing_features_reason() == "",
        }

    def describe_task(self) -> dict[str, Any]:
        """Return what /openapi.json says about the task."""
        return describe_task(self.presentation)

    def describe_input(self) -> dict[str, Any]:
        """Return what decoders need: preprocessing, shape, media types of pictures."""
        preprocess = self.run.preprocess
        drawn = [kind for kind, name in self._suffixes.items() if name == DRAWN]
        return {
            "preprocess": preprocess.to_dict(),
            "shape": [preprocess.channels, *preprocess.image_size],
            "drawn": drawn,
        }

    def missing_features_reason(self) -> str:
        """Return why the model gives no map or embedding; empty if it does."""
        if not isinstance(self.model, ExportedModel):
            return ""
        return (
            "The server runs an exported model, which holds the way from pixels to "
            f"{self.presentation.outputs_name} and nothing between: serve the run "
            "itself for heat maps and embeddings, or ask without `map` and "
            "`embedding`."
        )

    def warm_up(self, batch: int) -> None:
        """Run the self-test: one pass of a full batch and one of a single image."""
        preprocess = self.run.preprocess
        shape = (preprocess.channels, *preprocess.image_size)
        grey = preprocess.normalize(torch.full(shape, 127.0))
        for batch_size in {1, batch}:
            outputs = self.run.predict_outputs(
                grey.expand(batch_size, -1, -1, -1).contiguous()
            )
        if not torch.isfinite(outputs).all():
            name = self.presentation.outputs_name
            raise WeightsError(
                f"The model in {self.run.path} gives {name} that are not finite for a "
                "grey image: its weights are damaged. Export or train it again."
            )

    def predict(self, images: Sequence[DecodedInput]) -> list[dict[str, Any]]:
        """Return a row per image: its answer, or `refused`: status, code, message."""
        missing = self.missing_features_reason()
        refused = [
            bool(missing and (image.wants.get("map") or image.wants.get("embedding")))
            for image in images
        ]
        kept = [
            image for image, is_out in zip(images, refused, strict=True) if not is_out
        ]
        rows = iter(self._answer(kept) if kept else ())
        return [
            {"refused": [422, "no_features", missing]} if is_out else next(rows)
            for is_out in refused
        ]

    def _answer(self, images: Sequence[DecodedInput]) -> list[dict[str, Any]]:
        pixels = torch.stack([image.pixels for image in images])
        outputs = self.run.predict_outputs(pixels)
        sizes = tuple(image.size for image in images)
        # A request asks for its own number of names, but the last bits of a row depend
        # on its batch: all rows are decoded for each number.
        answers = {
            top: self.run.decode(outputs, top=top, sizes=sizes)
            for top in {image.wants["top"] for image in images}
        }
        embedded = [i for i, image in enumerate(images) if image.wants.get("embedding")]
        embeddings = iter(self._embed(pixels[embedded]) if embedded else ())
        rows = []
        for index, image in enumerate(images):
            answer = answers[image.wants["top"]][index]
            row = answer.row() | {
                "notes": list(image.notes),
                # Not by the server: a reload may have replaced the model since.
                "model": {"name": self.name, "hash": self.hash},
            }
            if image.wants.get("outputs"):
                row[self.presentation.outputs_name] = outputs[index].tolist()
            if image.wants.get("embedding"):
                row["embedding"] = next(embeddings).tolist()
            if image.wants.get("map"):
                row["map"] = self._compute_map(image, answer.explained_output)
            rows.append(row | self._make_file(image, answer))
        return rows

    def _make_file(self, image: DecodedInput, answer: Answer) -> dict[str, Any]:
        """Return `file`, the content of the media type asked for; else `refused`."""
        media_type = image.wants.get("media_type", ROW)
        if media_type == ROW:
            return {}
        if image.picture is not None:
            return {"file": _to_jpeg(answer.draw(image.picture))}
        suffix = self._suffixes.get(media_type)
        content = None if suffix is None else answer.files().get(suffix)
        if content is not None:
            return {"file": content}
        reason = f"The answer for this image has no {media_type}: ask for {ROW}."
        return {"refused": [406, "not_acceptable", reason]}

    @torch.no_grad()
    def _embed(self, pixels: Tensor) -> Tensor:
        return self.model.forward_pool(self.model.forward_features(pixels)).float()

    def _compute_map(self, image: DecodedInput, output: int) -> dict[str, Any]:
        # One image at a time: the attention of a whole batch is large.
        pixels = image.pixels[None]
        with_attention = has_attention(self.model)
        if with_attention:
            table = rollout(self.model, pixels)[0]
        else:
            table = grad_cam(self.model, pixels, torch.tensor([output]))[0]
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


def _to_jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()


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
    if isinstance(row, list | tuple):
        return all(map(is_finite, row))
    return not isinstance(row, float) or math.isfinite(row)
