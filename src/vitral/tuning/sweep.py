"""The sweep: each candidate timed in turns with the first, and scored on one split.

Timing in turns: a machine that slows down in between slows both, so the ratio stays.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitral.data import DataSet, Loader, evaluation_transform
from vitral.errors import ConfigError, VitralError
from vitral.evaluation.compare import paired_bootstrap
from vitral.evaluation.intervals import wilson
from vitral.models import ViTConfig
from vitral.run.clips import kind_for
from vitral.run.folder import Run, open_run
from vitral.run.scoring import Views, logits_of
from vitral.run.setup import open_split_data
from vitral.tuning.candidate import WAYS, Candidate, Precision, prepare
from vitral.tuning.points import Point

CALIBRATION = 64
"""Images of the train split from which int8 takes its ranges."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to sweep, and how long."""

    ways: Sequence[str] = tuple(WAYS)
    """Runtimes with their precisions."""
    merges: Sequence[int] = (0, 4, 8, 13)
    image_sizes: Sequence[tuple[int, int]] = ()
    """(height, width); none for the run's own."""
    batches: Sequence[int] = (1, 8)
    split: str = "val"
    """Whose images accuracy is measured on."""
    images: int = 500
    """Of the split, at most; drawn with `seed`."""
    rounds: int = 9
    """Timed passes of each candidate."""
    minutes: float = 10.0
    """Candidates that have not begun by then are left out, but for the first; 0 for no
    limit."""
    views: Views | None = None
    """Views of an image; None for the run's own."""
    seed: int = 0


@dataclass(kw_only=True)
class Swept:
    """What came out."""

    points: list[Point] = field(default_factory=list)
    """The first is what the others are compared with."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Candidates that were not measured, with the reason."""
    own_size: tuple[int, int] = (0, 0)


def sweep(path: str | Path, plan: Plan, say: Callable[[str], None] = print) -> Swept:
    """Measure every candidate of the plan on this machine and the run's own images.

    Raises:
        ConfigError: the run has no such split, or is not of images with one label.
    """
    run = open_run(path, merge=None)
    dataset = _dataset(run, plan.split)
    views = plan.views or run.extra.get("eval_views", "one")
    swept = Swept(own_size=run.preprocess.image_size)
    candidates = list(candidates_of(plan, run))
    first = candidates[0]
    pictures = _Pictures(run, dataset, plan)
    bf16 = run.extra.get("precision") == "bf16"
    baseline = _answering(prepare(first, run.model, pictures.train), views, bf16)
    right_before = _right(baseline, pictures, first)
    answers: dict[object, np.ndarray] = {first.graph: right_before}
    started, current, ask = time.monotonic(), first.graph, baseline
    for candidate in candidates:
        spent = (time.monotonic() - started) / 60
        if swept.points and plan.minutes and spent > plan.minutes:
            swept.left_out[str(candidate)] = f"not begun within {plan.minutes:g} min"
            continue
        try:
            if candidate.graph != current:
                made = prepare(candidate, run.model, pictures.train)
                ask = _answering(made, views, bf16 and candidate.runtime == "torch")
                current = candidate.graph
            if candidate.graph not in answers:
                answers[candidate.graph] = _right(ask, pictures, candidate)
        except (VitralError, ImportError) as error:
            current = ("", "", 0, (0, 0))
            swept.left_out[str(candidate)] = str(error)
            continue
        times = timed(
            (baseline, pictures.batch(first)),
            (ask, pictures.batch(candidate)),
            plan.rounds,
        )
        point = _point(candidate, times, answers[candidate.graph], right_before)
        swept.points.append(point)
        say(
            f"{candidate}: {point.ms:.2f} ms an image, {point.speedup:.2f} times the "
            f"first, {100 * point.accuracy:.1f} %, {point.drop:+.2f} points lost"
        )
    return swept


def candidates_of(plan: Plan, run: Run) -> Iterator[Candidate]:
    """All combinations, batches of one graph together; first torch as it is."""
    sizes = plan.image_sizes or (run.preprocess.image_size,)
    config = run.model.config
    merges = plan.merges if isinstance(config, ViTConfig) else (0,)
    for way in plan.ways:
        if way not in WAYS:
            raise ConfigError(
                f"`--ways` takes {', '.join(WAYS)}: got `{way}`, which is none."
            )
    own: Precision = "bf16" if run.extra.get("precision") == "bf16" else "fp32"
    start = Candidate(
        precision=own, image_size=run.preprocess.image_size, batch=plan.batches[0]
    )
    seen = [start]
    yield start
    for size in sizes:
        for merge in merges:
            for way in plan.ways:
                for batch in plan.batches:
                    runtime, kind = WAYS[way]
                    found = Candidate(
                        runtime=runtime,
                        precision=kind or own,
                        merge=merge,
                        image_size=size,
                        batch=batch,
                    )
                    if found not in seen:
                        seen.append(found)
                        yield found


def timed(
    first: tuple[nn.Module, Tensor], other: tuple[nn.Module, Tensor], rounds: int
) -> np.ndarray:
    """Seconds an image of both, in turns, [rounds, 2]; a pass of each goes before."""
    seconds = np.zeros((rounds + 1, 2))
    for turn in range(rounds + 1):
        for place, (model, images) in enumerate((first, other)):
            began = time.perf_counter()
            with torch.no_grad():
                model(images)
            seconds[turn, place] = (time.perf_counter() - began) / len(images)
    return seconds[1:]


def _dataset(run: Run, split: str) -> DataSet:
    run.require_head()
    if run.multi_label or run.model.config.num_frames:
        raise ConfigError(
            "tune-speed compares the one best class of images: this run has several "
            "labels an image, or takes clips."
        )
    dataset = open_split_data(
        run.config, run.path / "split.csv", kind_for(run.model.config)
    )
    there = list(dataset.counts())
    if split not in there:
        raise ConfigError(
            f"The run has no split `{split}`, it has {', '.join(there)}. An operating "
            "point that is chosen on test is no longer measured by test: say so with "
            "`--split test`, or train with a val split."
        )
    return dataset


class _Pictures:
    """Pre-processed images of each size; those of one size are kept at a time."""

    def __init__(self, run: Run, dataset: DataSet, plan: Plan) -> None:
        self.run, self.dataset, self.plan = run, dataset, plan
        self._size: tuple[int, int] | None = None
        self._kept: tuple[list[Tensor], np.ndarray] = ([], np.zeros(0))
        self._first: dict[Candidate, Tensor] = {}

    def scored(self, size: tuple[int, int]) -> tuple[list[Tensor], np.ndarray]:
        """Batches of images, and their labels."""
        if size != self._size:
            self._kept = self._read(self.plan.split, self.plan.images, size)
            self._size = size
        return self._kept

    def train(self, size: tuple[int, int]) -> list[Tensor]:
        """Batches of the train split."""
        return self._read("train", CALIBRATION, size)[0]

    def batch(self, candidate: Candidate) -> Tensor:
        """As many images as the candidate takes at once."""
        if candidate not in self._first:
            found = torch.cat(self.scored(candidate.image_size)[0][:4])
            times = -(-candidate.batch // len(found))
            images = found.repeat(times, 1, 1, 1)[: candidate.batch]
            self._first[candidate] = images.contiguous()
        return self._first[candidate]

    def _read(
        self, split: str, number: int, size: tuple[int, int]
    ) -> tuple[list[Tensor], np.ndarray]:
        examples = list(self.dataset.select(split))
        order = np.random.default_rng(self.plan.seed).permutation(len(examples))
        transform = evaluation_transform(replace(self.run.preprocess, image_size=size))
        loader = Loader(
            dataset=self.dataset,
            examples=tuple(examples[place] for place in sorted(order[:number])),
            transform=transform,
            batch_size=16,
        )
        batches = list(loader.epoch(0))
        labels = np.concatenate([batch.label.numpy() for batch in batches])
        return [batch.image for batch in batches], labels


class _Answering(nn.Module):
    """Logits as the run gives them: with its views, in torch in its precision."""

    def __init__(self, model: nn.Module, views: Views, bf16: bool) -> None:
        super().__init__()
        self.model, self.views, self.bf16 = model, views, bf16

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(
            self.model, image, views=self.views, bf16=self.bf16, multi_label=False
        )


def _answering(model: nn.Module, views: Views, bf16: bool) -> nn.Module:
    return _Answering(model, views, bf16)


def _right(model: nn.Module, pictures: _Pictures, candidate: Candidate) -> np.ndarray:
    """Which images of the split the candidate names right."""
    batches, labels = pictures.scored(candidate.image_size)
    found = np.concatenate([model(batch).argmax(1).numpy() for batch in batches])
    return found == labels


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
        speedup=float(np.median(times[:, 0] / times[:, 1])),
        accuracy=float(right.mean()),
        interval=(share.low, share.high),
        drop=100 * float(before.mean() - right.mean()),
        drop_interval=(100 * lost.low, 100 * lost.high),
        images=count,
    )
