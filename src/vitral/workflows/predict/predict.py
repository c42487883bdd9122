"""Resumable prediction for large file lists, on one or several ranks.

Each part of the list is written atomically, so a restart computes only missing parts.
Under torchrun, rank r takes the missing parts r, r + world_size, ... The rows depend on
the list and the number of threads, not on the number of starts, ranks or workers.
"""

import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vitral.atomic_io import sync_folder, write_atomic
from vitral.errors import ConfigError
from vitral.training.distributed import (
    all_gather,
    broadcast_from_rank_zero,
    get_rank,
    get_world_size,
    process_group,
)
from vitral.workflows.predict.find_files import find_files
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
from vitral.workflows.predict.prefetch import WaitTimer, prefetch_batches
from vitral.workflows.predict.rows import (
    PredictOptions,
    move_model,
    predict_batch_rows,
)
from vitral.workflows.predict.thread_pool import choose_num_threads, run_in_threads
from vitral.workflows.predict.writers import (
    WRITERS,
    PredictionRow,
    Writer,
    resolve_format,
)
from vitral.workflows.run import Run, open_run
from vitral.workflows.run_lock import DISK_FULL_ERRNOS, PERMISSION_ERRNOS, lock_file
from vitral.workflows.runtime import pick_model_device

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL = 10.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """The output of a job, and the time it took on this rank."""

    out: Path
    files: int
    unreadable: int
    num_computed: int
    """Files that this start predicted on this rank; the others were done before."""
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


class _ProgressCounter:
    """Count files and seconds, and log progress every `PROGRESS_INTERVAL`."""

    def __init__(self, plan: PredictionPlan, threads: int) -> None:
        self.plan = plan
        self.threads = threads
        self.lock = threading.Lock()
        self.count = 0
        self.seconds = 0.0
        self.wait_seconds = 0.0
        self._started_at = self._reported_at = time.perf_counter()

    def add(self, count: int, wait_seconds: float) -> None:
        """Add `count` files, for which one of the threads waited `wait_seconds`."""
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


@dataclass(frozen=True, slots=True)
class _Job:
    """A prediction job as one rank sees it."""

    options: PredictOptions
    plan: PredictionPlan
    paths: JobPaths
    progress: _ProgressCounter

    def writer(self) -> Writer:
        """Return the writer of the job's format."""
        run = self.options.run
        types = run.task.row_types(run.labels)
        return WRITERS[self.plan.settings["format"]](types)


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
    """Write a prediction for each file; resume where an earlier start was stopped.

    Under torchrun the ranks share the work and write to the same `out`.

    Args:
        files: images or clips, folders at any depth, or patterns.
        out: a file that ends in .jsonl, .csv or .parquet, or a folder for parts.
        form: "jsonl", "csv" or "parquet"; empty takes the suffix of `out`.
        top: classes per row.
        batch_size: images per forward pass; fewer for clips.
        workers: processes that read ahead; 0 reads on demand, None decides.

    Raises:
        ConfigError: `out` is in use or holds something else, or it was begun with
            another model, other flags or other files.
        MissingExtraError: Parquet or a video needs a package that is not installed.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    opened.require_head()
    paths = JobPaths.from_output(Path(out))
    form = resolve_format(form, paths.out)
    types = opened.task.row_types(opened.labels)
    WRITERS[form](types)  # refuses before the first prediction if a package is missing
    patterns = [files] if isinstance(files, str | Path) else list(files)
    batch_size = opened.preprocess.batch_size(batch_size)
    target = pick_model_device(opened.model, device)
    options = PredictOptions(opened, top, workers)
    with process_group(target), _translate_os_errors(paths), ExitStack() as stack:
        move_model(opened, target)
        is_rank_zero = get_rank() == 0  # every process is rank 0 outside of the group

        def start_or_resume() -> tuple[PredictionPlan, list[int]]:
            _lock_work_folder(paths, stack)
            settings = collect_settings(
                opened, top=top, form=form, batch=batch_size, device=target.type
            )
            plan = prepare_plan(
                paths, settings, find_files(patterns, opened.preprocess.kind)
            )
            # Once for all ranks: a rank that lists the missing parts later lacks those
            # that another one has written, and they would divide two different lists.
            return plan, [] if plan.is_complete else plan.missing_parts(paths)

        plan, missing = broadcast_from_rank_zero(start_or_resume)
        num_threads = choose_num_threads(
            opened, len(plan.listing.part_offsets) // get_world_size(), workers
        )
        progress = _ProgressCounter(plan, num_threads)
        if not plan.is_complete:
            parts = missing[get_rank() :: get_world_size()]
            job = _Job(options, plan, paths, progress)
            if num_threads > 1:  # each reads its own files
                job = replace(job, options=replace(options, workers=0))
                run_in_threads(partial(_predict_parts, job), parts, num_threads)
            else:
                _predict_parts(job, parts, threading.Event())
        all_gather(0)  # all parts are written
        writer = WRITERS[form](types)
        unreadable = broadcast_from_rank_zero(lambda: _merge_parts(plan, paths, writer))
    if is_rank_zero:
        remove_empty_work_folder(paths)
    return PredictResult(
        out=paths.out,
        files=plan.listing.files,
        unreadable=unreadable,
        num_computed=progress.count,
        seconds=progress.seconds,
        wait_share=progress.wait_seconds / max(progress.seconds, 1e-9),
    )


def _lock_work_folder(job_paths: JobPaths, stack: ExitStack) -> None:
    """Create the folder of parts and lock it until `stack` closes."""
    while True:
        create_work_folder(job_paths)
        # A start that ends may remove the new folder before the lock is in it.
        with suppress(FileNotFoundError):
            stack.enter_context(lock_file(job_paths.lock))
            return


def _predict_parts(job: _Job, parts: Iterable[int], stopped: threading.Event) -> None:
    """Write the parts of one thread, until another one fails."""
    form, writer = job.plan.settings["format"], job.writer()
    to_read, to_write = itertools.tee(parts)
    tasks = (b for part in to_read for b in job.plan.iter_batches(job.paths, part))
    preprocess, workers = job.options.run.preprocess, job.options.workers
    timer = WaitTimer(prefetch_batches(preprocess, tasks, workers))
    batches = iter(timer)
    for part in to_write:
        rows: list[PredictionRow] = []
        for batch in batches:
            answered = predict_batch_rows(job.options, batch)
            _write_answer_files(job.paths, answered)
            rows += answered
            job.progress.add(len(batch.paths), timer.pop_seconds())
            if stopped.is_set():
                return
            if len(rows) == job.plan.part_size(part):
                break
        writer.write(job.paths.part(part, form), rows)


def _write_answer_files(paths: JobPaths, rows: Iterable[PredictionRow]) -> None:
    """Write the files of answers that are more than a row, such as masks."""
    for row in rows:
        files = {} if row.answer is None else row.answer.files()
        for suffix, content in files.items():
            file = paths.answer_file(row.path, suffix)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content)


def _merge_parts(plan: PredictionPlan, job_paths: JobPaths, writer: Writer) -> int:
    """Merge the parts, mark the job complete, and return its unreadable files."""
    if plan.unreadable is not None:
        return plan.unreadable
    form = plan.settings["format"]
    parts = [job_paths.part(i, form) for i in range(len(plan.listing.part_offsets))]
    counts = [writer.count(part) for part in parts]
    files, unreadable = (sum(column) for column in zip(*counts, strict=True))
    if files != plan.listing.files:
        raise ConfigError(
            f"The parts in {job_paths.work} hold {files:,} rows for "
            f"{plan.listing.files:,} files: something else wrote there. Give another "
            "`out`."
        )
    if job_paths.is_single_file:
        _write_single_file(writer, parts, job_paths)
    complete_plan(plan, job_paths, unreadable)
    return unreadable


def _write_single_file(writer: Writer, parts: list[Path], job_paths: JobPaths) -> None:
    """Merge the parts into one file, and rename it once it is flushed to the disk."""
    temporary = job_paths.work / f"part-all{writer.suffix}"
    writer.join(parts, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(job_paths.out)
    sync_folder(job_paths.out.parent)


@contextmanager
def _translate_os_errors(job_paths: JobPaths) -> Iterator[None]:
    """Add the output to a disk-full error; turn a permission error into ConfigError."""
    try:
        yield
    except OSError as error:
        if error.errno in PERMISSION_ERRNOS:
            raise ConfigError(
                f"{job_paths.out} cannot be written ({error}): choose another `out`, "
                "or change the permissions."
            ) from error
        if error.errno in DISK_FULL_ERRNOS and error.filename is None:
            raise OSError(errno.ENOSPC, error.strerror, str(job_paths.out)) from error
        raise
