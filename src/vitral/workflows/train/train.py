"""train: from a config to a run folder with a trained, measured, reported model.

Every file of the folder is described in docs/run-folder.md. The loop itself is in
vitral.training and knows neither models nor data; here the two meet.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import vitral.weights
from vitral import config_io
from vitral.data import Audit, Loader, Transform, TransformSchedule
from vitral.evaluation import Classification
from vitral.models import ModelConfig, get_model_name
from vitral.training import lr_at, steps_for
from vitral.training.distributed import TIMEOUT, broadcast_from_rank_zero, get_rank
from vitral.training.fit import ShardMode, fit
from vitral.workflows.config import VOLATILE, TrainConfig
from vitral.workflows.dataset import (
    audit_dataset,
    bad_files_in,
    open_data,
    run_input_kind,
)
from vitral.workflows.inference import compute_metrics, split_loader
from vitral.workflows.inputs import with_single_view
from vitral.workflows.run import Run
from vitral.workflows.train.build import (
    ModelBundle,
    build_optimizer,
    prepare_model,
    train_loader,
)
from vitral.workflows.train.build_objective import build_objective, validate_objective
from vitral.workflows.train.finalize import finalize, finalize_unlabeled
from vitral.workflows.train.frozen_cache import (
    CachedLoader,
    TrainableHead,
    cache_frozen_outputs,
)
from vitral.workflows.train.knn_monitor import Monitor
from vitral.workflows.train.progressive_resizing import (
    build_transform,
    describe_sizes,
    image_sizes,
)
from vitral.workflows.train.rank_loader import (
    make_rank_loader,
    predict_loader,
    rank_zero_first,
)
from vitral.workflows.train.session import (
    Session,
    log_summary,
    run_session,
    write_metadata,
)


class Loaders(NamedTuple):
    """Where batches come from; `val` is None where the data has no val split."""

    train: Loader | CachedLoader
    val: Loader | CachedLoader | None


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    workers: int = 0,
    device: str = "auto",
    announce: Callable[[str], None] | None = None,
    shard: ShardMode = "none",
    checkpoint_activations: bool = False,
    rank_timeout: float = TIMEOUT,
) -> Run:
    """Train, evaluate and report; everything is left in the folder `out`.

    Started by torchrun, all ranks train one model on the batches of one process, and
    rank 0 writes; a rank that torchrun starts again resumes.

    Args:
        resume: go on from the newest checkpoint in `out`; starts when there is none.
        workers: processes that decode images; 0 decodes in this one. Batches are the
            same for any number.
        device: `cpu`, `cuda`, `mps`, or `auto` for the best that is there.
        announce: gets what was decided before the first step, line by line.
        shard: `fsdp` divides weights, gradients and optimizer among the ranks.
        checkpoint_activations: keep only what enters each block, and compute the rest
            again for the gradient; the numbers stay the same.
        rank_timeout: seconds after which a rank that does not answer counts as gone.

    Returns:
        the run, with the best model.

    Raises:
        ConfigError: `out` is in use, or is resumed with other settings.
        DataError: the data cannot be used.
        WeightsError: the weights cannot be used, or a checkpoint cannot be written.
        DivergedError: the loss or a gradient is not finite.
        InterruptedRun: a signal arrived; a checkpoint was written.
        PeerError: another rank stopped, died or does not answer.
    """
    out = Path(out)
    about = {"resume": resume, "device": device, "rank_timeout": rank_timeout}
    with run_session(config, out, **about) as start:  # type: ignore[arg-type]
        return _train(
            config, out, start, workers, announce, shard, checkpoint_activations
        )


def _train(
    config: TrainConfig,
    out: Path,
    session: Session,
    workers: int,
    announce: Callable[[str], None] | None,
    shard: ShardMode,
    recompute: bool,
) -> Run:
    place = session.device
    dataset = open_data(config, run_input_kind(config))
    validate_objective(config, dataset)
    prepared = prepare_model(config, dataset.classes)
    found = broadcast_from_rank_zero(
        lambda: audit_dataset(dataset, out / "split.csv", config, workers)
    )
    steps = config.loop.steps or steps_for(
        len(found.dataset.select("train")), config.epochs, config.batch_size
    )
    # These refuse what cannot be before there is a config.json.
    lr_at(0, steps, config.optim.lr, config.schedule)
    transform = build_transform(
        config, prepared.model.config, prepared.preprocess, steps
    )
    objective = build_objective(config, prepared, dataset.classes)
    broadcast_from_rank_zero(lambda: write_metadata(config, out, found, place))
    prepared.model.to(place)
    if announce is not None and get_rank() == 0:
        log_summary(announce, found, prepared)
        if config.resolutions:
            sizes = image_sizes(config, prepared.model.config, prepared.preprocess)
            announce(f"images: {describe_sizes(sizes, steps)}")
    loaders = _make_loaders(config, found, prepared, transform, out, place, workers)
    loop = replace(config.loop, steps=steps)
    monitor = Monitor(
        dataset=found.dataset,
        preprocess=prepared.preprocess,
        batch_size=config.batch_size,
        device=place,
        bf16=config.loop.precision == "bf16",
    )
    ended = fit(
        objective,
        build_optimizer(config, prepared.model, objective),
        config=loop,
        batches=make_rank_loader(loaders.train, loop.accumulate).epoch,
        batches_per_epoch=len(loaders.train),
        lr=lambda step: lr_at(step, steps, config.optim.lr, config.schedule),
        evaluate=_make_evaluate(config, found, loaders, place)
        if config.objective.LABELS
        else monitor.make_evaluate(objective),
        folder=out,
        seed=config.seed,
        device=place,
        clip_norm=config.optim.clip_norm,
        resume=session.resume,
        shard=shard,
        recompute=recompute,
        on_best=lambda module, step: _save_best(
            out, module, prepared, found, config, step
        ),
        extra_state={
            "config": config_hash(config),
            "data": found.dataset.fingerprint(),
        },
    )
    if config.objective.LABELS:
        finalize(out, found, place)
    elif get_rank() == 0:
        finalize_unlabeled(out, found, ended.objective, monitor)
    if get_rank() == 0:
        shutil.rmtree(out / "cache", ignore_errors=True)
    return Run(out)


def config_hash(config: TrainConfig) -> str:
    """A hash of every setting that changes a number of the run."""
    # Once through JSON's types, or `epochs=8` and `epochs=8.0` would be two runs.
    plain = config_io.from_dict(TrainConfig, config_io.to_dict(config), "The config")
    values = config_io.to_dict(plain)
    for name in VOLATILE:
        values.pop(name)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _make_loaders(
    config: TrainConfig,
    audit: Audit,
    prepared: ModelBundle,
    transform: Transform | TransformSchedule,
    out: Path,
    device: torch.device,
    workers: int,
) -> Loaders:
    dataset, preprocess = audit.dataset, prepared.preprocess
    train_images = train_loader(config, dataset, preprocess, workers, transform)
    val_images = None
    if dataset.select("val"):
        val_images = split_loader(
            dataset,
            "val",
            with_single_view(preprocess) if config.cache else preprocess,
            batch_size=config.batch_size,
            workers=workers,
        )
    if not config.cache:
        return Loaders(train_images, val_images)
    about: dict[str, Any] = {
        "key": f"{config_hash(config)} {dataset.fingerprint()}",
        "device": device,
        "bf16": config.loop.precision == "bf16",
    }
    cached_val = None
    if val_images is not None:
        folder = out / "cache" / "val"
        cached_val = rank_zero_first(
            lambda: cache_frozen_outputs(
                val_images, prepared.model, folder, views=1, **about
            )
        )
    return Loaders(
        rank_zero_first(
            lambda: cache_frozen_outputs(
                train_images,
                prepared.model,
                out / "cache" / "train",
                views=config.augment.views,
                **about,
            )
        ),
        cached_val,
    )


def _make_evaluate(
    config: TrainConfig, audit: Audit, loaders: Loaders, device: torch.device
) -> Any:
    """What the loop calls to judge a model on val; None without a val split."""
    val = loaders.val
    if val is None:
        return None
    multi_label = audit.dataset.multi_label
    # Cached outputs are those of one view.
    views = "one" if config.cache else config.eval_views

    def evaluate(module: nn.Module) -> dict[str, float]:
        scores = predict_loader(
            module,
            val,
            device=device,
            views=views,
            bf16=config.loop.precision == "bf16",
            multi_label=multi_label,
        )
        bad = bad_files_in(audit.bad, "val")
        result = compute_metrics(
            scores, audit.dataset.classes, bad, multi_label=multi_label
        )
        if isinstance(result, Classification):
            return {
                "loss": result.nll or 0.0,
                "accuracy": result.top1,
                "macro_f1": result.macro_f1,
            }
        mean_precision = result.mean_average_precision
        return {"accuracy": mean_precision, "exact_match": result.exact_match}

    return evaluate


def _model_label(config: TrainConfig, model: ModelConfig) -> str:
    """The model's name; one whose sizes were changed is said to be so."""
    changed = f"{config.model}, changed" if config.model else ""
    return get_model_name(model) or changed


def _save_best(
    out: Path,
    module: nn.Module,
    prepared: ModelBundle,
    audit: Audit,
    config: TrainConfig,
    step: int,
) -> None:
    model = module.model if isinstance(module, TrainableHead) else module
    vitral.weights.save(
        out / "model",
        model,  # type: ignore[arg-type]
        prepared.preprocess,
        classes=audit.dataset.classes if config.objective.LABELS else (),
        extra={
            "model": _model_label(config, prepared.model.config),
            "weights": config.weights,
            **prepared.origin,
            "step": step,
            "eval_views": config.eval_views,
            "multi_label": audit.dataset.multi_label,
            "precision": config.loop.precision,
            "objective": config.objective.NAME,
        },
    )
