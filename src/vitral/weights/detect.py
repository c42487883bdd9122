"""Resolve a path or a hub id, open its weights and detect their layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitral.errors import WeightsError
from vitral.layers import Grid
from vitral.weights import file_metadata, hub
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import TensorFile, open_file, with_names
from vitral.weights.layouts import Layout, available_layouts

FILES, (CONFIG, PROCESSOR) = hub.TENSORS, hub.CONFIG_FILES
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state",
    "model",
    "module",
)
"""Keys under which training programs store a state dict, the preferred first."""


def detect_layout(opened: LayoutInput) -> Layout:
    """Return the layout of a file."""
    layouts = available_layouts()
    # A native folder has timm's names, so that no other layout may claim it.
    if layouts["native"].detect(opened):
        return layouts["native"]
    for layout in layouts.values():
        if layout.detect(opened):
            return layout
    titles = ", ".join(layout.title for layout in layouts.values())
    raise WeightsError(
        f"{opened.path} is in no layout that vitral reads ({titles}). Its first "
        f"tensors are {opened.first_names()}."
    )


def resolve_path(path: str | Path) -> Path:
    """Return the file or folder that a path or hub id means."""
    expanded = Path(path).expanduser()
    if expanded.exists():
        inside = expanded / "model"
        return (
            expanded if _tensor_files(expanded) or not _tensor_files(inside) else inside
        )
    if hub.is_id(str(path)):
        return hub.fetch(str(path))
    raise WeightsError(
        f"No weights at {expanded}: give a weights file (.safetensors, .npz, .pth), a "
        "model folder that has model.safetensors, or a hub id such as owner/name."
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
                f"No weights at {path}: the folder has neither {' nor '.join(FILES)}."
            )
        file = candidates[0]
    notes: list[str] = []
    tensors = unwrap_state_dict(open_file(file), notes)
    beside = file.name in FILES
    return LayoutInput(
        file=tensors,
        config_json=_read_json(file.with_name(CONFIG)) if beside else {},
        processor_json=_read_json(file.with_name(PROCESSOR)) if beside else {},
        grid=grid or file_metadata.read_grid(tensors),
        num_heads=num_heads or file_metadata.read_count(tensors, file_metadata.HEADS),
        notes=notes,
    )


def unwrap_state_dict(file: TensorFile, notes: list[str]) -> TensorFile:
    """Return the model's tensors alone, where a file stores them under a key."""
    names = file.names()
    for wrapper in WRAPPERS:
        inside = [name for name in names if name.startswith(f"{wrapper}/")]
        if inside:
            chosen = {name.removeprefix(f"{wrapper}/"): name for name in inside}
            notes.append(f"the tensors under `{wrapper}` of a training checkpoint")
            file, names = with_names(file, chosen), list(chosen)
            break
    for prefix in ("module.", "_orig_mod."):
        if names and all(name.startswith(prefix) for name in names):
            file = with_names(file, {name.removeprefix(prefix): name for name in names})
            names = file.names()
    return file


def _tensor_files(folder: Path) -> list[Path]:
    return [folder / name for name in FILES if (folder / name).is_file()]


def _read_json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not readable JSON: {error}.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} must hold a JSON object.")
    return value
