"""The sweep: each candidate timed in turns with the first, and scored on one split.

Timing in turns: a machine that slows down in between slows both, so the ratio stays.
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitral.autotune.calibration_data import SweepImages, open_images
from vitral.autotune.candidate import Candidate, CandidateBuilder
from vitral.autotune.measurement import Point
from vitral.autotune.plan import SweepPlan, make_candidates
from vitral.errors import DataError, VitralError
from vitral.evaluation.compare import paired_bootstrap
from vitral.evaluation.intervals import wilson
from vitral.workflows.inference import Views, predict_logits
from vitral.workflows.run import Run, open_run

logger = logging.getLogger(__name__)

MIN_TURN_SECONDS = 0.02
"""Of a turn: passes of less than a millisecond say little one by one."""


@dataclass(kw_only=True)
class SweepResult:
    """What came out."""

    points: list[Point] = field(default_factory=list)
    """The first is what the others are compared with."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Candidates that were not measured, with the reason."""
    run_size: tuple[int, int] = (0, 0)
    run_merge: int = 0
    """Tokens that the run merges in each block by itself."""
    views: Views = "one"
    """Of each image, while it was timed and scored."""
    run_views: Views = "one"


def sweep(
    path: str | Path,
    plan: SweepPlan,
    on_result: Callable[[SweepResult], None] = lambda swept: None,
) -> SweepResult:
    """Measure every candidate of the plan on this machine and the run's own images.

    What a candidate fails of is its reason for being left out; only the first one must
    work.

    Args:
        on_result: called with what there is after each candidate, and when interrupted.

    Raises:
        ConfigError: the run has no such split, or is not of images with one label.
    """
    end = time.monotonic() + (60 * plan.minutes if plan.minutes else float("inf"))
    run = open_run(path)
    dataset = open_images(run, plan.split)
    own_views: Views = run.extra.get("eval_views", "one")
    swept = SweepResult(
        run_size=run.preprocess.image_size,
        run_merge=int(getattr(run.model.config, "merge_rate", 0)),
        views=plan.views or own_views,
        run_views=own_views,
    )
    pictures = SweepImages(
        run, dataset, split=plan.split, images=plan.images, seed=plan.seed
    )
    candidates = list(make_candidates(plan, run))
    bench = _Measurer(run, pictures, swept.views, candidates[0], plan.rounds)
    for place, candidate in enumerate(candidates):
        try:
            if swept.points and time.monotonic() > end:
                raise _BudgetExceededError(f"not begun within {plan.minutes:g} min")
            point = bench.measure(candidate, end, plan.minutes)
        except KeyboardInterrupt:
            for rest in candidates[place:]:
                swept.left_out[str(rest)] = "stopped before it was measured"
            on_result(swept)
            raise
        except Exception as error:
            # Whatever a runtime throws concerns this way alone, not those measured.
            swept.left_out[str(candidate)] = _reason(error)
            logger.info(f"{candidate}: left out: {_reason(error)}")
        else:
            swept.points.append(point)
            logger.info(_line(point))
        on_result(swept)
    return swept


def time_pair(
    first: tuple[nn.Module, Tensor],
    other: tuple[nn.Module, Tensor],
    rounds: int,
    min_seconds: float = MIN_TURN_SECONDS,
) -> np.ndarray:
    """Seconds an image of both, in turns, [rounds, 2].

    Two passes of each go before: the first makes ready, the second says how many passes
    a turn has so that it takes `min_seconds` seconds.
    """
    both = (first, other)
    passes = [0, 0]
    for place, (model, images) in enumerate(both):
        _seconds(model, images, 1)
        passes[place] = max(1, math.ceil(min_seconds / _seconds(model, images, 1)))
    seconds = np.zeros((rounds, 2))
    for turn in range(rounds):
        for place, (model, images) in enumerate(both):
            each = _seconds(model, images, passes[place]) / passes[place]
            seconds[turn, place] = each / len(images)
    return seconds


def _seconds(model: nn.Module, images: Tensor, passes: int) -> float:
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(passes):
            model(images)
    return time.perf_counter() - began


class _BudgetExceededError(Exception):
    """The time of the plan is over."""


class _Measurer:
    """The first candidate, and beside it one other at a time."""

    def __init__(
        self,
        run: Run,
        pictures: SweepImages,
        views: Views,
        first: Candidate,
        rounds: int,
    ) -> None:
        self._pictures, self._views, self._rounds = pictures, views, rounds
        self._bf16 = run.extra.get("precision") == "bf16"
        self._maker = CandidateBuilder(run.model, pictures.calibration)
        self._first = first
        self._baseline = self._make_module(first)
        self._images = pictures.batch(first.image_size, first.batch)
        self._baseline_correct = _correct_mask(
            self._baseline, pictures, first, float("inf")
        )
        self._failed: dict[object, str] = {}
        self._graph: object = first.graph_key
        self._ask: nn.Module | None = self._baseline
        self._correct = self._baseline_correct

    def measure(self, candidate: Candidate, end: float, minutes: float) -> Point:
        """Its time and its answers."""
        if candidate.graph_key in self._failed:
            raise DataError(self._failed[candidate.graph_key])
        if candidate.graph_key != self._graph or self._ask is None:
            # What was made before goes first, so that two are never held.
            self._graph = self._ask = None
            gc.collect()
            try:
                self._ask = self._make_module(candidate)
                self._correct = _correct_mask(self._ask, self._pictures, candidate, end)
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
        images = self._pictures.batch(candidate.image_size, candidate.batch)
        times = time_pair(
            (self._baseline, self._images), (self._ask, images), self._rounds
        )
        return _point(candidate, times, self._correct, self._baseline_correct)

    def _make_module(self, candidate: Candidate) -> nn.Module:
        bf16 = self._bf16 and candidate.runtime == "torch"
        return _InferenceModule(self._maker.make(candidate), self._views, bf16)


class _InferenceModule(nn.Module):
    """Logits as the run gives them: with its views, in torch in its precision."""

    def __init__(self, model: nn.Module, views: Views, bf16: bool) -> None:
        super().__init__()
        self.model, self.views, self.bf16 = model, views, bf16

    def forward(self, image: Tensor) -> Tensor:
        return predict_logits(
            self.model, image, views=self.views, bf16=self.bf16, multi_label=False
        )


def _correct_mask(
    model: nn.Module, pictures: SweepImages, candidate: Candidate, end: float
) -> np.ndarray:
    """Which images of the split the candidate names right, [images]."""
    batches, labels = pictures.load_scored(candidate.image_size)
    found = []
    for batch in batches:
        if time.monotonic() > end:
            raise _BudgetExceededError
        logits = model(batch)
        if not torch.isfinite(logits).all():
            raise DataError("its logits are not finite numbers")
        found.append(logits.argmax(1).numpy())
    return np.concatenate(found) == labels


def _reason(error: Exception) -> str:
    """What to say of an error: ours in its own words, others with their kind."""
    said = " ".join(str(error).split())
    if isinstance(error, VitralError | ImportError | _BudgetExceededError):
        return said
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def _line(point: Point) -> str:
    return (
        f"{point.candidate}: {point.ms:.2f} ms an image, {point.speedup:.2f} times the "
        f"first, {100 * point.accuracy:.1f} %, {point.drop:+.2f} points lost"
    )


def _point(
    candidate: Candidate, times: np.ndarray, right: np.ndarray, before: np.ndarray
) -> Point:
    count, ms = len(right), 1000 * times[:, 1]
    only_before = int((before & ~right).sum())
    only_now = int((right & ~before).sum())
    # Accuracy lost, so the first model is B of the comparison.
    lost = paired_bootstrap(only_now, only_before, count)
    share = wilson(int(right.sum()), count)
    return Point(
        candidate=candidate,
        ms=float(np.median(ms)),
        ms_range=(float(np.quantile(ms, 0.25)), float(np.quantile(ms, 0.75))),
        first_ms=float(np.median(1000 * times[:, 0])),
        speedup=float(np.median(times[:, 0] / times[:, 1])),
        accuracy=float(right.mean()),
        interval=(share.low, share.high),
        drop=100 * float(before.mean() - right.mean()),
        drop_interval=(100 * lost.low, 100 * lost.high),
        images=count,
    )
