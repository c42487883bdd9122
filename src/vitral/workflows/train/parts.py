"""Parts of a training run: everything that `fit` needs, built from the plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from vitral.data import Loader, Transform, TransformSchedule
from vitral.evaluation import Classification
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.training.fit import EpochBatches, FitSpec
from vitral.workflows.dataset import bad_files_in
from vitral.workflows.inference import compute_metrics, split_loader
from vitral.workflows.inputs import with_single_view
from vitral.workflows.runtime import rank_zero_first
from vitral.workflows.session import Session
from vitral.workflows.train.build import (
    ModelBundle,
    build_model,
    build_optimizer,
    train_loader,
)
from vitral.workflows.train.build_objective import build_objective
from vitral.workflows.train.frozen_cache import CachedLoader, cache_frozen_outputs
from vitral.workflows.train.knn_monitor import Monitor
from vitral.workflows.train.metadata import log_summary, write_metadata
from vitral.workflows.train.plan import TrainPlan, config_hash
from vitral.workflows.train.progressive_resizing import build_transform
from vitral.workflows.train.rank_loader import make_rank_loader, predict_loader

Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """The modules and loaders of a run, on its device."""

    bundle: ModelBundle
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    batches: EpochBatches
    spec: FitSpec
    monitor: Monitor
    evaluate: Evaluate | None
    """Metrics of a model on val; None where the data has no val split."""


@dataclass(frozen=True, kw_only=True)
class _Loaders:
    train: Loader | CachedLoader
    val: Loader | CachedLoader | None


def build(plan: TrainPlan, session: Session) -> RunParts:
    """Build model, objective, loaders and optimizer; record the start of the run.

    Nothing is written into the folder before all modules stand.

    Raises:
        ConfigError: the objective cannot train this model.
        WeightsError: the weights, or the teacher's, do not fit.
    """
    config = plan.config
    bundle = build_model(config, plan.model, plan.source, plan.classes)
    transform = build_transform(config, plan.model, bundle.preprocess, plan.steps)
    objective = build_objective(config, bundle, plan.audit.dataset.classes)
    broadcast_from_rank_zero(lambda: write_metadata(plan, session))
    bundle.model.to(session.device)
    log_summary(plan, bundle)
    loaders = _make_loaders(plan, session, bundle, transform)
    monitor = Monitor(
        dataset=plan.audit.dataset,
        preprocess=bundle.preprocess,
        batch_size=config.batch_size,
        device=session.device,
        bf16=config.loop.precision == "bf16",
    )
    batches = make_rank_loader(loaders.train, config.loop.accumulate)
    return RunParts(
        bundle=bundle,
        objective=objective,
        optimizer=build_optimizer(config, bundle.model, objective),
        batches=EpochBatches(epoch=batches.epoch, per_epoch=len(loaders.train)),
        spec=_make_spec(plan, session),
        monitor=monitor,
        evaluate=_make_evaluate(plan, loaders.val, session.device)
        if config.objective.LABELS
        else monitor.make_evaluate(objective),
    )


def _make_spec(plan: TrainPlan, session: Session) -> FitSpec:
    config, runtime = plan.config, session.runtime
    return FitSpec(
        loop=replace(config.loop, steps=plan.steps),
        lr=plan.lr,
        folder=session.out,
        seed=config.seed,
        clip_norm=config.optim.clip_norm,
        resume=session.resume,
        identity={
            "config": config_hash(config),
            "data": plan.audit.dataset.fingerprint(),
        },
        shard=runtime.shard,
        recompute=runtime.checkpoint_activations,
    )


def _make_loaders(
    plan: TrainPlan,
    session: Session,
    bundle: ModelBundle,
    transform: Transform | TransformSchedule,
) -> _Loaders:
    config, dataset = plan.config, plan.audit.dataset
    preprocess, workers = bundle.preprocess, session.runtime.workers
    train = train_loader(config, dataset, preprocess, workers, transform)
    val = None
    if dataset.select("val"):
        val = split_loader(
            dataset,
            "val",
            with_single_view(preprocess) if config.cache else preprocess,
            batch_size=config.batch_size,
            workers=workers,
        )
    if not config.cache:
        return _Loaders(train=train, val=val)
    key = f"{config_hash(config)} {dataset.fingerprint()}"

    def cache(loader: Loader, folder: Path, views: int) -> CachedLoader:
        return rank_zero_first(
            lambda: cache_frozen_outputs(
                loader,
                bundle.model,
                folder,
                key=key,
                views=views,
                device=session.device,
                bf16=config.loop.precision == "bf16",
            )
        )

    folder = session.out / "cache"
    cached_val = None if val is None else cache(val, folder / "val", 1)
    return _Loaders(
        train=cache(train, folder / "train", config.augment.views), val=cached_val
    )


def _make_evaluate(
    plan: TrainPlan, loader: Loader | CachedLoader | None, device: torch.device
) -> Evaluate | None:
    if loader is None:
        return None
    config, dataset = plan.config, plan.audit.dataset
    # Cached outputs are those of one view.
    views = "one" if config.cache else config.eval_views
    bad = bad_files_in(plan.audit.bad, "val")

    def evaluate(module: nn.Module) -> dict[str, float]:
        predictions = predict_loader(
            module,
            loader,
            device=device,
            views=views,
            bf16=config.loop.precision == "bf16",
            multi_label=dataset.multi_label,
        )
        result = compute_metrics(
            predictions, dataset.classes, bad, multi_label=dataset.multi_label
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
