"""Build the parts of a run: model with weights, loader, optimizer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import vitral.data
import vitral.models
import vitral.weights
from vitral.data import (
    Dataset,
    Loader,
    Preprocess,
    Transform,
    TransformSchedule,
    training_transform,
)
from vitral.errors import ConfigError
from vitral.models import (
    ModelConfig,
    TimeSformerConfig,
    VisionModel,
    ViTConfig,
    clip_config,
)
from vitral.models.base import HEADS
from vitral.training import create_optimizer, parameter_groups
from vitral.weights import Ledger, WeightsSource
from vitral.workflows.config import TrainConfig
from vitral.workflows.inputs import with_sampling


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A model, its preprocessing, and where its weights came from."""

    model: VisionModel
    preprocess: Preprocess
    ledger: Ledger | None
    """None for fresh weights."""
    origin: dict[str, Any]
    """Where the weights came from and what was done to them, for model/config.json."""


def build_model(
    config: TrainConfig,
    model_config: ModelConfig,
    source: WeightsSource | None,
    classes: tuple[str, ...],
) -> ModelBundle:
    """Build the model with its weights, its frozen part and its preprocessing.

    Raises:
        WeightsError: the weights do not fit the model.
    """
    ledger: Ledger | None = None
    origin: dict[str, Any] = {"notes": ["fresh weights"]}
    torch.manual_seed(config.seed)
    if source is not None:
        model, preprocess, ledger = vitral.weights.build(source, model_config, classes)
        origin = {"ledger": ledger.counts(), "notes": list(ledger.notes)}
        resized = source.config.grid != model_config.grid
        if resized and isinstance(model_config, ViTConfig):
            origin["position_resize"] = {
                "from": list(source.config.grid),
                "to": list(model_config.grid),
                "method": model_config.position_resize,
            }
    else:
        model = vitral.models.build_model(model_config)
        preprocess = Preprocess(image_size=model_config.image_hw, antialias=True)
    preprocess = with_sampling(preprocess, model_config, config.preprocess_changes)
    if config.freeze >= 0:
        model.freeze(config.freeze)
    return ModelBundle(model=model, preprocess=preprocess, ledger=ledger, origin=origin)


def resolve_model_config(
    config: TrainConfig, num_classes: int, source: WeightsSource | None
) -> ModelConfig:
    """Return the settings of the model that a run trains, before anything is built.

    Args:
        source: content of `config.weights`; None for fresh weights.

    Raises:
        ConfigError: `config.model` is another model than that of the weights.
    """
    changes: dict[str, Any] = {**config.model_changes, "num_classes": num_classes}
    if config.image_size:
        changes["image_size"] = config.image_size
    if source is None:
        return vitral.models.get_config(config.model, changes)
    initial = _initial_config(config, source.config)
    # The hidden layer of a pre-training head is dropped with the head (section 3.2).
    if hasattr(initial, "representation_size"):
        changes.setdefault("representation_size", 0)
    return vitral.models.replace_config(initial, changes)


def train_loader(
    config: TrainConfig,
    dataset: Dataset,
    preprocess: Preprocess,
    workers: int,
    transform: Transform | TransformSchedule | None = None,
) -> Loader:
    """Return the loader of shuffled, augmented batches of the training split.

    Args:
        transform: of `build_transform`; None for images of one size.
    """
    return Loader(
        dataset=dataset,
        examples=dataset.select("train"),
        transform=transform
        or training_transform(config.augment, preprocess, config.seed),
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=True,
        repeats=config.augment.repeats,
        workers=workers,
        mix=config.mix if config.mix.mixup or config.mix.cutmix else None,
    )


def build_optimizer(
    config: TrainConfig, model: VisionModel, objective: nn.Module
) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters, with layer-wise rates.

    Parameters of the objective itself, such as a decoder, get the rate of the head.
    """
    top = model.config.num_blocks + 1
    in_model = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: in_model.get(id(p), "") for name, p in objective.named_parameters()}

    def layer_index(name: str) -> int:
        return model.layer_index(names[name]) if names[name] else top

    def is_head(name: str) -> bool:
        return names[name].split(".")[0] in HEADS

    groups = parameter_groups(objective, config.optim, layer_index, top, is_head)
    return create_optimizer(groups, config.optim)


def _initial_config(config: TrainConfig, source_config: ModelConfig) -> ModelConfig:
    """Return the model of the weights, or a video model of their sizes."""
    if not config.model:
        return source_config
    requested = vitral.models.get_config(config.model)
    if isinstance(requested, TimeSformerConfig) and type(source_config) is ViTConfig:
        clips = clip_config(
            source_config, requested.num_frames, requested.attention_type
        )
        _require_same_model(config, requested, clips)
        return clips
    _require_same_model(config, requested, source_config)
    return source_config


def _require_same_model(
    config: TrainConfig, requested: ModelConfig, source_config: ModelConfig
) -> None:
    names = [
        vitral.models.get_family_name(either) for either in (requested, source_config)
    ]
    if names[0] != names[1]:
        raise ConfigError(
            f"`--model {config.model}` is of the family {names[0]}, but "
            f"{config.weights} holds a model of the family {names[1]}. Leave `--model` "
            "out to take the model of the weights."
        )
    sizes = vitral.models.families()[names[0]].size_fields
    for field in sizes:
        ours, theirs = getattr(requested, field), getattr(source_config, field)
        if ours != theirs:
            raise ConfigError(
                f"`--model {config.model}` has {field} {ours}, but {config.weights} "
                f"holds a model with {field} {theirs}. Leave `--model` out to take the "
                "model of the weights."
            )
