"""Choose the head after a fine-tuning: tuned, fitted again, their mean, or the probe.

Which is best differs from set to set; the mean is first or second in most. Val of some
dozens of images cannot choose, only veto: the mean stands unless another is better by
more than one standard error of the paired difference.
"""

import logging
from dataclasses import dataclass

import numpy as np
from torch import nn

from vitral.models import VisionModel
from vitral.tasks import get_task
from vitral.weights import update_metadata
from vitral.workflows.session import Session
from vitral.workflows.train.build import RunParts, build_model
from vitral.workflows.train.head_start import (
    HeadStart,
    compute_outputs,
    set_head,
    split_features,
)
from vitral.workflows.train.plan import TrainPlan

logger = logging.getLogger("vitral.workflows.train")
MEAN = "mean"
TITLES = {
    "probe": "the probe of the weights as they came",
    "tuned": "the tuned head",
    "refit": "the head fitted again",
    MEAN: "the mean of the tuned head and the one fitted again",
}


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """The head that was taken, and what val says of each."""

    name: str
    accuracy: dict[str, float]
    """Share of val that each head has right; empty without val."""

    def sentence(self) -> str:
        """Return the choice in a sentence."""
        words = f"head: {TITLES[self.name]}"
        shares = ", ".join(f"{k} {100 * v:.1f} %" for k, v in self.accuracy.items())
        return f"{words}; val: {shares}" if shares else words


def choose_head(
    plan: TrainPlan, session: Session, parts: RunParts, model: nn.Module, step: int
) -> None:
    """Fit the head of a tuned model again, and leave the best one in model/.

    Args:
        model: as the last step left it.
        step: that step.
    """
    start = parts.head_start
    if start is None or not isinstance(model, VisionModel) or step == 0:
        return
    assert isinstance(model.head, nn.Linear)
    task = get_task(plan.config.objective.TASK)
    tuned = tuple(
        it.detach().cpu().float().numpy() for it in (model.head.weight, model.head.bias)
    )
    features = split_features(plan, session, model, parts.preprocess, "train")
    assert features is not None
    fitted = task.fit_head(
        features, len(tuned[0]), c=start.fitted.c, seed=plan.config.seed
    )
    if fitted is None:
        return
    refit = (fitted.weight, fitted.bias)
    mean = tuple((ours + theirs) / 2 for ours, theirs in zip(tuned, refit, strict=True))
    heads = {MEAN: mean, "tuned": tuned, "refit": refit}
    right: dict[str, np.ndarray] = {}
    val = split_features(plan, session, model, parts.preprocess, "val")
    if val is not None:
        right = {
            name: task.is_right(compute_outputs(val, *head), val)
            for name, head in heads.items()
        }
        if len(start.right) == len(val.x):
            right["probe"] = start.right
    choice = pick(right)
    if choice.name == "probe":
        model = _rebuild_probe(plan, start)
    else:
        set_head(model, *heads[choice.name])
    parts.save_best(model, step)
    update_metadata(
        session.out / "model",
        head={"chosen": choice.name, "c": start.fitted.c, "val": choice.accuracy},
    )
    logger.info("%s", choice.sentence())


def pick(right: dict[str, np.ndarray]) -> HeadChoice:
    """Take the mean head unless another is better by more than a standard error.

    Args:
        right: 1 or 0 for each image of val, by the name of the head; empty: no val.
    """
    accuracy = {name: float(values.mean()) for name, values in right.items()}
    best, gain = MEAN, 0.0
    for name, values in right.items():
        difference = values - right[MEAN]
        error = difference.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0
        if difference.mean() > max(error, gain):
            best, gain = name, float(difference.mean())
    return HeadChoice(best, accuracy)


def _rebuild_probe(plan: TrainPlan, start: HeadStart) -> VisionModel:
    """Return the weights as they came, with the head of the start."""
    bundle = build_model(
        plan.model,
        plan.source,
        plan.labels.names,
        seed=plan.config.seed,
        freeze=plan.config.freeze,
        preprocess_changes={**plan.pixels, **plan.config.preprocess_changes},
        channel_init=plan.config.channel_init,
    )
    set_head(bundle.model, start.fitted.weight, start.fitted.bias)
    return bundle.model.eval()
