"""vitral's own model folder: config.json and model.safetensors.

The tensors have timm's names and config.json has timm's fields, so that timm loads the
folder where it can express the model. The block "vitral" holds the exact settings.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

import vitral.models
from vitral import config_io
from vitral.atomic_io import make_folder, write_atomic, write_json
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.json_file import check_schema, shorten
from vitral.models import ModelConfig, VisionModel, ViTConfig
from vitral.models.bounds import MAX_PATCHES
from vitral.models.meta_init import meta_init
from vitral.weights import file_metadata
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.files import save_sorted
from vitral.weights.layouts.layout import Layout, LayoutOutput, ModelSpec
from vitral.weights.layouts.timm import layout
from vitral.weights.mapping import TensorMapping, copy

CONFIG, TENSORS = "config.json", "model.safetensors"
RESERVED_KEYS = (
    "family",
    "config",
    "preprocess",
    "preprocess_hash",
    "grid",
    "classes",
    "parameters",
    "macs",
    "patch_grid",
    "timm",
)
"""Keys of the "vitral" block that callers may not use in `extra`."""
BLOCK = {
    "family": str,
    "classes": [str],
    "model": (str, None),
    "weights": (str, None),
    "step": int,
    "task": str,
    "problem_type": (str, None),
    "objective": (str, None),
    "license": (str, None),
}
"""Types of the keys that are read; a task checks its own."""


def detect(opened: LayoutInput) -> bool:
    """Return whether config.json next to the tensors has a "vitral" block."""
    return "vitral" in opened.config_json


def read(opened: LayoutInput) -> WeightsSource:
    """Read the model that config.json describes."""
    file = opened.path.with_name(CONFIG)
    block = opened.config_json["vitral"]
    parts = block if isinstance(block, dict) else {}
    for name in ("config", "preprocess"):
        if not isinstance(parts.get(name), dict):
            raise WeightsError(
                f"{file}: its block `vitral` has no object `{name}`. It was edited, or "
                "comes from another version of vitral: save the model again."
            )
    # A default in place of an absent field would be another model's answer.
    absent = Preprocess().to_dict().keys() - parts["preprocess"].keys()
    if absent:
        raise WeightsError(
            f"{file}: `preprocess` has no {', '.join(sorted(absent))}. It was "
            "edited: copy the file from where the model was made."
        )
    check_schema(file, parts, BLOCK, WeightsError)
    _check_names(file, parts.get("classes", ()))
    try:
        config, preprocess = _read_settings(file, parts)
    except ConfigError as error:
        where = "" if str(file) in str(error) else f"{file}: "
        raise WeightsError(f"{where}{error}") from error
    num_tensors = len(opened.file.names())
    if config.num_blocks > num_tensors:
        name = "depth" if isinstance(config, ViTConfig) else "units"
        raise WeightsError(
            f"{file}: `{name}` asks for {config.num_blocks} blocks, but there are only "
            f"{num_tensors} tensors in {opened.path.name}. One of the two belongs to "
            "another model: copy both from where it was made."
        )
    return opened.source(
        LAYOUT.title,
        config,
        mappings(config),
        preprocess,
        classes=tuple(parts.get("classes", ())),
        extra={key: value for key, value in parts.items() if key not in RESERVED_KEYS},
    )


def _check_names(file: Path, names: Sequence[str]) -> None:
    for name in names:
        # A lone surrogate cannot be printed or written.
        if not name or (
            not name.isascii() and name != name.encode("utf-8", "replace").decode()
        ):
            raise WeightsError(
                f"{file}: `classes` holds {shorten(name)}, expected names of Unicode "
                "characters. It was edited: copy it from where the model was made."
            )


def _read_settings(
    file: Path, parts: Mapping[str, Any]
) -> tuple[ModelConfig, Preprocess]:
    families = vitral.models.families()
    family = parts.get("family", "vit")
    if family not in families:
        raise ConfigError(
            f"{file}: this vitral knows no family of models {shorten(family)}, only "
            f"{', '.join(families)}. Use the version of vitral that wrote it."
        )
    fields = families[family].rename_fields(parts["config"])
    config = config_io.from_dict(families[family].config, fields, file)
    if config.num_patches > MAX_PATCHES:
        raise ConfigError(
            f"`image_size` and `patch_size` make {config.num_patches:,} patches, and "
            f"at most {MAX_PATCHES:,} are read."
        )
    return config, Preprocess.from_dict(parts["preprocess"])


def mappings(config: ModelConfig) -> list[TensorMapping]:
    return [copy(name) for name in vitral.models.tensor_shapes(config)]


def save(
    folder: str | Path,
    model: VisionModel,
    preprocess: Preprocess,
    *,
    classes: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> None:
    """Write config.json and model.safetensors, each atomically.

    Args:
        classes: names of the head's outputs; empty when they have none.
        extra: plain data to store with the model, under keys not in RESERVED_KEYS.

    Raises:
        ConfigError: `extra` has a reserved key.
        WeightsError: the folder cannot be written or the disk is full.
    """
    spec = ModelSpec(
        config=model.config, preprocess=preprocess, classes=classes, extra=extra or {}
    )
    fields = make_config_json(spec)
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    metadata = {"format": "pt", **file_metadata.make_metadata(model.config)}
    try:
        make_folder(folder)
        write_atomic(
            folder / TENSORS,
            lambda path: save_sorted(path, tensors, metadata),
        )
        write_json(folder / CONFIG, fields)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"The model cannot be written to {folder}: {error}. Free some space or "
            "make the folder writable; what was there before is intact."
        ) from error


def update_metadata(folder: Path, **more: Any) -> None:
    """Add keys of `extra` to a saved model's config.json, atomically.

    Raises:
        ConfigError: a key is reserved.
    """
    _refuse_reserved_keys(more)
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    fields["vitral"] |= more
    write_json(folder / CONFIG, fields)


def _refuse_reserved_keys(extra: Mapping[str, Any]) -> None:
    taken = sorted(set(RESERVED_KEYS) & set(extra))
    if taken:
        raise ConfigError(
            f"`extra` may not have the key `{taken[0]}`: it is one of vitral's own. "
            "Choose another name."
        )


def make_config_json(spec: ModelSpec[Any]) -> dict[str, Any]:
    """Return the content of config.json: timm's fields, and vitral's block."""
    _refuse_reserved_keys(spec.extra)
    config, preprocess = spec.config, spec.preprocess
    with meta_init():
        model = vitral.models.build_model(config)
    content = layout.make_config_json(spec)
    if any(rule.theirs != (rule.ours,) for rule in layout.mappings(config)):
        # Native names are written here, which timm would not find.
        content = {k: v for k, v in content.items() if k not in layout.BUILD_FIELDS}
    understood = "architecture" in content
    content["vitral"] = {
        "family": vitral.models.get_family_name(config),
        "config": config_io.to_dict(config),
        "preprocess": preprocess.to_dict(),
        "preprocess_hash": preprocess.hash,
        "grid": [*config.grid, config.num_prefix_tokens],
        "classes": list(spec.classes),
        "parameters": vitral.models.count_parameters(model),
        "macs": config.macs(),
        "patch_grid": list(config.grid),
        "timm": understood,
        **spec.extra,
    }
    return content


LAYOUT = Layout(
    name="native",
    title="vitral",
    container="folder",
    detect=detect,
    read=read,
    mappings=mappings,
    unsupported_reason=lambda config: "",
    make_output=lambda spec: LayoutOutput(
        sidecar_files={CONFIG: make_config_json(spec)}
    ),
)
