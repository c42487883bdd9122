"""Plan of a training run: data, model and settings of the loop, before any is built."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import vitral.models
from vitral import config_io
from vitral.data import Audit
from vitral.data.pixel_values import measure_statistics
from vitral.errors import ConfigError
from vitral.models import ModelConfig
from vitral.tasks import Labels, ObjectiveConfig, get_task
from vitral.training import lr_at, steps_for
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.training.fit import FitSpec
from vitral.weights import WeightsSource, read
from vitral.workflows.config import VOLATILE, TrainConfig
from vitral.workflows.dataset import audit_dataset, open_split_data, run_input_kind
from vitral.workflows.session import Session
from vitral.workflows.train.build_objective import validate_objective
from vitral.workflows.train.check_contents import ContentCheck, check_contents


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The facts of a run that is about to start."""

    config: TrainConfig
    objective: ObjectiveConfig
    """That of `config` with what the data decides."""
    audit: Audit
    """The data set with its splits, and the files that cannot be decoded."""
    labels: Labels
    """Outputs of the head; no names for an objective without labels."""
    source: WeightsSource | None
    """Content of `config.weights`; None for fresh weights."""
    model: ModelConfig
    pixels: dict[str, Any]
    """Fields of the pre-processing that were measured on the training files."""
    contents: ContentCheck
    """Content of the files, and its accepted changes."""
    spec: FitSpec
    """Settings of the loop, with the updates of the whole run."""


def make_plan(config: TrainConfig, session: Session) -> TrainPlan:
    """Open and audit the data, and decide on model and steps.

    Rank 0 audits; the split goes to split.csv, so that a resumed run keeps it.
    """
    split_file, runtime = session.out / "split.csv", session.runtime
    dataset = open_split_data(config, split_file, run_input_kind(config))
    task = get_task(config.objective.TASK)
    objective, notes = task.resolve_settings(config.objective, dataset)
    dataset = replace(dataset, notes=(*dataset.notes, *notes))
    labels = task.labels_of(dataset)
    validate_objective(replace(config, objective=objective), task, labels)
    source = read(config.weights) if config.weights else None
    model = resolve_model_config(config, len(labels.names), source)
    audit = broadcast_from_rank_zero(
        lambda: audit_dataset(dataset, split_file, runtime.workers, config.max_bad)
    )
    contents = broadcast_from_rank_zero(lambda: check_contents(audit, session))
    pixels = broadcast_from_rank_zero(
        lambda: measure_pixels(config, audit, source, model)
    )
    steps = config.loop.steps or steps_for(
        len(audit.dataset.select("train")), config.epochs, config.batch_size
    )
    ready = source is not None and is_fitted_probe(config, source.config)
    steps = 0 if ready else steps
    lr = partial(lr_at, total=steps, base=config.optim.lr, config=config.schedule)
    if not ready:
        lr(0)  # a schedule that does not fit the steps ends the run here
    spec = FitSpec(
        loop=replace(config.loop, steps=steps),
        lr=lr,
        folder=session.out,
        seed=config.seed,
        clip_norm=config.optim.clip_norm,
        resume=session.resume,
        identity={
            "config": config_hash(config),
            "data": audit.dataset.fingerprint(),
        },
        lower_is_better=task.lower_is_better,
        shard=runtime.shard,
        recompute=runtime.checkpoint_activations,
        ready=ready,
    )
    return TrainPlan(
        config=config,
        objective=objective,
        audit=audit,
        labels=labels,
        source=source,
        model=model,
        pixels=pixels,
        contents=contents,
        spec=spec,
    )


def measure_pixels(
    config: TrainConfig,
    audit: Audit,
    source: WeightsSource | None,
    model: ModelConfig,
) -> dict[str, Any]:
    """Return range, mean and deviation of files that are not 8-bit RGB.

    What weights of the same channels bring with them stays: their own range, and the
    statistics of files of 8 bits.
    """
    if audit.dataset.kind == "clips":
        return {}
    asked = config.preprocess_changes
    value_range = asked.get("value_range", audit.values.value_range)
    known = source is not None and source.config.in_chans == model.in_chans
    if (
        source is not None
        and source.preprocess.value_range
        and "value_range" not in asked
    ):
        value_range = source.preprocess.value_range
    if known and source is not None and source.preprocess.value_range == value_range:
        return {}
    if value_range is None and model.in_chans == 3:
        return {}
    ends = {"value_range": list(value_range)} if value_range else {}
    return ends | measure_statistics(
        audit.dataset,
        model.in_chans,
        (float(value_range[0]), float(value_range[1])) if value_range else None,
    )


def is_fitted_probe(config: TrainConfig, model: ModelConfig) -> bool:
    """Return whether a run only fits a head, which needs no updates."""
    return config.objective.fits_head and config.freeze >= model.num_blocks


def config_hash(config: TrainConfig) -> str:
    """Return a hash of every setting that changes a number of the run."""
    # Once through JSON's types, or `epochs=8` and `epochs=8.0` would be two runs.
    plain = config_io.from_dict(TrainConfig, config_io.to_dict(config), "The config")
    values = config_io.to_dict(plain)
    for name in VOLATILE:
        values.pop(name)
    if config.channel_init == "average":
        values.pop("channel_init")  # hashes of older runs have none
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
    initial = source.config
    if config.model:
        requested = vitral.models.get_config(config.model)
        initial = vitral.models.start_config(initial, requested)
        _require_same_model(requested, initial, config.model, config.weights)
    # The hidden layer of a pre-training head is dropped with the head (section 3.2).
    if hasattr(initial, "representation_size"):
        changes.setdefault("representation_size", 0)
    return vitral.models.replace_config(initial, changes)


def _require_same_model(
    requested: ModelConfig, initial: ModelConfig, name: str, weights: str
) -> None:
    family, other = (vitral.models.get_family_name(m) for m in (requested, initial))
    if family != other:
        raise ConfigError(
            f"`model={name}` is of the family {family}, but "
            f"{weights} holds a model of the family {other}. Leave `model` "
            "out to take the model of the weights."
        )
    for field in vitral.models.families()[family].size_fields:
        ours, theirs = getattr(requested, field), getattr(initial, field)
        if ours != theirs:
            raise ConfigError(
                f"`model={name}` has {field} {ours}, but {weights} "
                f"holds a model with {field} {theirs}. Leave `model` out to take the "
                "model of the weights."
            )
