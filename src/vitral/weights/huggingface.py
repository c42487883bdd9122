"""Hugging Face's layout: config.json, model.safetensors, preprocessor_config.json.

The field `model_type` of config.json says what kind of model it is; each kind that
vitral has is one part of `PARTS`. What is written has the names of the files on the
hub, which every version of transformers loads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vitral.models import DeiTConfig, ModelConfig, ViTConfig
from vitral.weights import huggingface_config, huggingface_names, huggingface_vit
from vitral.weights.layout import Held, Layout, Written
from vitral.weights.rules import Rule
from vitral.weights.source import Opened, Source

TITLE = "Hugging Face"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of model in this layout."""

    configs: tuple[type[ModelConfig], ...]
    """Settings of the models that it writes."""
    detect: Callable[[Opened], bool]
    read: Callable[[Opened, str], Source]
    rules: Callable[..., list[Rule]]
    refuses: Callable[[ModelConfig], str]
    describe: Callable[[Held], Written]


PARTS = (
    Part(
        configs=(ViTConfig, DeiTConfig),
        detect=huggingface_vit.detect,
        read=huggingface_vit.read,
        rules=huggingface_names.rules,
        refuses=huggingface_config.refuses,
        describe=huggingface_config.describe,
    ),
)


def detect(opened: Opened) -> bool:
    """Whether the tensors are those of a model of Hugging Face."""
    return any(part.detect(opened) for part in PARTS)


def read(opened: Opened) -> Source:
    """The model that config.json and the tensors describe."""
    part = next(part for part in PARTS if part.detect(opened))
    return part.read(opened, TITLE)


def rules(config: ModelConfig) -> list[Rule]:
    """Every tensor under the name that it has on the hub."""
    return _part(config).rules(config)


def refuses(config: ModelConfig) -> str:
    """Why transformers' code cannot be this model; empty if it can."""
    if not any(type(config) in part.configs for part in PARTS):
        return "it has no such family of models"
    return _part(config).refuses(config)


def describe(held: Held) -> Written:
    """The files beside the tensors."""
    return _part(held.config).describe(held)


def _part(config: ModelConfig) -> Part:
    return next(part for part in PARTS if type(config) in part.configs)


LAYOUT = Layout(
    title=TITLE,
    container="folder",
    detect=detect,
    read=read,
    rules=rules,
    refuses=refuses,
    describe=describe,
    class_rows="with",
)
