"""Answers for files by the hundred thousand: streamed, in parts, to be gone on with.

A part is written whole or not at all, so a start after a kill answers only for what is
missing, and the ranks of torchrun answer for every so-many-th part. Rows are a function
of the files in a batch, and batches one of the list of files: the result of any number
of starts, ranks and workers is the same, for as many threads.
"""

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    from_first,
    gathered,
    joined,
    rank,
    world_size,
)
from vitral.workflows.inputs import evaluation_batch
from vitral.workflows.predict.find_files import Kind, found
from vitral.workflows.predict.job import (
    Plan,
    finish,
    prepare,
    settings_of,
)
from vitral.workflows.predict.job_files import Place, clear_up, make_place
from vitral.workflows.predict.prefetch import Read, Waiting, read_ahead
from vitral.workflows.predict.thread_pool import in_streams, number_of_streams
from vitral.workflows.predict.writers import FORMS, Count, Form, Row, form_of
from vitral.workflows.run import Run, open_run
from vitral.workflows.run_lock import FORBIDDEN, FULL, locked
from vitral.workflows.runtime import pick_device


class Answers(NamedTuple):
    """How rows are made of files."""

    run: Run
    top: int
    workers: int | None


def rows(
    answers: Answers, batches: Iterable[Sequence[Path]]
) -> Iterator[tuple[Read, list[Row]]]:
    """Each batch of files with its rows, in their order."""
    for read in read_ahead(answers.run.preprocess, batches, answers.workers):
        yield read, rows_of(answers, read)


def rows_of(answers: Answers, read: Read) -> list[Row]:
    """The rows of one batch that is read."""
    run = answers.run
    table = np.empty((0, 0)) if read.pixels is None else run.probabilities(read.pixels)
    names = run.class_names(table.shape[1])
    order = np.argsort(-table, axis=1, kind="stable")[:, : max(answers.top, 1)]
    answered = iter(zip(table, order, strict=True))
    found = []
    for path, reason in zip(read.paths, read.reasons, strict=True):
        if reason:
            found.append(Row(path=str(path), error=reason))
            continue
        row, best = next(answered)
        found.append(
            Row(
                path=str(path),
                label=run.label(row, names),
                confidence=float(row[best[0]]),
                probabilities={names[k]: float(row[k]) for k in best[: answers.top]},
            )
        )
    return found


def place_model(run: Run, device: torch.device) -> None:
    """Move a model of tensors to the device; an exported one stays where it runs."""
    if any(True for _ in run.model.parameters()):
        run.model.to(device)
    run.model.eval()


SECONDS = 10.0
"""Between two lines of progress."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Where the answers are, and what it took."""

    out: Path
    files: int
    unreadable: int
    answered: int
    """Files that this start answered for, on this rank; the others were done."""
    seconds: float
    waiting: float
    """Share of `seconds` in which the model waited for files."""

    def __str__(self) -> str:
        text = f"{self.files:,} files, {self.unreadable:,} unreadable"
        if self.answered < self.files:
            text += f", {self.answered:,} of them answered now"
        if self.answered:
            speed = self.answered / max(self.seconds, 1e-9)
            text += f": {speed:,.0f} files/s, {100 * self.waiting:.0f} % of the time "
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
    announce: Callable[[str], None] = lambda line: None,
) -> Predicted:
    """Write the answer for each file; go on where an earlier start was stopped.

    Under torchrun the ranks share the work; all see the same `out`.

    Args:
        files: images or clips, folders at any depth, or patterns.
        out: a file that ends in .jsonl, .csv or .parquet, or a folder for parts.
        form: "jsonl", "csv" or "parquet"; empty goes by the ending of `out`.
        top: classes per row.
        batch_size: images for the model at once; of clips fewer.
        workers: processes that read ahead; 0 reads when asked, None decides.
        announce: gets a line of progress every ten seconds, on rank 0.

    Raises:
        ConfigError: `out` is in use or holds something else, or it was begun with
            another model, other flags or other files.
        MissingExtraError: Parquet or a video needs a package that is not there.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    opened.require_head()
    place = Place.of(Path(out))
    form = form_of(form, place.out)
    FORMS[form]()  # what is missing for it is said before the first answer
    named = [files] if isinstance(files, str | Path) else list(files)
    batch = evaluation_batch(opened.preprocess, batch_size)
    chosen = pick_device(device)
    settings = partial(
        settings_of, opened, top=top, form=form, batch=batch, device=chosen.type
    )
    kind: Kind = "clips" if opened.preprocess.sampling else "images"
    answers = Answers(opened, top, workers)
    with joined(chosen), _mended(place), ExitStack() as stack:
        place_model(opened, chosen)

        def begin() -> tuple[Plan, list[int]]:
            make_place(place)
            stack.enter_context(locked(place.lock))
            plan = prepare(place, settings(), found(named, kind))
            # Once for all ranks: one that looks later misses what another wrote, and
            # they would divide two different lists.
            return plan, [] if plan.done else plan.missing(place)

        plan, missing = from_first(begin)
        number = number_of_streams(
            opened, len(plan.listing.starts) // world_size(), workers
        )
        told = _Told(plan, number, announce if rank() == 0 else lambda line: None)
        if not plan.done:
            own = missing[rank() :: world_size()]
            if number > 1:
                answers = answers._replace(workers=0)
            work = partial(_answer, answers, plan, place, told)
            if number > 1:
                in_streams(work, own, number)
            else:
                work(own, threading.Event())
        gathered(0)  # all parts are there
        bad = from_first(lambda: _together(plan, place))
    if rank() == 0:
        clear_up(place)
    return Predicted(
        out=place.out,
        files=plan.listing.files,
        unreadable=bad,
        answered=told.number,
        seconds=told.seconds,
        waiting=told.waited / max(told.seconds, 1e-9),
    )


class _Told:
    """Counts files and seconds, and says how it goes now and then."""

    def __init__(
        self, plan: Plan, streams: int, announce: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.streams = streams
        self.announce = announce
        self.lock = threading.Lock()
        self.number = 0
        self.seconds = 0.0
        self.waited = 0.0
        self._began = self._said = time.perf_counter()

    def add(self, number: int, waited: float) -> None:
        """So many more files, for which one stream waited so many seconds."""
        with self.lock:
            self._add(number, waited / self.streams)

    def _add(self, number: int, waited: float) -> None:
        now = time.perf_counter()
        self.number += number
        self.seconds = now - self._began
        self.waited += waited
        if now - self._said >= SECONDS:
            self._said = now
            share = f" of rank 0 of {world_size()}" if world_size() > 1 else ""
            self.announce(
                f"{self.number:,} of {self.plan.listing.files:,} files{share}, "
                f"{self.number / self.seconds:,.0f} files/s, "
                f"{100 * self.waited / self.seconds:.0f} % of the time waiting for data"
            )


def _answer(
    answers: Answers,
    plan: Plan,
    place: Place,
    told: _Told,
    parts: Iterable[int],
    stopped: threading.Event,
) -> None:
    """Write the missing parts of one stream of this rank, until another one fails."""
    form = plan.settings["format"]
    to_read, to_write = itertools.tee(parts)
    tasks = (batch for part in to_read for batch in plan.batches(place, part))
    reads = Waiting(read_ahead(answers.run.preprocess, tasks, answers.workers))
    batches = iter(reads)
    for part in to_write:
        written: list[Row] = []
        for read in batches:
            written += rows_of(answers, read)
            told.add(len(read.paths), reads.taken())
            if stopped.is_set():
                return
            if len(written) == plan.size(part):
                break
        FORMS[form]().write(place.part(part, form), written)


def _together(plan: Plan, place: Place) -> int:
    """Join the parts, and note that all is done; the number of unreadable files."""
    if plan.unreadable is not None:
        return plan.unreadable
    name = plan.settings["format"]
    form = FORMS[name]()
    parts = [place.part(number, name) for number in range(len(plan.listing.starts))]
    counts = [form.count(part) for part in parts]
    total = Count(*map(sum, zip(*counts, strict=True)))
    if total.files != plan.listing.files:
        raise ConfigError(
            f"The parts in {place.work} hold {total.files:,} rows for "
            f"{plan.listing.files:,} files: something else wrote there. Give another "
            "`--out`."
        )
    if place.whole:
        _join(form, parts, place)
    finish(plan, place, total.unreadable)
    return total.unreadable


def _join(form: Form, parts: list[Path], place: Place) -> None:
    """The whole file, under its name once it is on the disk."""
    temporary = place.work / f"part-all{form.suffix}"
    form.join(parts, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(place.out)
    sync_folder(place.out.parent)


@contextmanager
def _mended(place: Place) -> Iterator[None]:
    """A full disk gets the name of what was written, a forbidden one a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise ConfigError(
                f"{place.out} cannot be written ({error}): choose another `--out`, or "
                "change the permissions."
            ) from error
        if error.errno in FULL and error.filename is None:
            raise OSError(errno.ENOSPC, error.strerror, str(place.out)) from error
        raise
