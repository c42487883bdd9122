"""Noisy Student (arXiv 1911.04252): rounds of teacher, pseudo-labels, student."""

from vitral.workflows.self_training.config import SelfTrainingConfig
from vitral.workflows.self_training.self_train import SelfTrainingResult, self_train

__all__ = ["SelfTrainingConfig", "SelfTrainingResult", "self_train"]
