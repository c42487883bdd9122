"""Fault injection: kill a training process with SIGKILL at a chosen moment.

The process runs unmodified: its progress is read from its folder. Moments follow it,
not the clock alone, since importing torch takes seconds on some machines only.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from vitral.training import CheckpointStore

KillPhase = Literal["start", "step", "save", "end"]
KILL_MIX: tuple[KillPhase, ...] = ("start", "step", "save", "step", "end")
"""The phases of five kills."""
LEFTOVER_NAME = re.compile(r"\.(new|old)-step-(\d+)-\d+")
POLL_INTERVAL = 0.002
"""Seconds."""
TAIL_BYTES = 4096
"""Bytes read from the end of metrics.jsonl."""


@runtime_checkable
class TrainProcess(Protocol):
    """A process that trains; subprocess.Popen is one."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


@dataclass(frozen=True, slots=True)
class KillPoint:
    """A moment to kill at: in one phase of the work, from a step on."""

    phase: KillPhase
    step: int
    delay: float
    """Time before the kill as a share of the phase's usual duration, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class KillRecord:
    """The moment of a kill, as found on the disk."""

    where: str
    checkpoint: int
    """Newest step with a checkpoint; 0 for none."""


@dataclass(kw_only=True)
class Timings:
    """Seconds that each phase took in the uninterrupted run."""

    start: float = 0.0
    """Until the first step is logged."""
    step: float = 0.0
    save: float = 0.0
    end: float = 0.0
    """After the last checkpoint."""


def sample_kill_points(kills: int, steps: int, seed: int) -> list[KillPoint]:
    """Draw random moments, spread over the steps and over all phases."""
    generator = random.Random(seed)
    rounds, rest = divmod(kills, len(KILL_MIX))
    phases = [*KILL_MIX * rounds, *generator.sample(KILL_MIX, rest)]
    generator.shuffle(phases)
    # A run that was killed at its end resumes there.
    phases.sort(key=lambda phase: phase == "end")
    targets = sorted(generator.randint(1, max(1, steps - 1)) for _ in phases)
    return [
        KillPoint(phase, target, generator.random())
        for phase, target in zip(phases, targets, strict=True)
    ]


def measure_timings(process: TrainProcess, out: Path, steps: int) -> Timings:
    """Wait for the end of an uninterrupted run, and measure its phases."""
    timings = Timings()
    started = time.monotonic()
    first = last = saving = 0.0
    while process.poll() is None:
        now = time.monotonic()
        if not first and last_step(out):
            first, timings.start = now, now - started
        if not last and _is_finished(out, steps):
            last = now
        if _find_leftovers(out, "new"):
            saving = saving or now
        elif saving:
            timings.save, saving = max(timings.save, now - saving), 0.0
        time.sleep(POLL_INTERVAL)
    end = time.monotonic()
    last = last or end
    timings.start = timings.start or end - started
    timings.step = (last - (first or started)) / steps
    timings.end = end - last
    return timings


def kill_at(
    process: TrainProcess,
    out: Path,
    kill_point: KillPoint,
    timings: Timings,
    *,
    steps: int,
) -> KillRecord | None:
    """Kill at the moment of `kill_point`; None if the process ended before it."""
    before = set(_find_leftovers(out))
    log = _LogState.from_folder(out)
    reached = _make_phase_check(out, kill_point, log)
    if kill_point.phase != "start":
        while process.poll() is None and not reached() and not _is_finished(out, steps):
            time.sleep(POLL_INTERVAL)
    until = time.monotonic() + kill_point.delay * getattr(timings, kill_point.phase)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(min(POLL_INTERVAL, max(0.0, until - time.monotonic())))
    if process.poll() is not None:
        return None
    process.kill()
    if process.wait() >= 0:  # it ended by itself meanwhile
        return None
    where = _describe_moment(out, set(_find_leftovers(out)) - before, log, steps)
    return KillRecord(
        where, max(CheckpointStore(out / "checkpoints").steps(), default=0)
    )


def last_step(out: Path) -> int:
    """Return the last step in metrics.jsonl; 0 before the first."""
    for line in reversed(_tail(out / "metrics.jsonl")):
        try:
            record = json.loads(line)
        except ValueError:  # half written, or cut off by the tail
            continue
        if record.get("event") == "train":
            return int(record["step"])
    return 0


def _tail(file: Path) -> list[bytes]:
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            return log.read().splitlines()
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class _LogState:
    """State of metrics.jsonl when a process started."""

    mtime_ns: int
    step: int

    @classmethod
    def from_folder(cls, out: Path) -> "_LogState":
        try:
            changed = (out / "metrics.jsonl").stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        return cls(changed, last_step(out))


def _make_phase_check(
    out: Path, kill_point: KillPoint, before: _LogState
) -> Callable[[], bool]:
    """Return a check that this process has reached the phase of `kill_point`."""
    if kill_point.phase == "save":
        old = set(_find_leftovers(out, "new"))
        return lambda: any(
            _parse_step(path) >= kill_point.step
            for path in _find_leftovers(out, "new")
            if path not in old
        )
    if kill_point.phase == "step":
        # A resumed process first truncates the log, so a new time is a new line or the
        # truncation; the step then tells which.
        return lambda: (
            _LogState.from_folder(out).mtime_ns != before.mtime_ns
            and last_step(out) >= kill_point.step
        )
    return lambda: False


def _find_leftovers(out: Path, prefix: str = "") -> Iterator[Path]:
    """Yield unfinished writes and deletions, those of checkpoints first."""
    for path in (out / "checkpoints").glob(f".{prefix or '*'}-step-*"):
        if LEFTOVER_NAME.fullmatch(path.name):
            yield path
    if not prefix:
        yield from out.glob("**/.*.tmp")


def _parse_step(path: Path) -> int:
    match = LEFTOVER_NAME.fullmatch(path.name)
    return int(match[2]) if match else 0


def _is_finished(out: Path, steps: int) -> bool:
    return CheckpointStore(out / "checkpoints").path(steps).is_dir()


def _describe_moment(
    out: Path, leftovers: set[Path], before: _LogState, steps: int
) -> str:
    for path in sorted(leftovers):
        match = LEFTOVER_NAME.fullmatch(path.name)
        if match:
            work = "writing" if match[1] == "new" else "deleting"
            return f"{work} the checkpoint of step {int(match[2])}"
    for path in sorted(leftovers):
        return f"writing {path.relative_to(out).parent / path.name.split('.')[1]}"
    if _is_finished(out, steps):
        return "after the last checkpoint"
    if any(
        not path.with_name("tokens.json").is_file()
        for path in out.glob("cache/*/tokens.bin")
    ):
        return "computing frozen outputs"
    log = _LogState.from_folder(out)
    if log.mtime_ns == before.mtime_ns:
        return "starting"
    if log.step:
        return f"after step {log.step}"
    return "in the first step"
