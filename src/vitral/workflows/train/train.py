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
from vitral.data import Audit, Loader, Stages, Transform
from vitral.evaluation import Classification
from vitral.models import ModelConfig, name_of
from vitral.training import lr_at, steps_for
from vitral.training.distributed import TIMEOUT, from_first, rank
from vitral.training.fit import Shard, fit
from vitral.workflows.config import VOLATILE, TrainConfig
from vitral.workflows.dataset import audit, bad_of, kind_of_run, open_data
from vitral.workflows.inference import measure, split_loader
from vitral.workflows.inputs import one_view
from vitral.workflows.run import Run
from vitral.workflows.train.build import (
    Prepared,
    optimizer_of,
    prepare_model,
    train_loader,
)
from vitral.workflows.train.build_objective import build_objective, refuse_objective
from vitral.workflows.train.finalize import finish, finish_without_labels
from vitral.workflows.train.frozen_cache import CachedLoader, Tail, cached
from vitral.workflows.train.knn_monitor import Monitor
from vitral.workflows.train.progressive_resizing import (
    described,
    image_sizes,
    run_transform,
)
from vitral.workflows.train.rank_loader import (
    first_alone,
    for_rank,
    score_batches,
)
from vitral.workflows.train.session import Begun, begun, tell, write_facts


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
    shard: Shard = "none",
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
    with begun(config, out, **about) as start:  # type: ignore[arg-type]
        return _train(
            config, out, start, workers, announce, shard, checkpoint_activations
        )


def _train(
    config: TrainConfig,
    out: Path,
    start: Begun,
    workers: int,
    announce: Callable[[str], None] | None,
    shard: Shard,
    recompute: bool,
) -> Run:
    place = start.place
    dataset = open_data(config, kind_of_run(config))
    refuse_objective(config, dataset)
    prepared = prepare_model(config, dataset.classes)
    found = from_first(lambda: audit(dataset, out / "split.csv", config, workers))
    steps = config.loop.steps or steps_for(
        len(found.dataset.select("train")), config.epochs, config.batch_size
    )
    # These refuse what cannot be before there is a config.json.
    lr_at(0, steps, config.optim.lr, config.schedule)
    transform = run_transform(config, prepared.model.config, prepared.preprocess, steps)
    objective = build_objective(config, prepared, dataset.classes)
    from_first(lambda: write_facts(config, out, found, place))
    prepared.model.to(place)
    if announce is not None and rank() == 0:
        tell(announce, found, prepared)
        if config.resolutions:
            sizes = image_sizes(config, prepared.model.config, prepared.preprocess)
            announce(f"images: {described(sizes, steps)}")
    loaders = _loaders(config, found, prepared, transform, out, place, workers)
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
        optimizer_of(config, prepared.model, objective),
        config=loop,
        batches=for_rank(loaders.train, loop.accumulate).epoch,
        batches_per_epoch=len(loaders.train),
        lr=lambda step: lr_at(step, steps, config.optim.lr, config.schedule),
        evaluate=_evaluation(config, found, loaders, place)
        if config.objective.LABELS
        else monitor.hook(objective),
        folder=out,
        seed=config.seed,
        device=place,
        clip_norm=config.optim.clip_norm,
        resume=start.resume,
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
        finish(out, found, place)
    elif rank() == 0:
        finish_without_labels(out, found, ended.objective, monitor)
    if rank() == 0:
        shutil.rmtree(out / "cache", ignore_errors=True)
    return Run(out)


def config_hash(config: TrainConfig) -> str:
    """A hash of every setting that changes a number of the run."""
    # Once through JSON's types, or `epochs=8` and `epochs=8.0` would be two runs.
    plain = config_io.from_plain(TrainConfig, config_io.to_plain(config), "The config")
    values = config_io.to_plain(plain)
    for name in VOLATILE:
        values.pop(name)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _loaders(
    config: TrainConfig,
    found: Audit,
    prepared: Prepared,
    transform: Transform | Stages,
    out: Path,
    device: torch.device,
    workers: int,
) -> Loaders:
    dataset, preprocess = found.dataset, prepared.preprocess
    train_images = train_loader(config, dataset, preprocess, workers, transform)
    val_images = None
    if dataset.select("val"):
        val_images = split_loader(
            dataset,
            "val",
            one_view(preprocess) if config.cache else preprocess,
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
        cached_val = first_alone(
            lambda: cached(val_images, prepared.model, folder, views=1, **about)
        )
    return Loaders(
        first_alone(
            lambda: cached(
                train_images,
                prepared.model,
                out / "cache" / "train",
                views=config.augment.views,
                **about,
            )
        ),
        cached_val,
    )


def _evaluation(
    config: TrainConfig, found: Audit, loaders: Loaders, device: torch.device
) -> Any:
    """What the loop calls to judge a model on val; None without a val split."""
    val = loaders.val
    if val is None:
        return None
    multi_label = found.dataset.multi_label
    # Cached outputs are those of one view.
    views = "one" if config.cache else config.eval_views

    def evaluate(module: nn.Module) -> dict[str, float]:
        scores = score_batches(
            module,
            val,
            device=device,
            views=views,
            bf16=config.loop.precision == "bf16",
            multi_label=multi_label,
        )
        bad = bad_of(found.bad, "val")
        result = measure(scores, found.dataset.classes, bad, multi_label=multi_label)
        if isinstance(result, Classification):
            return {
                "loss": result.nll or 0.0,
                "accuracy": result.top1,
                "macro_f1": result.macro_f1,
            }
        mean_precision = result.mean_average_precision
        return {"accuracy": mean_precision, "exact_match": result.exact_match}

    return evaluate


def _called(config: TrainConfig, model: ModelConfig) -> str:
    """The model's name; one whose sizes were changed is said to be so."""
    changed = f"{config.model}, changed" if config.model else ""
    return name_of(model) or changed


def _save_best(
    out: Path,
    module: nn.Module,
    prepared: Prepared,
    found: Audit,
    config: TrainConfig,
    step: int,
) -> None:
    model = module.model if isinstance(module, Tail) else module
    vitral.weights.save(
        out / "model",
        model,  # type: ignore[arg-type]
        prepared.preprocess,
        classes=found.dataset.classes if config.objective.LABELS else (),
        extra={
            "model": _called(config, prepared.model.config),
            "weights": config.weights,
            **prepared.origin,
            "step": step,
            "eval_views": config.eval_views,
            "multi_label": found.dataset.multi_label,
            "precision": config.loop.precision,
            "objective": config.objective.NAME,
        },
    )
