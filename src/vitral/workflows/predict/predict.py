"""Answers for files by the hundred thousand: streamed, in parts, to be gone on with.

A part is written whole or not at all, so a start after a kill answers only for what is
missing, and the ranks of torchrun answer for every so-many-th part. Rows are a function
of the files in a batch, and batches one of the list of files: the result of any number
of starts, ranks and workers is the same, for as many threads.
"""

import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vitral.atomic_io import sync_folder
from vitral.errors import ConfigError
from vitral.training.distributed import (
    all_gather,
    broadcast_from_rank_zero,
    get_rank,
    get_world_size,
    process_group,
)
from vitral.workflows.inputs import evaluation_batch_size
from vitral.workflows.predict.find_files import FileKind, find_files
from vitral.workflows.predict.job import (
    PredictionPlan,
    collect_settings,
    complete_plan,
    prepare_plan,
)
from vitral.workflows.predict.job_files import (
    JobPaths,
    create_work_folder,
    remove_empty_work_folder,
)
from vitral.workflows.predict.prefetch import FileBatch, WaitTimer, prefetch_batches
from vitral.workflows.predict.thread_pool import choose_num_threads, run_in_threads
from vitral.workflows.predict.writers import (
    WRITERS,
    PredictionRow,
    RowCounts,
    Writer,
    resolve_format,
)
from vitral.workflows.run import Run, open_run
from vitral.workflows.run_lock import DISK_FULL_ERRNOS, PERMISSION_ERRNOS, lock_file
from vitral.workflows.runtime import pick_device

logger = logging.getLogger(__name__)


class PredictOptions(NamedTuple):
    """How rows are made of files."""

    run: Run
    top: int
    workers: int | None


def predict_rows(
    options: PredictOptions, batches: Iterable[Sequence[Path]]
) -> Iterator[tuple[FileBatch, list[PredictionRow]]]:
    """Each batch of files with its rows, in their order."""
    for read in prefetch_batches(options.run.preprocess, batches, options.workers):
        yield read, predict_batch_rows(options, read)


def predict_batch_rows(
    options: PredictOptions, batch: FileBatch
) -> list[PredictionRow]:
    """The rows of one batch that is read."""
    run = options.run
    table = (
        np.empty((0, 0)) if batch.pixels is None else run.probabilities(batch.pixels)
    )
    names = run.class_names(table.shape[1])
    order = np.argsort(-table, axis=1, kind="stable")[:, : max(options.top, 1)]
    answered = iter(zip(table, order, strict=True))
    found = []
    for path, reason in zip(batch.paths, batch.reasons, strict=True):
        if reason:
            found.append(PredictionRow(path=str(path), error=reason))
            continue
        row, best = next(answered)
        found.append(
            PredictionRow(
                path=str(path),
                label=run.top_label(row, names),
                confidence=float(row[best[0]]),
                probabilities={names[k]: float(row[k]) for k in best[: options.top]},
            )
        )
    return found


def move_model(run: Run, device: torch.device) -> None:
    """Move a model of tensors to the device; an exported one stays where it runs."""
    if any(True for _ in run.model.parameters()):
        run.model.to(device)
    run.model.eval()


PROGRESS_INTERVAL = 10.0
"""Between two lines of progress."""


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """Where the answers are, and what it took."""

    out: Path
    files: int
    unreadable: int
    num_computed: int
    """Files that this start answered for, on this rank; the others were done."""
    seconds: float
    wait_share: float
    """Share of `seconds` in which the model waited for files."""

    def __str__(self) -> str:
        text = f"{self.files:,} files, {self.unreadable:,} unreadable"
        if self.num_computed < self.files:
            text += f", {self.num_computed:,} of them answered now"
        if self.num_computed:
            speed = self.num_computed / max(self.seconds, 1e-9)
            text += (
                f": {speed:,.0f} files/s, {100 * self.wait_share:.0f} % of the time "
            )
            text += "waiting for data"
        return text


def predict_files(
    run: Run | str | Path,
    files: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    form: str = "",
    top: int = 5,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
) -> PredictResult:
    """Write the answer for each file; go on where an earlier start was stopped.

    Under torchrun the ranks share the work; all see the same `out`.

    Args:
        files: images or clips, folders at any depth, or patterns.
        out: a file that ends in .jsonl, .csv or .parquet, or a folder for parts.
        form: "jsonl", "csv" or "parquet"; empty goes by the ending of `out`.
        top: classes per row.
        batch_size: images for the model at once; of clips fewer.
        workers: processes that read ahead; 0 reads when asked, None decides.

    Raises:
        ConfigError: `out` is in use or holds something else, or it was begun with
            another model, other flags or other files.
        MissingExtraError: Parquet or a video needs a package that is not there.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    opened.require_head()
    place = JobPaths.from_output(Path(out))
    form = resolve_format(form, place.out)
    WRITERS[form]()  # what is missing for it is said before the first answer
    named = [files] if isinstance(files, str | Path) else list(files)
    batch = evaluation_batch_size(opened.preprocess, batch_size)
    chosen = pick_device(device)
    settings = partial(
        collect_settings, opened, top=top, form=form, batch=batch, device=chosen.type
    )
    kind: FileKind = "clips" if opened.preprocess.sampling else "images"
    answers = PredictOptions(opened, top, workers)
    with process_group(chosen), _translate_os_errors(place), ExitStack() as stack:
        move_model(opened, chosen)
        # Outside of the process group every process is rank 0.
        is_rank_zero = get_rank() == 0

        def begin() -> tuple[PredictionPlan, list[int]]:
            create_work_folder(place)
            stack.enter_context(lock_file(place.lock))
            plan = prepare_plan(place, settings(), find_files(named, kind))
            # Once for all ranks: one that looks later misses what another wrote, and
            # they would divide two different lists.
            return plan, [] if plan.is_complete else plan.missing_parts(place)

        plan, missing = broadcast_from_rank_zero(begin)
        number = choose_num_threads(
            opened, len(plan.listing.part_offsets) // get_world_size(), workers
        )
        told = _ProgressCounter(plan, number)
        if not plan.is_complete:
            own = missing[get_rank() :: get_world_size()]
            if number > 1:
                answers = answers._replace(workers=0)
            work = partial(_predict_parts, answers, plan, place, told)
            if number > 1:
                run_in_threads(work, own, number)
            else:
                work(own, threading.Event())
        all_gather(0)  # all parts are there
        bad = broadcast_from_rank_zero(lambda: _merge_parts(plan, place))
    if is_rank_zero:
        remove_empty_work_folder(place)
    return PredictResult(
        out=place.out,
        files=plan.listing.files,
        unreadable=bad,
        num_computed=told.count,
        seconds=told.seconds,
        wait_share=told.wait_seconds / max(told.seconds, 1e-9),
    )


class _ProgressCounter:
    """Counts files and seconds, and says how it goes now and then."""

    def __init__(self, plan: PredictionPlan, threads: int) -> None:
        self.plan = plan
        self.threads = threads
        self.lock = threading.Lock()
        self.count = 0
        self.seconds = 0.0
        self.wait_seconds = 0.0
        self._started_at = self._reported_at = time.perf_counter()

    def add(self, count: int, wait_seconds: float) -> None:
        """So many more files, for which one stream waited so many seconds."""
        with self.lock:
            self._add(count, wait_seconds / self.threads)

    def _add(self, count: int, wait_seconds: float) -> None:
        now = time.perf_counter()
        self.count += count
        self.seconds = now - self._started_at
        self.wait_seconds += wait_seconds
        if now - self._reported_at >= PROGRESS_INTERVAL and get_rank() == 0:
            self._reported_at = now
            share = f" of rank 0 of {get_world_size()}" if get_world_size() > 1 else ""
            logger.info(
                f"{self.count:,} of {self.plan.listing.files:,} files{share}, "
                f"{self.count / self.seconds:,.0f} files/s, "
                f"{100 * self.wait_seconds / self.seconds:.0f} % of the time waiting "
                "for data"
            )


def _predict_parts(
    options: PredictOptions,
    plan: PredictionPlan,
    job_paths: JobPaths,
    progress: _ProgressCounter,
    parts: Iterable[int],
    stopped: threading.Event,
) -> None:
    """Write the missing parts of one stream of this rank, until another one fails."""
    form = plan.settings["format"]
    to_read, to_write = itertools.tee(parts)
    tasks = (batch for part in to_read for batch in plan.iter_batches(job_paths, part))
    reads = WaitTimer(prefetch_batches(options.run.preprocess, tasks, options.workers))
    batches = iter(reads)
    for part in to_write:
        written: list[PredictionRow] = []
        for read in batches:
            written += predict_batch_rows(options, read)
            progress.add(len(read.paths), reads.pop_seconds())
            if stopped.is_set():
                return
            if len(written) == plan.part_size(part):
                break
        WRITERS[form]().write(job_paths.part(part, form), written)


def _merge_parts(plan: PredictionPlan, job_paths: JobPaths) -> int:
    """Join the parts, and note that all is done; the number of unreadable files."""
    if plan.unreadable is not None:
        return plan.unreadable
    name = plan.settings["format"]
    form = WRITERS[name]()
    parts = [
        job_paths.part(number, name) for number in range(len(plan.listing.part_offsets))
    ]
    counts = [form.count(part) for part in parts]
    total = RowCounts(*map(sum, zip(*counts, strict=True)))
    if total.files != plan.listing.files:
        raise ConfigError(
            f"The parts in {job_paths.work} hold {total.files:,} rows for "
            f"{plan.listing.files:,} files: something else wrote there. Give another "
            "`--out`."
        )
    if job_paths.is_single_file:
        _write_single_file(form, parts, job_paths)
    complete_plan(plan, job_paths, total.unreadable)
    return total.unreadable


def _write_single_file(writer: Writer, parts: list[Path], job_paths: JobPaths) -> None:
    """The whole file, under its name once it is on the disk."""
    temporary = job_paths.work / f"part-all{writer.suffix}"
    writer.join(parts, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(job_paths.out)
    sync_folder(job_paths.out.parent)


@contextmanager
def _translate_os_errors(job_paths: JobPaths) -> Iterator[None]:
    """A full disk gets the name of what was written, a forbidden one a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in PERMISSION_ERRNOS:
            raise ConfigError(
                f"{job_paths.out} cannot be written ({error}): choose another `--out`, "
                "or "
                "change the permissions."
            ) from error
        if error.errno in DISK_FULL_ERRNOS and error.filename is None:
            raise OSError(errno.ENOSPC, error.strerror, str(job_paths.out)) from error
        raise
