"""Fine-tuning as a measurement: the rate by a dev split, then all of train, by seeds.

The protocol of arXiv 2010.11929, appendix B.1.1: every rate of a grid is tried on train
without a dev part, which judges them; the best one then learns from the whole of train
with several seeds, and test is measured. Every training is a run folder of its own and
a cell, so that none is repeated that was finished.
"""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitral import config_io
from vitral.data import Dataset
from vitral.data.split import hash_fraction, save
from vitral.errors import ConfigError, DataError, DivergedError
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """What is trained; made by `vitral.recipes.plan_finetuning`."""

    config: TrainConfig
    """Everything but the learning rate, the seed and the split."""
    lrs: tuple[float, ...]
    """Rates to choose from; with one of them nothing is searched."""
    dev: float
    """Share of train that judges the rates, 0..1."""
    seeds: int = 3
    """Trainings with the chosen rate."""
    why: str = ""
    """The recipe that the settings come from, and why it was taken."""
    differs: tuple[str, ...] = ()
    """What is not as in the paper, a few words each."""

    def __post_init__(self) -> None:
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            raise ConfigError(
                f"`lrs` must be learning rates above 0: got {list(self.lrs)}."
            )
        if len(set(self.lrs)) != len(self.lrs):
            raise ConfigError(f"`lrs` names a rate twice: got {list(self.lrs)}.")
        if self.seeds < 1:
            raise ConfigError(f"`seeds` must be at least 1: got {self.seeds}.")
        if not 0 < self.dev < 1:
            raise ConfigError(f"`dev` must be a share inside 0..1: got {self.dev}.")


class FinetuneRun(NamedTuple):
    """One finished training."""

    lr: float
    seed: int
    accuracy: float | None
    """On dev in the search, on test at the end; None if the loss was not finite."""
    nll: float | None
    interval: tuple[float, float] | None
    """Wilson's 95 % interval over images."""
    n: int
    """Images measured."""
    seconds: float
    folder: str
    """Of the run, below the output folder."""
    fresh: bool
    """Whether it was trained now."""


class FinetuneResult(NamedTuple):
    """The result of the protocol."""

    plan: FinetunePlan
    lr: float
    """The rate that was chosen."""
    search: tuple[FinetuneRun, ...]
    """One for each rate, measured on dev; empty where there was one rate."""
    finals: tuple[FinetuneRun, ...]
    """One for each seed, measured on test."""
    num_train_images: int
    """Images of train, with val."""

    @property
    def accuracies(self) -> list[float]:
        """Of each seed, on test."""
        return [one.accuracy for one in self.finals if one.accuracy is not None]

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation over the seeds; None for one seed."""
        values = self.accuracies
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "kind": "finetune",
            "lr": self.lr,
            "accuracy": self.accuracy,
            "deviation": self.deviation,
            "learned_from": self.num_train_images,
            "why": self.plan.why,
            "differs": list(self.plan.differs),
            "search": [one._asdict() for one in self.search],
            "finals": [one._asdict() for one in self.finals],
            "plan": config_io.to_dict(self.plan),
        }

    def lines(self) -> list[str]:
        """What the command prints."""
        lines = [f"settings: {self.plan.why}"] if self.plan.why else []
        lines += [f"not as in the paper: {words}" for words in self.plan.differs]
        for one in self.search:
            found = (
                "diverged" if one.accuracy is None else f"{100 * one.accuracy:.1f} %"
            )
            lines.append(f"  lr {one.lr:<8g} dev  {found} of {one.n:,} images")
        if self.search:
            lines.append(
                f"chosen: lr {self.lr:g}{_grid_edge_note(self.lr, self.plan.lrs)}"
            )
        for one in self.finals:
            assert one.accuracy is not None
            assert one.interval is not None
            low, high = one.interval
            lines.append(
                f"  seed {one.seed:<6} test {100 * one.accuracy:.1f} % of {one.n:,} "
                f"images (95 % interval {100 * low:.1f} to {100 * high:.1f})"
            )
        spread = "one seed"
        if self.deviation is not None:
            spread = f"+- {100 * self.deviation:.1f} over {len(self.finals)} seeds"
        lines.append(
            f"finetune: {100 * self.accuracy:.1f} % ({spread}), learned from "
            f"{self.num_train_images:,} images"
        )
        return lines


def finetune(
    plan: FinetunePlan,
    out: str | Path,
    *,
    workers: int = 0,
    device: str = "auto",
) -> FinetuneResult:
    """Choose the rate, train with it, measure; what `out` holds already is kept.

    The same call goes on where an interrupted one stopped: finished trainings are
    read, an unfinished one resumes from its last checkpoint.

    Args:
        plan: `plan.config` names weights and data; a run's own data keeps its split.

    Raises:
        ConfigError: the data has nothing to measure on.
        DataError: it cannot be trained on, or too small for a dev split.
        DivergedError: with every rate, or with the chosen one, the loss is not finite.
        InterruptedRun: a signal arrived; a checkpoint was written.
    """
    weights = plan.config.weights
    dataset = dataset_for(as_run(weights) or weights, plan.config.data)
    held_out_split(dataset)
    whole = merge_val_into_train(dataset)
    runtime = Runtime(device=device, workers=workers)
    trainings = _Runner(plan, Path(out), weights_file_hash(weights), runtime)
    search: list[FinetuneRun] = []
    lr = plan.lrs[0]
    if len(plan.lrs) > 1:
        parted = split_dev(whole, plan.dev)
        for rate in plan.lrs:
            logger.info(f"finetune: lr {rate:g}, measured on dev")
            search.append(trainings.run(parted, rate, plan.config.seed, "val"))
        lr = _best_lr(search)
        logger.info(f"finetune: lr {lr:g} is the best on dev")
    finals = []
    for seed in range(plan.config.seed, plan.config.seed + plan.seeds):
        logger.info(f"finetune: lr {lr:g}, seed {seed}, on all of train")
        finals.append(trainings.run(whole, lr, seed, "test"))
        if finals[-1].accuracy is None:
            raise DivergedError(
                f"Fine-tuning {weights} on {plan.config.data} with lr {lr:g} and seed "
                f"{seed} diverged, although dev chose that rate: give smaller ones "
                "with `--lrs`."
            )
    return FinetuneResult(
        plan, lr, tuple(search), tuple(finals), len(whole.select("train"))
    )


@dataclass(frozen=True)
class _Runner:
    """Every training of one plan: a cell beside its run folder."""

    plan: FinetunePlan
    out: Path
    weights: str
    runtime: Runtime

    def run(self, dataset: Dataset, lr: float, seed: int, split: str) -> FinetuneRun:
        """Train on `dataset`'s train and measure one split, or read it if it is there.

        A training that was begun goes on; one that diverged is not tried again.
        """
        given = self.plan.config
        config = replace(
            given,
            seed=seed,
            val=0.0,
            test=0.0,
            optim=replace(given.optim, lr=lr),
            # At the end only: dev chooses the rate, and must not choose the step too.
            loop=replace(given.loop, eval_every=0),
        )
        settings = config_io.to_dict(config)
        # Where weights and data lie decides nothing; what they are does.
        about = {
            "settings": settings | {"weights": "", "data": ""},
            "weights": self.weights,
            "data": dataset.fingerprint(),
            "content": content_hash(dataset, dataset.examples) or "",
            "measured": split,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        kind = "search" if split == "val" else "final"
        name = f"{kind}-lr{lr:g}-seed{seed}-{digest[:8]}"
        cell = ResultCache(self.out / "cells").get_or_compute(
            name, about, lambda: self._train(config, dataset, name, split)
        )
        found = cell.result
        interval = found["interval"]
        return FinetuneRun(
            lr=lr,
            seed=seed,
            accuracy=found["accuracy"],
            nll=found["nll"],
            interval=None if interval is None else (interval[0], interval[1]),
            n=found["n"],
            seconds=cell.seconds,
            folder=f"runs/{name}",
            fresh=cell.fresh,
        )

    def _train(
        self, config: TrainConfig, dataset: Dataset, name: str, split: str
    ) -> dict[str, Any]:
        folder = self.out / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "split.csv").is_file():
            save(dataset, folder / "split.csv")
        number = len(dataset.select(split))
        try:
            run = train(config, folder, resume=True, runtime=self.runtime)
        except DivergedError:
            return {"accuracy": None, "nll": None, "interval": None, "n": number}
        result = run.metrics[split]
        return {
            "accuracy": result["top1"],
            "nll": result["nll"],
            "interval": result["top1_interval"],
            "n": result["n"],
        }


def _best_lr(search: list[FinetuneRun]) -> float:
    """The rate of the highest accuracy, then of the lowest loss, then the lowest."""
    found = [
        (-one.accuracy, one.nll or 0.0, one.lr)
        for one in search
        if one.accuracy is not None
    ]
    if not found:
        rates = ", ".join(f"{one.lr:g}" for one in search)
        raise DivergedError(
            f"Fine-tuning diverged with every learning rate of {rates}: give smaller "
            "ones with `--lrs`."
        )
    return min(found)[2]


def _grid_edge_note(lr: float, lrs: tuple[float, ...]) -> str:
    if lr == max(lrs):
        return ", the largest of the grid: a larger one may be better"
    if lr == min(lrs):
        return ", the smallest of the grid: a smaller one may be better"
    return ""


DEV_SEED = 0
"""Of the hash that says which images of train are dev."""


def merge_val_into_train(dataset: Dataset) -> Dataset:
    """Train with val as train, and what is measured as test."""
    held_out = held_out_split(dataset)
    return replace(
        dataset,
        examples=tuple(
            replace(example, split="test" if example.split == held_out else "train")
            for example in dataset.examples
        ),
    )


def split_dev(dataset: Dataset, share: float) -> Dataset:
    """A share of train as val, by a hash of the path or group; groups never part.

    Raises:
        DataError: nothing would be left of train.
    """
    keys = {example.group or example.id for example in dataset.select("train")}
    # Another word than the id alone, which may have decided what is test.
    order = sorted(keys, key=lambda key: hash_fraction(DEV_SEED, f"dev {key}"))
    number = max(1, round(share * len(order)))
    if number >= len(order):
        raise DataError(
            f"{dataset.name} has {len(order)} images or groups to learn from: too few "
            "to choose a learning rate with. Give one rate with `--lrs`."
        )
    dev = set(order[:number])
    return replace(
        dataset,
        examples=tuple(
            replace(example, split="val")
            if example.split == "train" and (example.group or example.id) in dev
            else example
            for example in dataset.examples
        ),
    )
