"""Fine-tuning protocol of arXiv 2010.11929, appendix B.1.1.

Each learning rate of a grid is trained on train without a dev part and measured on dev.
The best one is then trained on all of train with several seeds, and measured on test.
Each training is a run folder and a cached result, so a finished one is not repeated.
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitral import config_io
from vitral.data import Dataset
from vitral.data.split import save
from vitral.errors import ConfigError, DivergedError
from vitral.evaluation.intervals import format_percent
from vitral.tasks import read_result
from vitral.validation import at_least
from vitral.workflows.config import TrainConfig
from vitral.workflows.features import (
    as_run,
    content_hash,
    dataset_for,
    held_out_split,
    weights_file_hash,
)
from vitral.workflows.result_cache import ResultCache
from vitral.workflows.runtime import Runtime
from vitral.workflows.train import train
from vitral.workflows.transfer.dev_split import merge_val_into_train, split_dev

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """Settings of the protocol; created by `vitral.recipes.plan_finetuning`."""

    config: TrainConfig
    """All settings but the learning rate, the seed and the split."""
    lrs: tuple[float, ...]
    """Learning rates to choose from; a single one is not searched."""
    dev: float
    """Share of train that the rates are measured on, 0..1."""
    seeds: int = 3
    """Number of trainings with the chosen rate."""
    why: str = ""
    """Recipe that the settings come from, and the reason for it."""
    differs: tuple[str, ...] = ()
    """Differences from the paper, a few words each."""

    def __post_init__(self) -> None:
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            raise ConfigError(
                f"`lrs` must be learning rates above 0: got {list(self.lrs)}."
            )
        if len(set(self.lrs)) != len(self.lrs):
            raise ConfigError(f"`lrs` names a rate twice: got {list(self.lrs)}.")
        at_least(1, seeds=self.seeds)
        if not 0 < self.dev < 1:
            raise ConfigError(f"`dev` must be a share inside 0..1: got {self.dev}.")


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """Result of one finished training."""

    lr: float
    seed: int
    accuracy: float | None
    """On dev in the search, on test at the end; None if the loss was not finite."""
    nll: float | None
    interval: tuple[float, float] | None
    """Wilson's 95 % interval over images."""
    n: int
    """Number of images measured."""
    seconds: float
    folder: str
    """Run folder, relative to the output folder."""
    fresh: bool
    """True if it was trained now."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """Result of the protocol."""

    plan: FinetunePlan
    lr: float
    """The chosen rate."""
    search: tuple[FinetuneRun, ...]
    """One run for each rate, measured on dev; empty for a single rate."""
    finals: tuple[FinetuneRun, ...]
    """One run for each seed, measured on test."""
    num_train_images: int
    """Number of images of train, val included."""

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each seed, on test."""
        return [run.accuracy for run in self.finals if run.accuracy is not None]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        values = self.accuracies
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "kind": "finetune",
            "lr": self.lr,
            "accuracy": self.accuracy,
            "deviation": self.deviation,
            "learned_from": self.num_train_images,
            "why": self.plan.why,
            "differs": list(self.plan.differs),
            "search": [asdict(run) for run in self.search],
            "finals": [asdict(run) for run in self.finals],
            "plan": config_io.to_dict(self.plan),
        }

    def lines(self) -> list[str]:
        """Format the result for the terminal."""
        lines = [f"settings: {self.plan.why}"] if self.plan.why else []
        lines += [f"not as in the paper: {text}" for text in self.plan.differs]
        for run in self.search:
            accuracy = (
                "diverged" if run.accuracy is None else f"{100 * run.accuracy:.1f} %"
            )
            lines.append(f"  lr {run.lr:<8g} dev  {accuracy} of {run.n:,} images")
        if self.search:
            note = _grid_edge_note(self.lr, self.plan.lrs)
            lines.append(f"chosen: lr {self.lr:g}{note}")
        for run in self.finals:
            assert run.accuracy is not None
            assert run.interval is not None
            lines.append(
                f"  seed {run.seed:<6} test {100 * run.accuracy:.1f} % of {run.n:,} "
                f"images (95 % interval {format_percent(run.interval)})"
            )
        spread = "one seed"
        if self.deviation is not None:
            spread = f"+- {100 * self.deviation:.1f} over {len(self.finals)} seeds"
        lines.append(
            f"finetune: {100 * self.accuracy:.1f} % ({spread}), learned from "
            f"{self.num_train_images:,} images"
        )
        return lines


@dataclass(frozen=True)
class _Runner:
    """Run the trainings of one plan, each a cached result with a run folder."""

    plan: FinetunePlan
    out: Path
    weights: str
    runtime: Runtime

    def run(self, dataset: Dataset, lr: float, seed: int, split: str) -> FinetuneRun:
        """Train on train and measure one split, or read the cached result.

        An interrupted training resumes; one that diverged is not repeated.
        """
        base = self.plan.config
        config = replace(
            base,
            seed=seed,
            val=0.0,
            test=0.0,
            optim=replace(base.optim, lr=lr),
            # At the end only: dev chooses the rate, and must not choose a step.
            loop=replace(base.loop, eval_every=0),
        )
        settings = config_io.to_dict(config)
        # Results depend on the content of weights and data, not on their paths.
        inputs = {
            "settings": settings | {"weights": "", "data": ""},
            "weights": self.weights,
            "data": dataset.fingerprint(),
            "content": content_hash(dataset, dataset.examples) or "",
            "measured": split,
        }
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        stage = "search" if split == "val" else "final"
        name = f"{stage}-lr{lr:g}-seed{seed}-{digest[:8]}"
        cached = ResultCache(self.out / "cells").get_or_compute(
            name, inputs, lambda: self._train(config, dataset, name, split)
        )
        result = cached.result
        interval = result["interval"]
        return FinetuneRun(
            lr=lr,
            seed=seed,
            accuracy=result["accuracy"],
            nll=result["nll"],
            interval=None if interval is None else (interval[0], interval[1]),
            n=result["n"],
            seconds=cached.seconds,
            folder=f"runs/{name}",
            fresh=cached.fresh,
        )

    def _train(
        self, config: TrainConfig, dataset: Dataset, name: str, split: str
    ) -> dict[str, Any]:
        folder = self.out / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "split.csv").is_file():
            save(dataset, folder / "split.csv")
        count = len(dataset.select(split))
        try:
            run = train(config, folder, resume=True, runtime=self.runtime)
        except DivergedError:
            return {"accuracy": None, "nll": None, "interval": None, "n": count}
        result = run.metrics[split]
        headline = read_result(result).headline()
        return {
            "accuracy": headline.value,
            "nll": result.get("nll"),
            "interval": result[f"{headline.field}_interval"],
            "n": result["n"],
        }


def finetune(
    plan: FinetunePlan, out: str | Path, *, runtime: Runtime | None = None
) -> FinetuneResult:
    """Choose the learning rate on dev, train with it, and measure on test.

    The same call resumes an interrupted one: finished trainings are read from `out`, an
    unfinished one resumes from its last checkpoint.

    Args:
        plan: `plan.config` names weights and data; a run's own data keeps its split.

    Raises:
        ConfigError: the data has no split to measure on.
        DataError: the data cannot be trained on, or is too small for a dev split.
        DivergedError: with every rate, or with the chosen one, the loss is not finite.
        InterruptedRun: a signal arrived; a checkpoint was written.
    """
    weights = plan.config.weights
    dataset = dataset_for(as_run(weights) or weights, plan.config.data)
    held_out_split(dataset)
    full = merge_val_into_train(dataset)
    runner = _Runner(plan, Path(out), weights_file_hash(weights), runtime or Runtime())
    search: list[FinetuneRun] = []
    lr = plan.lrs[0]
    if len(plan.lrs) > 1:
        with_dev = split_dev(full, plan.dev)
        for rate in plan.lrs:
            logger.info(f"finetune: lr {rate:g}, measured on dev")
            search.append(runner.run(with_dev, rate, plan.config.seed, "val"))
        lr = _best_lr(search)
        logger.info(f"finetune: lr {lr:g} is the best on dev")
    finals = []
    for seed in range(plan.config.seed, plan.config.seed + plan.seeds):
        logger.info(f"finetune: lr {lr:g}, seed {seed}, on all of train")
        finals.append(runner.run(full, lr, seed, "test"))
        if finals[-1].accuracy is None:
            raise DivergedError(
                f"Fine-tuning {weights} on {plan.config.data} with lr {lr:g} and seed "
                f"{seed} diverged, although dev chose that rate: give smaller ones "
                "with `lrs`."
            )
    return FinetuneResult(
        plan, lr, tuple(search), tuple(finals), len(full.select("train"))
    )


def _best_lr(search: list[FinetuneRun]) -> float:
    """Return the rate of the highest accuracy, then lowest loss, then the lowest."""
    ranked = [
        (-run.accuracy, run.nll or 0.0, run.lr)
        for run in search
        if run.accuracy is not None
    ]
    if not ranked:
        rates = ", ".join(f"{run.lr:g}" for run in search)
        raise DivergedError(
            f"Fine-tuning diverged with every learning rate of {rates}: give smaller "
            "ones with `lrs`."
        )
    return min(ranked)[2]


def _grid_edge_note(lr: float, lrs: tuple[float, ...]) -> str:
    if lr == max(lrs):
        return ", the largest of the grid: a larger one may be better"
    if lr == min(lrs):
        return ", the smallest of the grid: a smaller one may be better"
    return ""
