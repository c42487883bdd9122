"""Building the parts of a run from its config: data, model, loaders, optimizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vitral.data
import vitral.models
import vitral.weights
from vitral import config_io
from vitral.atomic_io import write_json
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
    """A model and everything that was decided about it."""

    model: VisionModel
    preprocess: Preprocess
    ledger: Ledger | None
    """None for fresh weights."""
    origin: dict[str, Any]
    """Where the weights came from and what became of them, for model/config.json."""


def prepare_model(config: TrainConfig, classes: tuple[str, ...]) -> ModelBundle:
    """The model with its weights, its frozen part and its pre-processing."""
    if not config.objective.LABELS:
        classes = ()
    ledger: Ledger | None = None
    origin: dict[str, Any] = {"notes": ["fresh weights"]}
    source = vitral.weights.read(config.weights) if config.weights else None
    model_config = resolve_model_config(config, len(classes), source)
    torch.manual_seed(config.seed)
    if source is not None:
        model, preprocess, ledger = vitral.weights.build(source, model_config, classes)
        origin = {"ledger": ledger.counts(), "notes": list(ledger.notes)}
        moved = source.config.grid != model_config.grid
        if moved and isinstance(model_config, ViTConfig):
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
    """The settings of the model that a run trains, before anything is built.

    Args:
        source: what `config.weights` holds; None for fresh weights.
    """
    changes: dict[str, Any] = {**config.model_changes, "num_classes": num_classes}
    if config.image_size:
        changes["image_size"] = config.image_size
    if source is None:
        return vitral.models.get_config(config.model, changes)
    held = _initial_config(config, source.config)
    # The hidden layer of a pre-training head goes with the head (section 3.2).
    if hasattr(held, "representation_size"):
        changes.setdefault("representation_size", 0)
    return vitral.models.replace_config(held, changes)


def train_loader(
    config: TrainConfig,
    dataset: Dataset,
    preprocess: Preprocess,
    workers: int,
    transform: Transform | TransformSchedule | None = None,
) -> Loader:
    """Shuffled, augmented batches of the training split.

    Args:
        transform: of `run_transform`; None for images of one size.
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
    """The optimizer over the parameters that learn, with layer-wise rates.

    What the objective has of its own, such as a decoder, is as fresh as a head and
    counts as one.
    """
    top = model.config.num_blocks + 1
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: own.get(id(p), "") for name, p in objective.named_parameters()}

    def layer_of(name: str) -> int:
        return model.layer_index(names[name]) if names[name] else top

    def is_head(name: str) -> bool:
        return names[name].split(".")[0] in HEADS

    groups = parameter_groups(objective, config.optim, layer_of, top, is_head)
    return create_optimizer(groups, config.optim)


def write_config(config: TrainConfig, file: Path) -> None:
    write_json(file, config_io.to_dict(config))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _initial_config(config: TrainConfig, source_config: ModelConfig) -> ModelConfig:
    """The model that the weights give: their own, or a video model of its sizes.

    Raises:
        ConfigError: `config.model` asks for another one.
    """
    if not config.model:
        return source_config
    wanted = vitral.models.get_config(config.model)
    if isinstance(wanted, TimeSformerConfig) and type(source_config) is ViTConfig:
        clips = clip_config(source_config, wanted.num_frames, wanted.attention_type)
        _require_same_model(config, wanted, clips)
        return clips
    _require_same_model(config, wanted, source_config)
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
