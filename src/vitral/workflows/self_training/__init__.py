"""Noisy Student (arXiv 1911.04252): rounds of teacher, pseudo-labels, student."""

from vitral.workflows.self_training.config import SelfTrainingConfig
from vitral.workflows.self_training.self_train import SelfTrained, self_train

__all__ = ["SelfTrained", "SelfTrainingConfig", "self_train"]
