"""Parts of a training run: everything that `fit` needs, built from the plan."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import vitral.models
import vitral.weights
from vitral import config_io
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Preprocess, Size
from vitral.data.audit import require_few_unread
from vitral.models import (
    ModelConfig,
    VisionModel,
    ViTConfig,
    count_parameters,
    get_model_name,
)
from vitral.models.base import HEADS
from vitral.tasks import Monitor, MonitorContext, get_task
from vitral.training import OptimConfig, create_optimizer, parameter_groups
from vitral.training.distributed import broadcast_from_rank_zero, get_rank
from vitral.training.fit import EpochBatches
from vitral.weights import ChannelInit, Ledger, WeightsSource
from vitral.workflows.dataset import bad_files_in, describe_data
from vitral.workflows.inference import InferenceSpec, measure_split
from vitral.workflows.runtime import command_line, describe_environment
from vitral.workflows.session import Session
from vitral.workflows.train.build_objective import build_objective
from vitral.workflows.train.frozen_cache import TrainableHead
from vitral.workflows.train.head_start import HeadStart, start_head
from vitral.workflows.train.loaders import AnyLoader, make_loaders, make_rank_loader
from vitral.workflows.train.plan import TrainPlan
from vitral.workflows.train.progress import write_card
from vitral.workflows.train.progressive_resizing import (
    build_transform,
    describe_sizes,
    image_sizes,
)

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module], dict[str, float]]

PROVENANCE = ("pretrained", "license")
"""Keys of named weights that every model made from them keeps."""


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A model, its preprocessing, and where its weights came from."""

    model: VisionModel
    preprocess: Preprocess
    ledger: Ledger | None
    """None for fresh weights."""
    origin: dict[str, Any]
    """Source of the weights and what was done to them, for model/config.json."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """The modules and loaders of a run, on its device."""

    model: VisionModel
    """The model within the objective."""
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    batches: EpochBatches
    train: AnyLoader
    """Loader of the batches."""
    monitor: Monitor | None
    """Measurement of a model without answers; None for one that answers."""
    evaluate: Evaluate | None
    """Metrics of a model on val; None where the data has no val split."""
    save_best: Callable[[nn.Module, int], None]
    """Writes the model of a step into model/."""
    preprocess: Preprocess
    head_start: HeadStart | None
    """Head that was fitted before the training; None for another start."""


def build(plan: TrainPlan, session: Session) -> RunParts:
    """Build model, objective, loaders and optimizer; record the start of the run.

    Nothing is written into the folder before all modules stand.
    """
    config, dataset, loop = plan.config, plan.audit.dataset, plan.spec.loop
    bundle = build_model(
        plan.model,
        plan.source,
        plan.labels.names,
        seed=config.seed,
        freeze=config.freeze,
        preprocess_changes={**plan.pixels, **config.preprocess_changes},
        channel_init=config.channel_init,
    )
    model, preprocess = bundle.model, bundle.preprocess
    sizes = image_sizes(config.resolutions, plan.model, preprocess)
    transform = build_transform(
        sizes, config.augment, preprocess, seed=config.seed, steps=loop.steps
    )
    objective = build_objective(
        plan.objective,
        model,
        preprocess,
        dataset.classes,
        labels=plan.labels,
        # Its own weights must not depend on what happened since the model's.
        seed=config.seed + 1,
        fresh=plan.source is None,
        cached=config.cache,
    )
    broadcast_from_rank_zero(lambda: _write_metadata(plan, session))
    model.to(session.device)
    _log_summary(plan, model, bundle.ledger, sizes)
    if plan.pixels and get_rank() == 0:
        logger.info("pixels: %s", describe_pixels(preprocess))
    head_start = start_head(plan, session, model, preprocess, bundle.ledger)
    train, val = make_loaders(plan, session, model, preprocess, transform)
    task = get_task(config.objective.TASK)
    monitor = None
    if not task.has_answers:
        context = MonitorContext(
            dataset=dataset,
            preprocess=preprocess,
            batch_size=config.batch_size,
            device=session.device,
            bf16=loop.precision == "bf16",
            max_bad=config.max_bad,
        )
        monitor = task.make_monitor(context)
    return RunParts(
        model=model,
        objective=objective,
        optimizer=build_optimizer(config.optim, model, objective),
        batches=EpochBatches(
            epoch=make_rank_loader(train, loop.accumulate).epoch, per_epoch=len(train)
        ),
        train=train,
        monitor=monitor,
        evaluate=_make_evaluate(plan, val, session.device, monitor, objective),
        save_best=_make_save_best(plan, bundle),
        preprocess=preprocess,
        head_start=head_start,
    )


def build_model(
    model_config: ModelConfig,
    source: WeightsSource | None,
    classes: tuple[str, ...],
    *,
    seed: int,
    freeze: int,
    preprocess_changes: dict[str, Any],
    channel_init: ChannelInit = "average",
) -> ModelBundle:
    """Build the model with its weights, its frozen part and its preprocessing."""
    ledger = None
    origin: dict[str, Any] = {"notes": ["fresh weights"]}
    torch.manual_seed(seed)
    if source is not None:
        model, preprocess, ledger = vitral.weights.build(
            source, model_config, classes, channel_init, dtype=torch.float32
        )
        origin = {"ledger": ledger.counts(), "notes": list(ledger.notes)}
        origin |= {it: source.extra[it] for it in PROVENANCE if it in source.extra}
        resized = source.config.grid != model_config.grid
        if resized and isinstance(model_config, ViTConfig):
            origin["position_resize"] = {
                "from": list(source.config.grid),
                "to": list(model_config.grid),
                "method": model_config.position_resize,
            }
    else:
        model = vitral.models.build_model(model_config)
        preprocess = Preprocess(
            image_size=model_config.image_hw, antialias=True
        ).with_channels(model_config.in_chans)
    preprocess = preprocess.for_input(model_config.input_shape, preprocess_changes)
    if freeze >= 0:
        model.freeze(freeze)
    return ModelBundle(model=model, preprocess=preprocess, ledger=ledger, origin=origin)


def build_optimizer(
    config: OptimConfig, model: VisionModel, objective: nn.Module
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

    groups = parameter_groups(objective, config, layer_index, top, is_head)
    return create_optimizer(groups, config)


def _write_metadata(plan: TrainPlan, session: Session) -> None:
    """Write config.json, data.json, environment.json and command.txt."""
    out = session.out
    write_json(out / "config.json", config_io.to_dict(plan.config))
    write_json(
        out / "data.json", describe_data(plan.audit, plan.labels, plan.contents.changes)
    )
    write_json(out / "environment.json", describe_environment(session.device))
    write_atomic(out / "command.txt", command_line() + "\n")


def _log_summary(
    plan: TrainPlan, model: VisionModel, ledger: Ledger | None, sizes: tuple[Size, ...]
) -> None:
    """Log the facts of data and model on rank 0, line by line."""
    if get_rank() != 0:
        return
    dataset = plan.audit.dataset
    for split, described in dataset.describe_splits().items():
        logger.info("data: %s %s", split, described)
    for file in plan.audit.bad:
        logger.info("unreadable: %s (%s): %s", file.path, file.split, file.reason)
    for line in filter(None, [dataset.left_out_line()]):
        logger.info("%s", line)
    for note in dataset.notes:
        logger.info("note: %s", note)
    logger.info("model: %s", _describe_model(model))
    if ledger is not None:
        for line in str(ledger).splitlines():
            logger.info("%s", line)
        logger.info("%s", ledger.summary().splitlines()[0])
    if plan.config.resolutions:
        logger.info("images: %s", describe_sizes(sizes, plan.spec.loop.steps))


def describe_pixels(preprocess: Preprocess) -> str:
    """Return range, mean and deviation that were measured, in a line."""
    low, high = preprocess.value_range or (0, 255)
    mean, std = (
        ", ".join(f"{value:.3g}" for value in values)
        for values in (preprocess.mean, preprocess.std)
    )
    return (
        f"{preprocess.channels} channel(s), values from {low:g} to {high:g} as 0 to 1, "
        f"mean {mean}, deviation {std}"
    )


def _describe_model(model: VisionModel) -> str:
    total = count_parameters(model)
    trainable = count_parameters(model, trainable=True)
    config = model.config
    return (
        f"{total:,} parameters, {trainable:,} learn, "
        f"{config.describe_input()} in "
        f"{config.grid.rows} x {config.grid.columns} patches"
    )


def _make_evaluate(
    plan: TrainPlan,
    loader: AnyLoader | None,
    device: torch.device,
    monitor: Monitor | None,
    objective: nn.Module,
) -> Evaluate | None:
    """Return the evaluation of the loop on val; None without a val split."""
    if loader is None:
        return None
    if monitor is not None:
        return _make_monitor_evaluate(monitor, objective)
    config, labels = plan.config, plan.labels
    task = get_task(config.objective.TASK)
    bad = bad_files_in(plan.audit.bad, "val")
    spec = InferenceSpec(
        # Cached outputs are those of one view.
        views="one" if config.cache else config.eval_views,
        precision=config.loop.precision,
        average=partial(task.average, labels=labels),
    )

    def evaluate(module: nn.Module) -> dict[str, float]:
        metric = task.metric(labels)
        unread = measure_split(module, loader, metric, device=device, spec=spec)
        failures = [(file.path, file.reason) for file in unread]
        require_few_unread(failures, len(loader.examples), config.max_bad)
        return metric.result((*bad, *unread)).monitor_values()

    return evaluate


def _make_monitor_evaluate(monitor: Monitor, objective: nn.Module) -> Evaluate:
    def evaluate(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, VisionModel)
        return monitor.evaluate(objective, module)

    return evaluate


def _describe_labels(plan: TrainPlan) -> dict[str, Any]:
    """Return what is stored about the outputs, in our words and Hugging Face's."""
    word = get_task(plan.config.objective.TASK).problem_type(plan.labels)
    return plan.labels.extra() | ({"problem_type": word} if word else {})


def _make_save_best(
    plan: TrainPlan, bundle: ModelBundle
) -> Callable[[nn.Module, int], None]:
    config = plan.config
    # A model whose sizes were changed has no name of its own.
    changed = f"{config.model}, changed" if config.model else ""
    extra = {
        "model": get_model_name(bundle.model.config) or changed,
        "weights": config.weights,
        **bundle.origin,
        "step": 0,
        "eval_views": config.eval_views,
        "task": config.objective.TASK,
        **_describe_labels(plan),
        "precision": config.loop.precision,
        "objective": config.objective.NAME,
    }

    def save_best(module: nn.Module, step: int) -> None:
        vitral.weights.save(
            plan.spec.folder / "model",
            module.model if isinstance(module, TrainableHead) else module,  # type: ignore[arg-type]
            bundle.preprocess,
            classes=plan.labels.names,
            extra=extra | {"step": step},
        )
        # A run that is killed has a card that says so.
        write_card(plan.spec.folder)

    return save_best
