"""vitral's own model folder: config.json and model.safetensors.

The tensors have timm's names and config.json has timm's fields, so that timm loads the
folder where it can express the model; the block "vitral" says everything exactly.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from vitral import configs
from vitral.data import Preprocess
from vitral.errors import ConfigError, WeightsError
from vitral.files import write_atomic, write_json
from vitral.models import ViT, ViTConfig
from vitral.weights import timm
from vitral.weights.source import Source, read_safetensors

CONFIG, TENSORS = "config.json", "model.safetensors"
OWN_KEYS = (
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
"""What the "vitral" block always has; other keys are what the caller keeps there."""


def detect(folder: Path) -> bool:
    """Whether `folder` has a config.json with a "vitral" block."""
    return "vitral" in _config(folder) if (folder / CONFIG).is_file() else False


def read(folder: Path) -> Source:
    """The model in `folder`.

    Raises:
        WeightsError: a file is missing or corrupt, or the two do not agree.
        ConfigError: a field of config.json is unknown or mistyped.
    """
    file = folder / CONFIG
    about = _config(folder)["vitral"]
    parts = about if isinstance(about, dict) else {}
    for name in ("config", "preprocess"):
        if not isinstance(parts.get(name), dict):
            raise ConfigError(
                f"{file}: its block `vitral` has no object `{name}`. It was edited, or "
                "comes from another version of vitral: save the model again."
            )
    config = configs.from_plain(ViTConfig, about["config"], file)
    return Source(
        path=folder / TENSORS,
        config=config,
        tensors=read_safetensors(folder / TENSORS),
        preprocess=Preprocess.from_dict(about["preprocess"]),
        classes=tuple(about.get("classes", ())),
        extra={key: value for key, value in about.items() if key not in OWN_KEYS},
    )


def save(
    folder: str | Path,
    model: ViT,
    preprocess: Preprocess,
    *,
    classes: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> None:
    """Write config.json and model.safetensors, each atomically.

    Args:
        classes: names of the head's outputs; empty when they have none.
        extra: plain data to keep with the model, under keys that are not in OWN_KEYS.

    Raises:
        ConfigError: `extra` has a key that is ours.
        WeightsError: the folder cannot be written or the disk is full.
    """
    taken = sorted(set(OWN_KEYS) & set(extra or {}))
    if taken:
        raise ConfigError(
            f"`extra` may not have the key `{taken[0]}`: it is one of vitral's own. "
            "Choose another name."
        )
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    about = _describe(model, preprocess, classes, extra or {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(
            folder / TENSORS,
            lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        )
        write_json(folder / CONFIG, about)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"The model cannot be written to {folder}: {error}. Free some space or "
            "make the folder writable; what was there before is intact."
        ) from error


def _describe(
    model: ViT, preprocess: Preprocess, classes: tuple[str, ...], extra: dict[str, Any]
) -> dict[str, Any]:
    config = model.config
    about: dict[str, Any] = {}
    arguments = timm.model_args(config)
    if arguments is not None:
        # Any of timm's plain models: model_args overrides each of its sizes.
        about |= {"architecture": "vit_base_patch16_224", "model_args": arguments}
    about |= {
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "pretrained_cfg": {
            "input_size": [config.in_chans, *preprocess.image_size],
            "fixed_input_size": False,
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_fraction,
            "crop_mode": "squash" if preprocess.resize == "squash" else "center",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "vitral": {
            "config": configs.to_plain(config),
            "preprocess": preprocess.to_dict(),
            "preprocess_hash": preprocess.hash,
            "grid": [*config.grid, config.num_prefix_tokens],
            "classes": list(classes),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": config.macs(),
            "patch_grid": list(config.grid),
            "timm": arguments is not None,
            **extra,
        },
    }
    if classes:
        about["label_names"] = list(classes)
    return about


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not readable JSON: {error}.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} must hold a JSON object.")
    return value
