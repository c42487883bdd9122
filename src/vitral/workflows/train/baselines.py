"""Measure the simplest ways on the same pictures, to put them beside the result.

From pre-trained weights: neighbours and a linear head on the features as they came.
From zero: neighbours and a support vector machine on the pixels. Sizes of samples
follow from the run's own arithmetic, never from a clock, so that a run repeats.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from vitral.data import Dataset, Preprocess, split_loader
from vitral.data.rng import generator_for
from vitral.errors import ConfigError, DataError
from vitral.report.baselines import BASELINES_FILE, Baseline, Baselines
from vitral.tasks import Task, get_task
from vitral.tasks.features import ExtractedFeatures, attach_targets, extract_features
from vitral.tasks.probe import ProbeInput, ProbeSettings
from vitral.training.distributed import get_rank
from vitral.workflows.session import Session
from vitral.workflows.train.build import RunParts
from vitral.workflows.train.head_start import compute_outputs
from vitral.workflows.train.plan import TrainPlan

logger = logging.getLogger("vitral.workflows.train")

LARGEST_SIDE = 32
"""Pixels of the longer side, to which pictures are reduced for pixel baselines."""
MOST_IMAGES = 10_000
"""Images that a baseline learns from, and images that it is measured on."""
FEWEST_IMAGES = 200
SVM_SHARE = 0.014
"""Squared images times values per image that a support vector machine may take, for
each operation of the run: a tenth of the run's time on one core."""
PIXEL_NEIGHBOURS = 5
NEIGHBOURS = 20


def record_baselines(plan: TrainPlan, session: Session, parts: RunParts) -> None:
    """Measure the baselines of a run once, and write them into its folder.

    A baseline that does not fit the data is left out with a line that says why.
    """
    task = get_task(plan.config.objective.TASK)
    known = (session.out / BASELINES_FILE).is_file()
    if get_rank() != 0 or known or not task.has_answers:
        return
    split = next(filter(plan.audit.dataset.select, ("test", "val")), None)
    if split is None or plan.audit.dataset.kind != "images":
        return
    try:
        task.require("features", plan.labels, plan.config.data)
        rows = _measure(plan, session, parts, task, split)
    except (ConfigError, DataError) as error:
        logger.info("no baselines: %s", error)
        return
    baselines = Baselines(split=split, rows=tuple(rows))
    baselines.write(session.out)
    logger.info("%s", baselines)


def _measure(
    plan: TrainPlan, session: Session, parts: RunParts, task: Task, split: str
) -> list[Baseline]:
    dataset, seed = plan.audit.dataset, plan.config.seed
    total = len(dataset.select("train"))
    train = _sample(dataset, "train", MOST_IMAGES, seed)
    test = _sample(dataset, split, MOST_IMAGES, seed)
    if plan.source is None:
        size = _pixel_size(parts.preprocess)
        small = replace(parts.preprocess.with_single_view(), image_size=size)
        features = ProbeInput(
            train=_pixels(train, "train", small, session),
            test=_pixels(test, split, small, session),
        )
        few = _part(features, _most_for_svm(plan, features), seed)
        return [
            _probe(task, "knn", features, "the pixels", total, PIXEL_NEIGHBOURS),
            _kernel_or_linear(task, few, total),
        ]
    features = ProbeInput(
        train=_features(train, "train", parts, plan, session),
        test=_features(test, split, parts, plan, session),
    )
    words = "the weights' features"
    rows = [_probe(task, "knn", features, words, total, NEIGHBOURS)]
    start = parts.head_start
    if start is None:
        return [*rows, _probe(task, "linear", features, words, total, 0)]
    if plan.spec.loop.steps:  # else the model is this head
        scores = compute_outputs(features.test, start.fitted.weight, start.fitted.bias)
        right = task.is_right(scores, features.test)
        n = len(right) + len(features.test.bad)
        rows.append(
            Baseline(
                name=f"a linear head on {words}",
                field="top1",
                value=float(right.sum()) / n,
                n=n,
                train_images=total,
            )
        )
    return rows


def _probe(
    task: Task, protocol: str, features: ProbeInput, words: str, total: int, k: int
) -> Baseline:
    train, test = features.train, features.test
    k = min(k, len(train.x))
    row = task.probe(protocol, features, ProbeSettings(k=max(k, 1)))[0]
    headline = row.headline()
    if headline.value is None:
        raise DataError(f"{headline.name} is undefined on so few images.")
    names = {
        "knn": f"{k} neighbours of {words}",
        "svm": f"support vectors on {words}",
        "linear": f"a linear head on {words}",
    }
    return Baseline(
        name=names[protocol],
        field=headline.field,
        value=float(headline.value),
        n=len(test.x) + len(test.bad),
        train_images=len(train.x),
        is_sample=len(train.x) + len(train.bad) < total,
        is_share=headline.is_share,
        higher_is_better=headline.higher_is_better,
    )


def _kernel_or_linear(task: Task, features: ProbeInput, total: int) -> Baseline:
    """Measure support vectors on the pixels; a linear model where they do not fit."""
    try:
        return _probe(task, "svm", features, "the pixels", total, 0)
    except ConfigError:  # of numbers
        return _probe(task, "linear", features, "the pixels", total, 0)


def _most_for_svm(plan: TrainPlan, features: ProbeInput) -> int:
    images = plan.spec.loop.steps * plan.config.batch_size
    operations = 6 * plan.model.macs() * images
    most = (SVM_SHARE * operations / features.train.x.shape[1]) ** 0.5
    return max(FEWEST_IMAGES, int(most))


def _sample(dataset: Dataset, split: str, most: int, seed: int) -> Dataset:
    """Return a data set of at most `most` examples of a split, classes in turn."""
    examples = dataset.select(split)
    chosen = _in_turn([example.label[:1] for example in examples], most, seed)
    return replace(dataset, examples=tuple(examples[i] for i in chosen))


def _part(features: ProbeInput, most: int, seed: int) -> ProbeInput:
    """Return the features with at most `most` training images, classes in turn."""
    train = features.train
    chosen = _in_turn(train.y.tolist(), most, seed)
    index = torch.tensor(chosen)
    targets = tuple(train.targets[i] for i in chosen) if train.targets else ()
    part = replace(
        train,
        x=train.x[index],
        y=train.y[index],
        ids=tuple(train.ids[i] for i in chosen),
        targets=targets,
    )
    return replace(features, train=part)


def _in_turn(keys: Sequence[object], most: int, seed: int) -> list[int]:
    """Choose items in random order, one of each key in turn; the order is kept."""
    order = generator_for("baselines", seed).permutation(len(keys))
    seen: dict[object, int] = defaultdict(int)
    ranked = []
    for place, i in enumerate(order.tolist()):
        ranked.append((seen[keys[i]], place, i))
        seen[keys[i]] += 1
    return sorted(i for _, _, i in sorted(ranked)[:most])


def _pixel_size(preprocess: Preprocess) -> tuple[int, int]:
    height, width = preprocess.image_size
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _pixels(
    dataset: Dataset, split: str, preprocess: Preprocess, session: Session
) -> ExtractedFeatures:
    """Return the pixels of a split as rows of numbers."""
    loader = split_loader(
        dataset,
        split,
        preprocess,
        batch_size=64,
        workers=session.runtime.workers,
    )
    rows = [batch.image.flatten(1).float() for batch in loader.epoch(0)]
    if not rows:
        raise DataError(f"no image of {split} can be decoded.")
    return attach_targets(torch.cat(rows), loader.examples, dict(loader.failures))


def _features(
    dataset: Dataset, split: str, parts: RunParts, plan: TrainPlan, session: Session
) -> ExtractedFeatures:
    """Return the features of a split by the weights as they came."""
    loader = split_loader(
        dataset,
        split,
        parts.preprocess.with_single_view(),
        batch_size=plan.config.batch_size,
        workers=session.runtime.workers,
    )
    device = next(parts.model.parameters()).device.type
    bf16 = plan.config.loop.precision == "bf16"
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        return extract_features(parts.model, loader)
