"""Weights x data x protocol, in one table: how well does each model transfer?

Every number is a cell that is kept when it is finished (cells.py), so that an
interrupted table goes on where it stopped. A cell that cannot be computed is named with
its reason and costs no other.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import vitral.data
from vitral.atomic_io import write_atomic, write_json
from vitral.data import Dataset
from vitral.errors import ConfigError, InterruptedRun, VitralError
from vitral.evaluation import Interval
from vitral.workflows.features import PROTOCOLS as PROBES
from vitral.workflows.features import (
    SEEDS,
    SplitFeatures,
    as_run,
    content_hash,
    dataset_for,
    extract_splits,
    held_out_split,
    run_probe,
    weights_file_hash,
)
from vitral.workflows.result_cache import CachedResult, ResultCache
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
    """Arguments of `rows_of`; empty for `finetune`."""


def transfer(
    weights: Sequence[str | Path],
    data: Sequence[str | Path],
    *,
    protocols: Sequence[str] = PROBES,
    shots: Sequence[int] = SHOTS,
    k: int = 20,
    seed: int = 0,
    plan: Callable[[str, str], FinetunePlan] | None = None,
    out: str | Path,
    cache: str | Path | None = None,
    workers: int = 0,
    device: str = "auto",
) -> TransferTable:
    """Fill the table and write table.json and table.md into `out`.

    Args:
        weights: the rows: run folders, or weights of any layout.
        data: what `vitral.data.open` takes, each.
        protocols: of PROTOCOLS.
        shots: images per class, a column of `fewshot` each.
        k: neighbours of `knn`.
        seed: of the first draw of `fewshot`, and of `linear`.
        plan: (weights, data) to how they are fine-tuned;
        `vitral.recipes.plan_finetuning` is one.
            Needed for `finetune` alone.
        out: folder for the table, its cells and the runs of `finetune`.
        cache: where features are kept; None for the user's cache.

    Raises:
        ConfigError: an unknown protocol, or nothing to do.
        InterruptedRun: a signal arrived; the same call goes on.
    """
    columns = _columns(protocols, shots, k, seed)
    if not weights or not data or not columns:
        raise ConfigError("A transfer table needs weights, data and a protocol.")
    if plan is None and "finetune" in protocols:
        raise ConfigError(
            "The protocol finetune needs `plan`, which says how: pass "
            "`plan=vitral.recipes.plan_finetuning`."
        )
    out = Path(out)
    rows = [str(word) for word in dict.fromkeys(map(str, weights))]
    sets = vitral.data.expand(map(str, data))
    work = _TransferContext(out, plan, cache, workers, device)
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for row in rows:
        for name in sets:
            pair = _WeightsDataPair(work, row, name)
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


def _columns(
    protocols: Sequence[str], shots: Sequence[int], k: int, seed: int
) -> list[ProtocolColumn]:
    columns = []
    for protocol in dict.fromkeys(protocols):
        settings: list[tuple[str, dict[str, Any]]]
        if protocol == "fewshot":
            settings = [
                (f"{number}-shot", {"shots": (number,), "seed": seed})
                for number in dict.fromkeys(shots)
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
            ProtocolColumn(name=name, protocol=protocol, settings=chosen)
            for name, chosen in settings
        ]
    return columns


@dataclass(frozen=True)
class _TransferContext:
    """What all cells of a table share."""

    out: Path
    plan: Callable[[str, str], FinetunePlan] | None
    cache: str | Path | None
    workers: int
    device: str


class _WeightsDataPair:
    """Weights and data, opened when the first cell of theirs needs it."""

    def __init__(self, context: _TransferContext, weights: str, data: str) -> None:
        self.context, self.weights, self.data = context, weights, data
        self._inputs: dict[str, str] | None = None
        self._dataset: Dataset | None = None
        self._features: SplitFeatures | None = None

    def entry(self, column: ProtocolColumn) -> TransferResult:
        """The cell of a column: kept, computed now, or the reason why there is none."""
        empty = TransferResult(
            weights=self.weights, data=self.data, protocol=column.name
        )
        try:
            cell = self._get_or_compute(column)
        except (KeyboardInterrupt, InterruptedRun):
            raise
        except VitralError as error:
            return replace(empty, error=str(error), exit_code=error.exit_code)
        except Exception as error:
            first = " ".join(str(error).split()) or "no message"
            return replace(empty, error=f"{type(error).__name__}: {first}", exit_code=1)
        found = cell.result
        return replace(
            empty,
            accuracy=found["accuracy"],
            interval=Interval(*found["interval"]),
            of=found["of"],
            n=found["n"],
            seconds=cell.seconds,
            fresh=cell.fresh,
        )

    def _get_or_compute(self, column: ProtocolColumn) -> CachedResult:
        name = f"{_file_name(self.weights)}/{_file_name(self.data)}/{column.name}"
        if column.protocol == "finetune":
            return self._run_finetune(name)
        about = {
            **self._identity(),
            "protocol": column.protocol,
            "settings": column.settings,
            "draws": SEEDS if column.protocol == "fewshot" else 1,
        }
        cells = ResultCache(self.context.out / "cells")
        return cells.get_or_compute(name, about, lambda: self._run_probe(column))

    def _identity(self) -> dict[str, str]:
        """What the weights and the data are, wherever they lie."""
        if self._inputs is None:
            key = weights_file_hash(self.weights)
            dataset = dataset_for(as_run(self.weights) or self.weights, self.data)
            held_out_split(dataset)
            self._dataset = dataset
            self._inputs = {
                "weights": key,
                "data": dataset.fingerprint(),
                "content": content_hash(dataset, dataset.examples) or "",
            }
        return self._inputs

    def _run_probe(self, column: ProtocolColumn) -> dict[str, Any]:
        assert self._dataset is not None
        if self._features is None:
            self._features = extract_splits(
                self.weights,
                self._dataset,
                folder=self.context.cache,
                device=self.context.device,
                workers=self.context.workers,
            )
        (row,) = run_probe(self._features, protocol=column.protocol, **column.settings)
        values = [probe.accuracy for probe in row.probes]
        several = len(values) > 1
        interval = [min(values), max(values)] if several else row.probes[0].interval
        return {
            "accuracy": row.accuracy,
            "interval": list(interval),
            "of": f"{len(values)} draws" if several else "images",
            "n": row.probes[0].n,
            "each": values,
        }

    def _run_finetune(self, name: str) -> CachedResult:
        work = self.context
        assert work.plan is not None
        plan = work.plan(self.weights, self.data)
        # Its trainings are the cells: all of them kept is the whole of it kept.
        found = finetune(
            plan,
            work.out / "finetune" / name.rpartition("/")[0],
            workers=work.workers,
            device=work.device,
        )
        values, trainings = found.accuracies, (*found.search, *found.finals)
        interval = found.finals[0].interval
        if len(values) > 1:
            interval = (min(values), max(values))
        result = {
            "accuracy": found.accuracy,
            "interval": interval,
            "of": f"{len(values)} seeds" if len(values) > 1 else "images",
            "n": found.finals[0].n,
        }
        seconds = round(sum(one.seconds for one in trainings), 2)
        return CachedResult(result, seconds, any(one.fresh for one in trainings))


def _file_name(word: str) -> str:
    """A readable name for files; the digits part words that read alike."""
    digits = hashlib.sha256(word.encode()).hexdigest()[:8]
    plain = re.sub(r"[^\w.-]+", "_", word).strip("._")[-40:]
    return f"{plain or 'cell'}-{digits}"
