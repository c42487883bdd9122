"""Transfer table: accuracy of weights x data x protocol.

Each finished cell is cached, so that an interrupted table resumes. A cell that fails
holds its error and does not stop the others.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vitral.data
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Dataset
from vitral.errors import ConfigError, InterruptedRun, VitralError
from vitral.evaluation import Interval, Probe
from vitral.workflows.features import PROTOCOLS as PROBES
from vitral.workflows.features import (
    SEEDS,
    ProbeSettings,
    SplitFeatures,
    as_run,
    content_hash,
    dataset_for,
    extract_splits,
    held_out_split,
    resolve_image_size,
    run_probe,
    weights_file_hash,
)
from vitral.workflows.result_cache import CachedResult, ResultCache
from vitral.workflows.runtime import Runtime
from vitral.workflows.transfer.finetune import FinetunePlan, finetune
from vitral.workflows.transfer.table import TransferResult, TransferTable

logger = logging.getLogger(__name__)

PROTOCOLS = (*PROBES, "finetune")
SHOTS = (5,)
"""Images per class of the few-shot columns; the paper's is 5."""


@dataclass(frozen=True, kw_only=True)
class ProtocolColumn:
    """One protocol with its settings."""

    name: str
    protocol: str
    settings: dict[str, Any]
    """Fields of ProbeSettings; empty for `finetune`."""


def transfer(
    weights: Sequence[str | Path],
    data: Sequence[str | Path],
    *,
    protocols: Sequence[str] = PROBES,
    probes: ProbeSettings | None = None,
    plan: Callable[[str, str], FinetunePlan] | None = None,
    out: str | Path,
    cache: str | Path | None = None,
    runtime: Runtime | None = None,
) -> TransferTable:
    """Compute the table and write table.json and table.md into `out`.

    Args:
        weights: rows: run folders, or weights of any layout.
        data: columns: arguments of `vitral.data.open`.
        protocols: names from PROTOCOLS.
        probes: settings of the probes; each of `shots`, or SHOTS if there are none,
            gives a column of `fewshot`.
        plan: returns the fine-tuning of (weights, data), as
            `vitral.recipes.plan_finetuning` does; needed for `finetune` only.
        out: folder for the table, its cells and the runs of `finetune`.
        cache: folder of cached features; None for the user's cache.

    Raises:
        ConfigError: a protocol is unknown, or there is nothing to compute.
        InterruptedRun: a signal arrived; the same call resumes.
    """
    columns = _columns(protocols, probes or ProbeSettings())
    if not weights or not data or not columns:
        raise ConfigError("A transfer table needs weights, data and a protocol.")
    if plan is None and "finetune" in protocols:
        raise ConfigError(
            "The protocol finetune needs `plan`, which says how: pass "
            "`plan=vitral.recipes.plan_finetuning`."
        )
    out = Path(out)
    rows = list(dict.fromkeys(map(str, weights)))
    sets = vitral.data.expand(map(str, data))
    context = _TransferContext(out, plan, cache, runtime or Runtime())
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for row in rows:
        for name in sets:
            pair = _WeightsDataPair(context, row, name)
            for column in columns:
                entry = pair.entry(column)
                logger.info(f"{row}, {name}, {column.name}: {entry}")
                entries.append(entry)
    table = TransferTable(
        weights=tuple(rows),
        data=tuple(sets),
        protocols=tuple(column.name for column in columns),
        entries=tuple(entries),
    )
    write_json(out / "table.json", table.to_dict())
    write_atomic(out / "table.md", table.markdown())
    return table


def _columns(protocols: Sequence[str], probes: ProbeSettings) -> list[ProtocolColumn]:
    columns, k, seed = [], probes.k, probes.seed
    for protocol in dict.fromkeys(protocols):
        settings: list[tuple[str, dict[str, Any]]]
        if protocol == "fewshot":
            settings = [
                (f"{count}-shot", {"shots": (count,), "seed": seed})
                for count in dict.fromkeys(probes.shots or SHOTS)
            ]
        elif protocol == "linear":
            settings = [("linear", {"seed": seed})]
        elif protocol == "knn":
            settings = [(f"{k}-nn", {"k": k})]
        elif protocol == "finetune":
            settings = [("finetune", {})]
        else:
            raise ConfigError(
                f"`protocol` must be one of {', '.join(PROTOCOLS)}: got {protocol}."
            )
        columns += [
            ProtocolColumn(name=name, protocol=protocol, settings=arguments)
            for name, arguments in settings
        ]
    return columns


@dataclass(frozen=True)
class _TransferContext:
    """Settings that all cells of a table share."""

    out: Path
    plan: Callable[[str, str], FinetunePlan] | None
    cache: str | Path | None
    runtime: Runtime


class _WeightsDataPair:
    """Weights and data, opened by the first cell that needs them."""

    def __init__(self, context: _TransferContext, weights: str, data: str) -> None:
        self.context, self.weights, self.data = context, weights, data
        self._inputs: dict[str, Any] | None = None
        self._image_size: int | tuple[int, int] | None = None
        self._dataset: Dataset | None = None
        self._features: SplitFeatures | None = None

    def entry(self, column: ProtocolColumn) -> TransferResult:
        """Return the cell of a column: cached, computed now, or with its error."""
        empty = TransferResult(
            weights=self.weights, data=self.data, protocol=column.name
        )
        try:
            cached = self._get_or_compute(column)
        except (KeyboardInterrupt, InterruptedRun):
            raise
        except VitralError as error:
            return replace(empty, error=str(error), exit_code=error.exit_code)
        except Exception as error:
            text = " ".join(str(error).split()) or "no message"
            return replace(empty, error=f"{type(error).__name__}: {text}", exit_code=1)
        result = cached.result
        return replace(
            empty,
            accuracy=result["accuracy"],
            interval=Interval(*result["interval"]),
            of=result["of"],
            n=result["n"],
            seconds=cached.seconds,
            fresh=cached.fresh,
        )

    def _get_or_compute(self, column: ProtocolColumn) -> CachedResult:
        name = f"{_file_name(self.weights)}/{_file_name(self.data)}/{column.name}"
        if column.protocol == "finetune":
            return self._run_finetune(name)
        inputs = {
            **self._identity(),
            "protocol": column.protocol,
            "settings": column.settings,
            "draws": SEEDS if column.protocol == "fewshot" else 1,
        }
        cache = ResultCache(self.context.out / "cells")
        return cache.get_or_compute(name, inputs, lambda: self._run_probe(column))

    def _identity(self) -> dict[str, Any]:
        """Return what the features depend on, independent of the paths."""
        if self._inputs is None:
            key = weights_file_hash(self.weights)
            dataset = dataset_for(as_run(self.weights) or self.weights, self.data)
            held_out_split(dataset)
            self._dataset = dataset
            self._image_size = resolve_image_size(self.weights, dataset)
            self._inputs = {
                "weights": key,
                "data": dataset.fingerprint(),
                "content": content_hash(dataset, dataset.examples) or "",
                "image_size": self._image_size,
            }
        return self._inputs

    def _run_probe(self, column: ProtocolColumn) -> dict[str, Any]:
        assert self._dataset is not None
        if self._features is None:
            self._features = extract_splits(
                self.weights,
                self._dataset,
                folder=self.context.cache,
                runtime=self.context.runtime,
                image_size=self._image_size,
            )
        settings = ProbeSettings(**column.settings)
        (row,) = run_probe(self._features, protocol=column.protocol, settings=settings)
        assert isinstance(row.probes[0], Probe)  # the study's data sets have classes
        values = [probe.accuracy for probe in row.probes]
        several = len(values) > 1
        interval = [min(values), max(values)] if several else row.probes[0].interval
        return {
            "accuracy": float(np.mean(values)),
            "interval": list(interval),
            "of": f"{len(values)} draws" if several else "images",
            "n": row.probes[0].n,
            "each": values,
        }

    def _run_finetune(self, name: str) -> CachedResult:
        context = self.context
        assert context.plan is not None
        # Not a cached entry of its own: every training in it is one.
        finetuned = finetune(
            context.plan(self.weights, self.data),
            context.out / "finetune" / name.rpartition("/")[0],
            runtime=context.runtime,
        )
        values = finetuned.accuracies
        runs = (*finetuned.search, *finetuned.finals)
        interval = finetuned.finals[0].interval
        if len(values) > 1:
            interval = (min(values), max(values))
        result = {
            "accuracy": finetuned.accuracy,
            "interval": interval,
            "of": f"{len(values)} seeds" if len(values) > 1 else "images",
            "n": finetuned.finals[0].n,
        }
        seconds = round(sum(run.seconds for run in runs), 2)
        return CachedResult(result, seconds, any(run.fresh for run in runs))


def _file_name(text: str) -> str:
    """Return a readable file name, with a hash that separates similar texts."""
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    plain = re.sub(r"[^\w.-]+", "_", text).strip("._")[-40:]
    return f"{plain or 'cell'}-{digits}"
