"""Fit probes on the frozen features of weights, as the task of the data does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_json
from vitral.errors import ConfigError
from vitral.tasks import ObjectiveConfig
from vitral.tasks.probe import DEFAULTS, ProbeInput, ProbeRow, ProbeSettings
from vitral.workflows.features.extract import SplitFeatures, extract_splits
from vitral.workflows.runtime import Runtime

PROTOCOLS = ("fewshot", "linear", "knn")


def probe_weights(
    weights: str | Path,
    data: str = "",
    *,
    protocol: str,
    settings: ProbeSettings = DEFAULTS,
    objective: ObjectiveConfig | None = None,
    folder: str | Path | None = None,
    runtime: Runtime | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> tuple[list[ProbeRow], SplitFeatures]:
    """Run one of PROTOCOLS on the features of any weights.

    Args:
        data: empty for the data of a run.
        objective: settings of what is learned from the data; None: what it fits.
        folder: folder of the feature cache; None for the user's.
        image_size: as in `extract_splits`.

    Raises:
        ConfigError: the protocol is unknown or does not fit the data.
        DataError: the features cannot be probed; the message says why.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"`protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
        )
    features = extract_splits(
        weights,
        data,
        objective=objective,
        folder=folder,
        runtime=runtime,
        image_size=image_size,
    )
    return run_probe(features, protocol=protocol, settings=settings), features


def run_probe(
    features: SplitFeatures,
    *,
    protocol: str,
    settings: ProbeSettings = DEFAULTS,
) -> list[ProbeRow]:
    """Run one of PROTOCOLS on extracted features; see `probe_weights`.

    Raises:
        ConfigError, DataError: see `probe_weights`.
    """
    sets = ProbeInput(train=features.train, test=features.test, dev=features.dev)
    return list(features.task.probe(protocol, sets, settings))


def write_probes(
    rows: Sequence[ProbeRow], metadata: dict[str, Any], file: Path
) -> None:
    """Write every probe of a table as JSON."""
    probes = [{"what": row.name, "results": row.to_list()} for row in rows]
    write_json(file, {**metadata, "rows": probes})


def to_json(rows: Sequence[ProbeRow]) -> str:
    """Format numbers and intervals as JSON, without predictions per image."""
    return json.dumps([row.to_dict() for row in rows], indent=2)
