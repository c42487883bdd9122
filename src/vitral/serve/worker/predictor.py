"""What the model process makes of a batch: labels, maps, embeddings, logits."""

import contextlib
import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
"""Digits after the point of a map's values."""


class Rejection(NamedTuple):
    """Why one image has no answer."""

    status: int
    code: str
    message: str


class PreparedImage(NamedTuple):
    """One decoded image."""

    pixels: Tensor
    size: Size
    notes: tuple[str, ...]


class Predictor:
    """A model that answers batches of files, each file for itself."""

    def __init__(
        self,
        path: str,
        *,
        merge: int | None,
        merge_schedule: MergeSchedule | None,
        max_pixels: int,
        threads: int,
    ) -> None:
        """Open the model; `warm_up` tries it.

        Raises:
            WeightsError: it is missing or corrupt, or changed while it was read.
            ConfigError: it has no head, takes clips, or cannot merge as is asked.
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
        """What a client may want to know of the model."""
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
        """Why neither a map nor an embedding can be had; empty where they can."""
        if not isinstance(self.model, ExportedModel):
            return ""
        return (
            "The server runs an exported model, which holds the way from pixels to "
            "logits and nothing between: serve the run itself for heat maps and "
            "embeddings, or ask without `map` and `embedding`."
        )

    def warm_up(self, batch: int) -> None:
        """One pass of a full batch and one of a single image.

        Raises:
            WeightsError: the logits of a grey image are not finite.
        """
        height, width = self.run.preprocess.image_size
        grey = self.run.preprocess.normalize(torch.full((3, height, width), 127.0))
        for number in {1, batch}:
            logits = self._logits(grey.expand(number, -1, -1, -1).contiguous())
        if not torch.isfinite(logits).all():
            raise WeightsError(
                f"The model in {self.run.path} gives logits that are not finite for a "
                "grey image: its weights are damaged. Export or train it again."
            )

    def predict(
        self, contents: Sequence[bytes], wants: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """A row for each file: its answer, or `refused` with a status and a reason."""
        rows: list[dict[str, Any]] = [{} for _ in contents]
        seen: list[tuple[int, PreparedImage]] = []
        for index, found in enumerate(self._decode_all(contents, wants)):
            if isinstance(found, Rejection):
                rows[index] = {"refused": list(found)}
            else:
                seen.append((index, found))
        if not seen:
            return rows
        pixels = torch.stack([one.pixels for _, one in seen])
        logits = self._logits(pixels)
        chosen = {index: row for row, (index, _) in enumerate(seen)}
        for index, one in seen:
            rows[index] = self._build_row(logits[chosen[index]], wants[index])
            rows[index]["notes"] = list(one.notes)
            # Said by the model itself: another may have taken its place since.
            rows[index]["model"] = {"name": self.name, "hash": self.hash}
        self._add_embeddings(rows, chosen, wants, pixels)
        self._add_maps(rows, chosen, wants, pixels)
        for index, one in seen:
            if "map" in rows[index]:
                rows[index]["map"]["box"] = visible_box(self.run.preprocess, one.size)
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
        asked = [index for index in chosen if wants[index].get("embedding")]
        if not asked:
            return
        with torch.no_grad():
            some = pixels[[chosen[index] for index in asked]]
            pooled = self.model.forward_pool(self.model.forward_features(some))
        for index, vector in zip(asked, pooled.float(), strict=True):
            rows[index]["embedding"] = [float(value) for value in vector]

    def _add_maps(
        self,
        rows: list[dict[str, Any]],
        chosen: dict[int, int],
        wants: Sequence[dict[str, Any]],
        pixels: Tensor,
    ) -> None:
        asked = [index for index in chosen if wants[index].get("map")]
        names = list(self.run.classes)
        attends = any(isinstance(part, Attention) for part in self.model.modules())
        # One at a time: the attention of a whole batch is large.
        for index in asked:
            image = pixels[chosen[index]][None]
            if attends:
                table = rollout(self.model, image)[0]
            else:
                first = next(iter(rows[index]["probabilities"]))
                best = names.index(first) if names else int(first)
                table = grad_cam(self.model, image, torch.tensor([best]))[0]
            rows[index]["map"] = {
                "method": "rollout" if attends else "grad_cam",
                "rows": table.shape[0],
                "columns": table.shape[1],
                "values": [
                    [round(float(value), _MAP_DIGITS) for value in row] for row in table
                ],
            }


def visible_box(preprocess: Preprocess, size: Size) -> list[float]:
    """The part of an image that the model sees: left, top, right, bottom as shares."""
    whole = preprocess.size_before_crop(size)
    height, width = preprocess.image_size
    top = round((whole.height - height) / 2) / whole.height
    left = round((whole.width - width) / 2) / whole.width
    right, bottom = left + width / whole.width, top + height / whole.height
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
    """Copy the weights from the mapped file: who writes over it, changes no answer."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _file_states(path: str) -> list[tuple[str, int, int, int]]:
    """What changes with any file of a model: its number, size and time."""
    place = Path(path)
    if place.is_dir():
        inner = place / "model"
        files = list((inner if inner.is_dir() else place).iterdir())
    else:
        files = [f for f in place.parent.iterdir() if f.stem == place.stem]
    found = []
    for file in sorted(files):
        # One that went meanwhile is seen by its absence.
        with contextlib.suppress(OSError):
            about = file.stat()
            if file.is_file():
                times = about.st_mtime_ns
                found.append((file.name, about.st_ino, about.st_size, times))
    return found


def _hash(path: str) -> str:
    """12 hexadecimal digits of the SHA-256 of the weights, names apart."""
    place = Path(path)
    inside = [place / "model" / "model.safetensors", place / "model.safetensors"]
    files = [file for file in inside if file.is_file()][:1]
    if not files:
        folder = place if place.is_dir() else place.parent
        parts = place.suffix != ".onnx"
        files = sorted(folder.glob("*.bin")) if parts else [place]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:12]


def is_finite(row: dict[str, Any]) -> bool:
    """Whether an answer can be written as JSON."""
    return all(map(math.isfinite, row.get("probabilities", {}).values()))
