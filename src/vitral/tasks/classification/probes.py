"""Probes of frozen features for one class an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vitral.evaluation import Probe
from vitral.evaluation.intervals import format_percent
from vitral.evaluation.probes import fewshot, knn, linear, svm
from vitral.tasks.probe import SEEDS, ProbeInput, ProbeRow, ProbeSettings
from vitral.tasks.result import FEW_IMAGES, Headline

SHOTS = (1, 5, 10, 25)
"""Images per class; values above the smallest class are skipped."""


@dataclass(frozen=True, slots=True)
class ProbeResult(ProbeRow):
    """Accuracies of one protocol."""

    name: str
    probes: tuple[Probe, ...]
    """One probe per seed."""

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([probe.accuracy for probe in self.probes]))

    def headline(self) -> Headline:
        """Return the accuracy, under the name that a result gives it."""
        return Headline(field="top1", name="right", value=self.accuracy)

    def __str__(self) -> str:
        first = self.probes[0]
        if len(self.probes) == 1:
            return (
                f"{self.name:16} {100 * first.accuracy:5.1f} %  of {first.n:,} images "
                f"(95 % interval {format_percent(first.interval)}){_few(first)}"
            )
        values = [100 * probe.accuracy for probe in self.probes]
        return (
            f"{self.name:16} {100 * self.accuracy:5.1f} %  of {first.n:,} images, mean "
            f"of {len(values)} draws ({min(values):.1f} to {max(values):.1f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return accuracies and intervals."""
        return {
            "what": self.name,
            "accuracy": self.accuracy,
            "draws": [
                {
                    "accuracy": probe.accuracy,
                    "interval": list(probe.interval),
                    "n": probe.n,
                    "settings": probe.settings,
                    "seconds": probe.seconds,
                }
                for probe in self.probes
            ],
        }


def _few(probe: Probe) -> str:
    """Return that few images chose the strength; empty if they were many, or none."""
    chosen_on = probe.settings.get("dev_images", FEW_IMAGES)
    if chosen_on >= FEW_IMAGES:
        return ""
    return f"; {chosen_on} images only chose the penalty {probe.settings['l2']:g}"


def run_probe(
    protocol: str, features: ProbeInput, settings: ProbeSettings
) -> list[ProbeResult]:
    """Run a protocol: `fewshot`, `linear`, `knn` or `svm`.

    Raises:
        ConfigError, DataError: it does not fit the features; the message says why.
    """
    train, test = features.train, features.test
    sets = (train.x, train.y, test.x, test.y)
    k, seed = settings.k, settings.seed
    unread = len(test.bad)
    if protocol == "knn":
        probe = knn(*sets, k=k).with_unread(unread)
        return [ProbeResult(f"{k} neighbours", (probe,))]
    if protocol == "svm":
        return [ProbeResult("support vectors", (svm(*sets).with_unread(unread),))]
    if protocol == "linear":
        probe = linear(*sets, seed=seed).with_unread(unread)
        return [ProbeResult("linear", (probe,))]
    smallest = int(np.bincount(np.asarray(train.y)).min())
    rows = []
    for count in settings.shots or tuple(shot for shot in SHOTS if shot <= smallest):
        draws = (fewshot(*sets, shots=count, seed=seed + draw) for draw in range(SEEDS))
        probes = tuple(probe.with_unread(unread) for probe in draws)
        rows.append(ProbeResult(f"{count} shots", probes))
    return rows
