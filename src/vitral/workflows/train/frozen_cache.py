"""Training on the output of a frozen prefix, computed once per image and view.

An image has a finite number of views, so the output is a table. The tail of the model,
trained on that table, gets the same gradients as the whole model would.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitral.atomic_io import write_json
from vitral.data import Batch, Example, Failure, Loader
from vitral.errors import ConfigError, DataError, WeightsError
from vitral.models import Tokens, VisionModel, without_merging
from vitral.workflows.run_lock import DISK_FULL_ERRNOS

TOKENS_FILE, MANIFEST_FILE = "tokens.bin", "tokens.json"


class TrainableHead(nn.Module):
    """The part of a model behind its frozen prefix: cached tokens to logits."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__()
        self.model = model
        self.template = frozen_output_spec(model)
        self.probe = is_linear_probe(model)

    def forward(
        self, table: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch classes"]:
        first = self.model.num_frozen_blocks
        assert first is not None
        if self.probe:
            return self.model.head(table[:, 0])
        return self.model.forward_tokens(unflatten_tokens(table, self.template), first)


def frozen_output_spec(model: VisionModel) -> Tokens:
    """Run the frozen prefix on an image of zeros; return its output, for the shapes."""
    with torch.no_grad(), without_merging(model):
        tokens = model.embed(_make_dummy_input(model))
        return model.forward_blocks(tokens, 0, model.num_frozen_blocks or 0)


def flatten_tokens(tokens: Tokens) -> Float[Tensor, "batch tokens dim"]:
    """Return all that the next block needs as one table.

    The words of a patch, if any, follow its token; other tokens get zeros.
    """
    if tokens.words is None:
        return tokens.x
    words = tokens.words.flatten(2)
    prefix = tokens.x.shape[1] - words.shape[1]
    return torch.cat([tokens.x, F.pad(words, (0, 0, prefix, 0))], dim=2)


def unflatten_tokens(
    table: Float[Tensor, "batch tokens dim"], template: Tokens
) -> Tokens:
    """Return the tokens of a table; `template` has their shapes."""
    if template.words is None:
        return Tokens(table, template.rows, template.columns)
    _, patches, *word = template.words.shape
    width = template.x.shape[2]
    words = table[:, table.shape[1] - patches :, width:].unflatten(2, word)
    return Tokens(table[:, :, :width], template.rows, template.columns, words=words)


def _make_dummy_input(model: VisionModel) -> Tensor:
    like = next(model.parameters())
    return like.new_zeros(1, *model.config.input_shape)


def is_linear_probe(model: VisionModel) -> bool:
    """Return whether only the head learns: one pooled vector an image is enough."""
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    return all(name.startswith("head.") for name in learns)


def frozen_output(
    model: VisionModel, image: Float[Tensor, "batch *frames channels height width"]
) -> Float[Tensor, "batch tokens dim"]:
    """Compute the input of the trainable part of `model`."""
    first = model.num_frozen_blocks
    assert first is not None
    with without_merging(model):  # as in training, whatever mode the model is in
        tokens = model.forward_blocks(model.embed(image), 0, first)
        if is_linear_probe(model):
            return model.forward_pool(model.forward_norm(tokens))[:, None]
        return flatten_tokens(tokens)


@dataclass(kw_only=True)
class CachedLoader:
    """The batches of a Loader, with cached outputs in the place of images."""

    loader: Loader
    table: np.ndarray
    """[views, examples, tokens, dim], mapped from the disk."""
    bf16: bool

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def examples(self) -> tuple[Example, ...]:
        return self.loader.examples

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Return nothing: an image that cannot be decoded ends the caching."""
        return ()

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from batch `start` on; see `Loader`."""
        for _, batch in self.enumerate_batches(number, start):
            yield batch

    def enumerate_batches(
        self, epoch: int, start: int = 0, stride: int = 1
    ) -> Iterator[tuple[int, Batch]]:
        """Yield batches `start`, `start + stride`, ... with their index."""
        shown, size = self.loader.epoch_samples(epoch), self.loader.batch_size
        dataset = self.loader.dataset
        examples = self.loader.examples
        for index in range(start, len(self), stride):
            images = shown[index * size : (index + 1) * size]
            chosen = [examples[image.example_index] for image in images]
            rows = [
                self.table[image.draw % len(self.table), image.example_index]
                for image in images
            ]
            tokens = torch.from_numpy(np.stack(rows))
            values = [dataset.targets.read(example) for example in chosen]
            batch = Batch(
                image=tokens.view(torch.bfloat16).float() if self.bf16 else tokens,
                target=dataset.targets.stack(dataset.classes, chosen, values),
                id=tuple(example.id for example in chosen),
            )
            yield index, batch


def cache_frozen_outputs(
    loader: Loader,
    model: VisionModel,
    folder: Path,
    *,
    key: str,
    views: int,
    device: torch.device,
    bf16: bool,
) -> CachedLoader:
    """Compute the outputs of `loader`'s images, or map those that are already there.

    Args:
        folder: gets one file of views x examples x tokens x dim numbers.
        key: what the outputs depend on apart from the weights.
        bf16: compute in bfloat16 and keep it so, at half the size.

    Raises:
        ConfigError: the targets move with the picture.
        DataError: an image cannot be decoded.
        WeightsError: the disk has no room for them.
    """
    if loader.dataset.targets.moves:
        raise ConfigError(
            "The outputs of the frozen blocks are kept without the crop and the flip "
            "of each view, and the targets of this data set move with them: leave "
            "`cache` out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST_FILE
    shape = _shape(loader, model, views)
    key = f"{key} {_hash_weights(model)}"
    wanted = {"key": key, "shape": list(shape), "bf16": bf16}
    kind = np.int16 if bf16 else np.float32
    if not manifest.is_file() or json.loads(manifest.read_text()) != wanted:
        manifest.unlink(missing_ok=True)
        once = replace(loader, repeats=1)
        size = math.prod(shape) * kind().itemsize
        with _reserve_file(folder / TOKENS_FILE, size) as file:
            for view in range(views):
                _fill(
                    file,
                    view * shape[1],
                    once,
                    model,
                    view=view,
                    device=device,
                    bf16=bf16,
                )
        write_json(manifest, wanted)
    table = np.memmap(folder / TOKENS_FILE, dtype=kind, mode="r", shape=shape)
    return CachedLoader(loader=loader, table=table, bf16=bf16)


@contextmanager
def _reserve_file(path: Path, size: int) -> Iterator[BinaryIO]:
    """Open a new file of `size` bytes, flushed at the end; removed where that fails.

    The room is asked for before hours of computing, and the content goes through
    ordinary writes: a page of a mapped file that finds no room kills the process.
    """
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        free = shutil.disk_usage(path.parent).free
        raise WeightsError(
            f"The outputs of the frozen blocks need {size:,} bytes in {path.parent}, "
            f"where {free:,} are free ({error.strerror}). Free space, give fewer "
            "`views`, or leave `cache` out; then run the same command with "
            "--resume."
        ) from error


def _hash_weights(model: VisionModel) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _fill(
    file: BinaryIO,
    first_row: int,
    loader: Loader,
    model: VisionModel,
    *,
    view: int,
    device: torch.device,
    bf16: bool,
) -> None:
    model.eval()
    rows = {example.id: i for i, example in enumerate(loader.examples, first_row)}
    filled = 0
    for batch in loader.epoch(view):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            tokens = frozen_output(model, batch.image.to(device)).float().cpu()
        values = tokens.bfloat16().view(torch.int16) if bf16 else tokens
        for name, row in zip(batch.id, values.numpy(), strict=True):
            file.seek(rows[name] * row.nbytes)
            file.write(row.tobytes())
        filled += len(batch.id)
    if filled != len(rows):
        first = loader.failures[0]
        raise DataError(
            f"{len(rows) - filled} images could not be decoded while their outputs "
            f"were computed, first {first.id}: {first.reason}. Run `vitral data check` "
            "and remove them from the split."
        )


def _shape(loader: Loader, model: VisionModel, views: int) -> tuple[int, int, int, int]:
    with torch.no_grad():
        output = frozen_output(model, _make_dummy_input(model))
    return (views, len(loader.examples), output.shape[1], output.shape[2])
