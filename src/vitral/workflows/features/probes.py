"""Probes of frozen features, from weights and data to numbers with intervals."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitral.atomic_io import write_json
from vitral.errors import ConfigError
from vitral.evaluation import Probe
from vitral.evaluation.probes import fewshot, knn, linear
from vitral.workflows.features.extract import SplitFeatures, extract_splits

SHOTS = (1, 5, 10, 25)
"""Images per class that are tried, as far as every class has so many."""
SEEDS = 3
PROTOCOLS = ("fewshot", "linear", "knn")


class ProbeResult(NamedTuple):
    """One line of a protocol's table."""

    name: str
    probes: tuple[Probe, ...]
    """One for each seed."""

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return float(np.mean([probe.accuracy for probe in self.probes]))

    def __str__(self) -> str:
        first = self.probes[0]
        if len(self.probes) == 1:
            low, high = first.interval
            return (
                f"{self.name:16} {100 * first.accuracy:5.1f} %  of {first.n:,} images "
                f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
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
    shots: tuple[int, ...] = (),
    k: int = 20,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str = "auto",
) -> tuple[list[ProbeResult], SplitFeatures]:
    """Run one of PROTOCOLS on the features of any weights.

    Args:
        data: empty for the data of a run.
        shots: images per class; empty for those of SHOTS that every class has.
        seed: of the first draw of images; SEEDS draws are made.
        folder: where features are kept; None for the user's cache.

    Raises:
        ConfigError: an unknown protocol, or one that does not fit the data.
        DataError: the features cannot be probed; the sentence says why.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
        )
    material = extract_splits(weights, data, folder=folder, device=device)
    return (
        run_probe(material, protocol=protocol, shots=shots, k=k, seed=seed),
        material,
    )


def run_probe(
    features: SplitFeatures,
    *,
    protocol: str,
    shots: tuple[int, ...] = (),
    k: int = 20,
    seed: int = 0,
) -> list[ProbeResult]:
    """One of PROTOCOLS on features that are there; arguments as of `probe`.

    Raises:
        ConfigError, DataError: as `probe`.
    """
    train, test = features.train, features.test
    sets = (train.x, train.y, test.x, test.y)
    if protocol == "knn":
        return [ProbeResult(f"{k} neighbours", (knn(*sets, k=k),))]
    if protocol == "linear":
        return [ProbeResult("linear", (linear(*sets, seed=seed),))]
    least = int(np.bincount(np.asarray(train.y)).min())
    rows = []
    for number in shots or tuple(shot for shot in SHOTS if shot <= least):
        draws = [
            fewshot(*sets, shots=number, seed=seed + draw) for draw in range(SEEDS)
        ]
        rows.append(ProbeResult(f"{number} shots", tuple(draws)))
    return rows


def write_probes(rows: list[ProbeResult], metadata: dict[str, Any], file: Path) -> None:
    """Write every probe of a table as JSON."""
    probes = [
        {"what": row.name, "results": [probe.to_dict() for probe in row.probes]}
        for row in rows
    ]
    write_json(file, {**metadata, "rows": probes})


def to_json(rows: list[ProbeResult]) -> str:
    """Accuracies and intervals, without the answers of single images."""
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
