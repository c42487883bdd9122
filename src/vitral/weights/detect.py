"""Resolve a path or a name, open its weights and detect their layout."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitral.errors import ConfigError, WeightsError
from vitral.json_file import read_object
from vitral.layers import Grid
from vitral.weights import file_metadata, zoo
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import open_file
from vitral.weights.layouts import (
    Layout,
    available_layouts,
    unknown_family,
    with_assumptions,
    with_unique_names,
)
from vitral.weights.wrappers import unwrap

logger = logging.getLogger(__name__)
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
FILES, (CONFIG, PROCESSOR) = (*zoo.TENSORS, *OPEN_CLIP), zoo.SETTINGS


def detect_layout(opened: LayoutInput) -> Layout:
    """Return the layout of a file."""
    layout = _find_layout(opened)
    if layout is not None:
        return layout
    raise unknown_family(opened)


def read_layout(layout: Layout, opened: LayoutInput) -> WeightsSource:
    """Describe a file by its layout.

    Raises:
        WeightsError: the file is refused, or its settings contradict each other.
    """
    try:
        source = layout.read(opened)
    except ConfigError as error:
        # Heads and grid may be the caller's; other settings are the file's.
        is_native = layout is available_layouts()["native"]
        if is_native or opened.num_heads is not None or opened.grid is not None:
            raise
        raise WeightsError(
            f"{opened.path}, or a JSON file beside it, has settings that no model has: "
            f"{error} Take the files that belong together; nothing was loaded."
        ) from error
    return with_assumptions(layout, opened, with_unique_names(source))


def _find_layout(opened: LayoutInput) -> Layout | None:
    layouts = available_layouts()
    # A native folder has timm's names, so that no other layout may claim it.
    if layouts["native"].detect(opened):
        return layouts["native"]
    return next((it for it in layouts.values() if it.detect(opened)), None)


def resolve_path(path: str | Path) -> Path:
    """Return the file or folder that a path, a name or a hub id means.

    A path comes before a name; weights that are not in the cache are fetched.
    """
    text, expanded = str(path), Path(path).expanduser()
    if expanded.exists():
        if text in zoo.records():
            logger.warning(
                "%s: the path of that name is taken, not the named weights; "
                "`timm/%s` means those",
                text,
                zoo.records()[text].timm,
            )
        inside = expanded / "model"
        found = expanded if _tensor_files(expanded) else inside
        return found if _tensor_files(found) else expanded
    if (fetched := zoo.resolve(text)) is not None:
        return fetched
    near = zoo.nearest(text)
    hint = f" Names like it are {', '.join(near)}." if near else ""
    raise WeightsError(
        f"No weights at {expanded}: give a weights file (.safetensors, .npz, .pth), a "
        "model folder that has model.safetensors, a name that `vitral weights list` "
        f"has, or a hub id such as owner/name.{hint}"
    )


def open_weights(
    path: Path, *, grid: Grid | None = None, num_heads: int | None = None
) -> LayoutInput:
    """Open the tensors at `path`, without the wrapping of a training program."""
    file = path
    if path.is_dir():
        candidates = _tensor_files(path)
        if not candidates:
            raise WeightsError(
                f"No weights at {path}: the folder has none of {', '.join(FILES)}."
            )
        file = candidates[0]
    tensors = open_file(file)
    beside = file.name in FILES
    opened = LayoutInput(
        file=tensors,
        config_json=_read_json(file.with_name(CONFIG)) if beside else {},
        processor_json=_read_json(file.with_name(PROCESSOR)) if beside else {},
        grid=grid or file_metadata.read_grid(tensors),
        num_heads=num_heads or file_metadata.read_count(tensors, file_metadata.HEADS),
    )
    own = file_metadata.read_count(tensors, file_metadata.HEADS)
    if own and num_heads not in (None, own):
        raise ConfigError(
            f"`num_heads={num_heads}` is not that of {file}, whose metadata says "
            f"{own}. Leave it out."
        )
    return unwrap(opened, lambda it: _find_layout(it) is not None)


def _tensor_files(folder: Path) -> list[Path]:
    return [folder / name for name in FILES if (folder / name).is_file()]


def _read_json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    return read_object(file, WeightsError, "Take the file that the weights came with.")
