"""Heads that are fitted: the start of a fine-tuning, and the choice after it.

A head of zeros sends no gradient to the blocks at first, and with many classes and few
images the blocks forget before it has learned anything. A regression on the features
comes first (arXiv 2202.10054), and again after the blocks have changed.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vitral.data import Preprocess, split_loader
from vitral.errors import DataError
from vitral.evaluation.probes import HeadFit
from vitral.models import VisionModel
from vitral.tasks import get_task
from vitral.tasks.features import ExtractedFeatures, extract_features
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.weights import Ledger
from vitral.workflows.session import Session
from vitral.workflows.train.plan import TrainPlan

logger = logging.getLogger("vitral.workflows.train")


@dataclass(frozen=True, slots=True)
class HeadStart:
    """The fitted head that a training began with."""

    fitted: HeadFit
    right: np.ndarray
    """1 for each image of val that the head has right with the weights as they came."""


def start_head(
    plan: TrainPlan,
    session: Session,
    model: VisionModel,
    preprocess: Preprocess,
    ledger: Ledger | None,
) -> HeadStart | None:
    """Fit the new head of pre-trained weights to the features of the training images.

    None, and the model stays as it is: the objective wants no such head, the weights
    brought their own, or the head is not one linear layer.
    """
    if ledger is None or not plan.objective.fits_head:
        return None
    is_new = any(it.name == "head.weight" and it.action == "new" for it in ledger.lines)
    if not is_new or not isinstance(model.head, nn.Linear):
        return None
    start = broadcast_from_rank_zero(lambda: _fit(plan, session, model, preprocess))
    if start is None:
        return None
    set_head(model, start.fitted.weight, start.fitted.bias)
    log_loss = min((loss for _, loss in start.fitted.losses), default=None)
    logger.info(
        "head: logistic regression on the features of the training images, C %.2g%s%s",
        start.fitted.c,
        "" if log_loss is None else f", log loss {log_loss:.2f} over its folds",
        _describe_right("; val", start.right),
    )
    return start


def set_head(model: VisionModel, weight: np.ndarray, bias: np.ndarray) -> None:
    """Write a head into a model."""
    assert isinstance(model.head, nn.Linear)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weight))
        model.head.bias.copy_(torch.from_numpy(bias))


def compute_outputs(
    features: ExtractedFeatures, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Return the outputs of a linear head."""
    return features.x.numpy() @ weight.T + bias


def split_features(
    plan: TrainPlan,
    session: Session,
    model: VisionModel,
    preprocess: Preprocess,
    split: str,
) -> ExtractedFeatures | None:
    """Return the features of a split as it is evaluated; None for an empty one."""
    dataset = plan.audit.dataset
    if not dataset.select(split):
        return None
    loader = split_loader(
        dataset,
        split,
        preprocess.with_single_view(),
        batch_size=plan.config.batch_size,
        workers=session.runtime.workers,
    )
    bf16 = plan.config.loop.precision == "bf16"
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        return extract_features(model, loader)


def _fit(
    plan: TrainPlan, session: Session, model: VisionModel, preprocess: Preprocess
) -> HeadStart | None:
    task, outputs = get_task(plan.config.objective.TASK), len(plan.labels.names)
    features = split_features(plan, session, model, preprocess, "train")
    if features is None:
        return None
    fitted = task.fit_head(features, outputs, c=None, seed=plan.config.seed)
    if fitted is None:
        return None
    right = np.empty(0)
    try:
        val = split_features(plan, session, model, preprocess, "val")
    except DataError:  # said when val is evaluated
        val = None
    if val is not None:
        scores = compute_outputs(val, fitted.weight, fitted.bias)
        right = task.is_right(scores, val)
    return HeadStart(fitted, right)


def _describe_right(words: str, right: np.ndarray) -> str:
    return f"{words} {100 * right.mean():.1f} %" if len(right) else ""
