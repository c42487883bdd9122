"""Sweep: time each candidate interleaved with the baseline, and score it on one split.

Interleaved, since other load then slows both and the ratio stays.
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitral.autotune.calibration_data import SweepImages, open_images
from vitral.autotune.candidate import Candidate, CandidateBuilder
from vitral.autotune.measurement import Point
from vitral.autotune.plan import SweepPlan, make_candidates
from vitral.errors import DataError, VitralError
from vitral.evaluation.compare import loss_interval
from vitral.evaluation.intervals import mean_interval
from vitral.workflows.inference import InferenceSpec, Views, predict_outputs
from vitral.workflows.run import Run, open_run

logger = logging.getLogger(__name__)

MIN_TURN_SECONDS = 0.02
"""Shortest timed round, in seconds: single passes below a millisecond are noise."""


@dataclass(kw_only=True)
class SweepResult:
    """Points of a sweep, and candidates left out."""

    points: list[Point] = field(default_factory=list)
    """The first is the baseline of the others."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Reason by candidate that was not measured."""
    run_size: tuple[int, int] = (0, 0)
    run_merge: int = 0
    """Tokens that the run merges in each block."""
    views: Views = "one"
    """Views of each image in timing and scoring."""
    run_views: Views = "one"


def sweep(
    path: str | Path,
    plan: SweepPlan,
    on_result: Callable[[SweepResult], None] = lambda result: None,
) -> SweepResult:
    """Measure every candidate of the plan on this machine and the run's own images.

    A candidate that fails is left out with its error; only the first must work.

    Args:
        on_result: called with the result so far after each candidate and on Ctrl-C.

    Raises:
        ConfigError: the run has no such split, or its images have several labels.
    """
    end = time.monotonic() + (60 * plan.minutes if plan.minutes else float("inf"))
    run = open_run(path)
    dataset = open_images(run, plan.split)
    run_views = run.inference_spec.views
    result = SweepResult(
        run_size=run.preprocess.image_size,
        run_merge=int(getattr(run.model.config, "merge_rate", 0)),
        views=plan.views or run_views,
        run_views=run_views,
    )
    images = SweepImages(
        run, dataset, split=plan.split, images=plan.images, seed=plan.seed
    )
    candidates = list(make_candidates(plan, run))
    spec = replace(run.inference_spec, views=result.views)
    measurer = _Measurer(run, images, candidates[0], spec=spec, rounds=plan.rounds)
    for index, candidate in enumerate(candidates):
        try:
            if result.points and time.monotonic() > end:
                raise _BudgetExceededError(f"not begun within {plan.minutes:g} min")
            point = measurer.measure(candidate, end, plan.minutes)
        except KeyboardInterrupt:
            for rest in candidates[index:]:
                result.left_out[str(rest)] = "stopped before it was measured"
            on_result(result)
            raise
        except Exception as error:
            # A runtime's error must not lose the points already measured.
            result.left_out[str(candidate)] = _reason(error)
            logger.info(f"{candidate}: left out: {_reason(error)}")
        else:
            result.points.append(point)
            logger.info(_line(point))
        on_result(result)
    return result


def time_pair(
    first: tuple[nn.Module, Tensor],
    other: tuple[nn.Module, Tensor],
    rounds: int,
    min_seconds: float = MIN_TURN_SECONDS,
) -> np.ndarray:
    """Return seconds per image of both, interleaved, [rounds, 2].

    Each has a warm-up pass, then one that sets the passes per round so that a round
    takes `min_seconds`.
    """
    pair = (first, other)
    passes = [0, 0]
    for i, (model, images) in enumerate(pair):
        _seconds(model, images, 1)
        passes[i] = max(1, math.ceil(min_seconds / _seconds(model, images, 1)))
    seconds = np.zeros((rounds, 2))
    for round_ in range(rounds):
        for i, (model, images) in enumerate(pair):
            per_pass = _seconds(model, images, passes[i]) / passes[i]
            seconds[round_, i] = per_pass / len(images)
    return seconds


def _seconds(model: nn.Module, images: Tensor, passes: int) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(passes):
            model(images)
    return time.perf_counter() - started


class _BudgetExceededError(Exception):
    """The minutes of the plan are over."""


class _Measurer:
    """Measures candidates against the first; at most one other is in memory."""

    def __init__(
        self,
        run: Run,
        images: SweepImages,
        first: Candidate,
        *,
        spec: InferenceSpec,
        rounds: int,
    ) -> None:
        self._images, self._spec, self._rounds = images, spec, rounds
        self._maker = CandidateBuilder(run.model, images.calibration)
        self._first = first
        self._baseline = self._make_module(first)
        self._baseline_images = images.batch(first.image_size, first.batch)
        self._baseline_correct = _score_images(
            self._baseline, images, first, float("inf")
        )
        self._failed: dict[object, str] = {}
        self._graph: object = first.graph_key
        self._ask: nn.Module | None = self._baseline
        self._correct = self._baseline_correct

    def measure(self, candidate: Candidate, end: float, minutes: float) -> Point:
        """Time and score a candidate."""
        if candidate.graph_key in self._failed:
            raise DataError(self._failed[candidate.graph_key])
        if candidate.graph_key != self._graph or self._ask is None:
            # Release the previous module before the next is built.
            self._graph = self._ask = None
            gc.collect()
            try:
                self._ask = self._make_module(candidate)
                self._correct = _score_images(self._ask, self._images, candidate, end)
            except _BudgetExceededError:
                self._ask = None
                raise _BudgetExceededError(
                    f"not finished within {minutes:g} min"
                ) from None
            except Exception as error:
                self._ask = None
                self._failed[candidate.graph_key] = _reason(error)
                raise
            self._graph = candidate.graph_key
        images = self._images.batch(candidate.image_size, candidate.batch)
        times = time_pair(
            (self._baseline, self._baseline_images), (self._ask, images), self._rounds
        )
        return _point(candidate, times, self._correct, self._baseline_correct)

    def _make_module(self, candidate: Candidate) -> nn.Module:
        precision = self._spec.precision if candidate.runtime == "torch" else "fp32"
        spec = replace(self._spec, precision=precision)
        return _InferenceModule(self._maker.make(candidate), spec)


class _InferenceModule(nn.Module):
    """Computes logits with the run's views and, in torch, its precision."""

    def __init__(self, model: nn.Module, spec: InferenceSpec) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, image: Tensor) -> Tensor:
        return predict_outputs(self.model, image, self.spec)


def _score_images(
    model: nn.Module, images: SweepImages, candidate: Candidate, end: float
) -> np.ndarray:
    """Return how good the answer for each image of the split is, [images]."""
    batches, targets = images.load_scored(candidate.image_size)
    run, scores = images.run, []
    for batch, target in zip(batches, targets, strict=True):
        if time.monotonic() > end:
            raise _BudgetExceededError
        logits = model(batch)
        if not torch.isfinite(logits).all():
            raise DataError("its logits are not finite numbers")
        scores.append(run.task.score(logits.numpy(), target, run.labels))
    return np.concatenate(scores)


def _reason(error: Exception) -> str:
    """Return the message of an error, with its type unless it is ours."""
    message = " ".join(str(error).split())
    if isinstance(error, VitralError | ImportError | _BudgetExceededError):
        return message
    name = type(error).__name__
    return f"{name}: {message[:300]}" if message else name


def _line(point: Point) -> str:
    return (
        f"{point.candidate}: {point.ms:.2f} ms an image, {point.speedup:.2f} times the "
        f"first, {100 * point.accuracy:.1f} %, {point.drop:+.2f} points lost"
    )


def _point(
    candidate: Candidate, times: np.ndarray, right: np.ndarray, before: np.ndarray
) -> Point:
    ms = 1000 * times[:, 1]
    return Point(
        candidate=candidate,
        ms=float(np.median(ms)),
        ms_range=(float(np.quantile(ms, 0.25)), float(np.quantile(ms, 0.75))),
        first_ms=float(np.median(1000 * times[:, 0])),
        speedup=float(np.median(times[:, 0] / times[:, 1])),
        accuracy=float(right.mean()),
        interval=mean_interval(right),
        drop=100 * float(before.mean() - right.mean()),
        drop_interval=loss_interval(before, right),
        images=len(right),
    )
