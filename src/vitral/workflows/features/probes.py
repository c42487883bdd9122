"""Fit probes on the frozen features of weights, and report accuracies."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitral.atomic_io import write_json
from vitral.errors import ConfigError
from vitral.evaluation import Probe
from vitral.evaluation.intervals import format_percent
from vitral.evaluation.probes import fewshot, knn, linear
from vitral.workflows.features.extract import SplitFeatures, extract_splits
from vitral.workflows.runtime import Runtime

SHOTS = (1, 5, 10, 25)
"""Images per class; values above the smallest class are skipped."""
SEEDS = 3
"""Draws of images per few-shot probe."""
PROTOCOLS = ("fewshot", "linear", "knn")


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Settings of PROTOCOLS; each protocol reads its own."""

    shots: tuple[int, ...] = ()
    """Images per class of `fewshot`; empty for those of SHOTS that every class has."""
    k: int = 20
    """Neighbours of `knn`."""
    seed: int = 0
    """Seed of the first of SEEDS draws of `fewshot`, and of `linear`."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One row of a protocol's table."""

    name: str
    probes: tuple[Probe, ...]
    """One probe per seed."""

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return float(np.mean([probe.accuracy for probe in self.probes]))

    def __str__(self) -> str:
        first = self.probes[0]
        if len(self.probes) == 1:
            return (
                f"{self.name:16} {100 * first.accuracy:5.1f} %  of {first.n:,} images "
                f"(95 % interval {format_percent(first.interval)})"
            )
        values = [100 * probe.accuracy for probe in self.probes]
        return (
            f"{self.name:16} {100 * self.accuracy:5.1f} %  of {first.n:,} images, mean "
            f"of {len(values)} draws ({min(values):.1f} to {max(values):.1f})"
        )


def probe_weights(
    weights: str | Path,
    data: str = "",
    *,
    protocol: str,
    settings: ProbeSettings = ProbeSettings(),
    folder: str | Path | None = None,
    device: str = "auto",
) -> tuple[list[ProbeResult], SplitFeatures]:
    """Run one of PROTOCOLS on the features of any weights.

    Args:
        data: empty for the data of a run.
        folder: folder of the feature cache; None for the user's.

    Raises:
        ConfigError: the protocol is unknown or does not fit the data.
        DataError: the features cannot be probed; the message says why.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
        )
    features = extract_splits(
        weights, data, folder=folder, runtime=Runtime(device=device)
    )
    return run_probe(features, protocol=protocol, settings=settings), features


def run_probe(
    features: SplitFeatures,
    *,
    protocol: str,
    settings: ProbeSettings = ProbeSettings(),
) -> list[ProbeResult]:
    """Run one of PROTOCOLS on extracted features; see `probe_weights`.

    Raises:
        ConfigError, DataError: see `probe_weights`.
    """
    train, test = features.train, features.test
    sets = (train.x, train.y, test.x, test.y)
    k, seed = settings.k, settings.seed
    if protocol == "knn":
        return [ProbeResult(f"{k} neighbours", (knn(*sets, k=k),))]
    if protocol == "linear":
        return [ProbeResult("linear", (linear(*sets, seed=seed),))]
    smallest = int(np.bincount(np.asarray(train.y)).min())
    rows = []
    for count in settings.shots or tuple(shot for shot in SHOTS if shot <= smallest):
        draws = (fewshot(*sets, shots=count, seed=seed + draw) for draw in range(SEEDS))
        rows.append(ProbeResult(f"{count} shots", tuple(draws)))
    return rows


def write_probes(rows: list[ProbeResult], metadata: dict[str, Any], file: Path) -> None:
    """Write every probe of a table as JSON."""
    probes = [
        {"what": row.name, "results": [probe.to_dict() for probe in row.probes]}
        for row in rows
    ]
    write_json(file, {**metadata, "rows": probes})


def to_json(rows: list[ProbeResult]) -> str:
    """Format accuracies and intervals as JSON, without predictions per image."""
    return json.dumps(
        [
            {
                "what": row.name,
                "accuracy": row.accuracy,
                "draws": [
                    {
                        "accuracy": probe.accuracy,
                        "interval": list(probe.interval),
                        "n": probe.n,
                        "settings": probe.settings,
                        "seconds": probe.seconds,
                    }
                    for probe in row.probes
                ],
            }
            for row in rows
        ],
        indent=2,
    )
