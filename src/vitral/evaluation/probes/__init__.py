"""Classifiers on frozen features: k-NN, few-shot least squares, ridge, linear probe."""

from vitral.evaluation.probes.fewshot import choose_l2, fewshot, fewshot_sweep
from vitral.evaluation.probes.head import HeadFit, fit_head
from vitral.evaluation.probes.knn import knn
from vitral.evaluation.probes.linear import LinearSolver, linear
from vitral.evaluation.probes.probe import Probe
from vitral.evaluation.probes.ridge import ridge
from vitral.evaluation.probes.svm import svm

__all__ = [
    "HeadFit",
    "LinearSolver",
    "Probe",
    "choose_l2",
    "fewshot",
    "fewshot_sweep",
    "fit_head",
    "knn",
    "linear",
    "ridge",
    "svm",
]
