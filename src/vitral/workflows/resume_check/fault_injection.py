"""A training process, watched through its folder and killed at a chosen moment.

Nothing in the process knows of it: the moments are seen in what it leaves on the disk,
and SIGKILL gives it no time to tidy up. Moments follow progress, not the clock alone,
since importing torch takes seconds on one machine and none on another.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from vitral.training import CheckpointStore

KillPhase = Literal["start", "step", "save", "end"]
KILL_MIX: tuple[KillPhase, ...] = ("start", "step", "save", "step", "end")
"""So many kills of each kind in five."""
LEFTOVER_NAME = re.compile(r"\.(new|old)-step-(\d+)-\d+")
POLL_INTERVAL = 0.002
TAIL_BYTES = 4096


@runtime_checkable
class TrainProcess(Protocol):
    """A process that trains; subprocess.Popen is one."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class KillPoint(NamedTuple):
    """When to kill: somewhere in one kind of work, from a step on."""

    phase: KillPhase
    step: int
    delay: float
    """Share of that work's usual duration that passes before the kill, from 0 to 1."""


class KillRecord(NamedTuple):
    """What the disk says of the moment of a kill."""

    where: str
    checkpoint: int
    """The newest step with a checkpoint; 0 for none."""


@dataclass(kw_only=True)
class Timings:
    """Seconds that things took in the unbroken run."""

    start: float = 0.0
    """Until the first step is logged."""
    step: float = 0.0
    save: float = 0.0
    end: float = 0.0
    """After the last checkpoint."""


def sample_kill_points(kills: int, steps: int, seed: int) -> list[KillPoint]:
    """Random moments, spread over the steps and over all kinds of work."""
    generator = random.Random(seed)
    whole, rest = divmod(kills, len(KILL_MIX))
    places = [*KILL_MIX * whole, *generator.sample(KILL_MIX, rest)]
    generator.shuffle(places)
    # A run that was killed at its end begins there again.
    places.sort(key=lambda place: place == "end")
    targets = sorted(generator.randint(1, max(1, steps - 1)) for _ in places)
    return [
        KillPoint(place, target, generator.random())
        for place, target in zip(places, targets, strict=True)
    ]


def measure_timings(process: TrainProcess, out: Path, steps: int) -> Timings:
    """Wait for the end of an unbroken run, and measure its work."""
    pace = Timings()
    began = time.monotonic()
    first = last = saving = 0.0
    while process.poll() is None:
        now = time.monotonic()
        if not first and last_step(out):
            first, pace.start = now, now - began
        if not last and _is_finished(out, steps):
            last = now
        if _find_leftovers(out, "new"):
            saving = saving or now
        elif saving:
            pace.save, saving = max(pace.save, now - saving), 0.0
        time.sleep(POLL_INTERVAL)
    end = time.monotonic()
    last = last or end
    pace.start = pace.start or end - began
    pace.step = (last - (first or began)) / steps
    pace.end = end - last
    return pace


def kill_at(
    process: TrainProcess,
    out: Path,
    kill_point: KillPoint,
    timings: Timings,
    steps: int,
) -> KillRecord | None:
    """Kill at the moment of `kill_point`; None when the process ended before it
    came."""
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
    if process.wait() >= 0:  # it ended by itself in between
        return None
    where = _describe_moment(out, set(_find_leftovers(out)) - before, log, steps)
    return KillRecord(
        where, max(CheckpointStore(out / "checkpoints").steps(), default=0)
    )


def last_step(out: Path) -> int:
    """The last step in metrics.jsonl; 0 before the first."""
    for line in reversed(_tail(out / "metrics.jsonl")):
        try:
            record = json.loads(line)
        except ValueError:  # half written, or cut by the start of the tail
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


class _LogState(NamedTuple):
    """metrics.jsonl as it was when a process started."""

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
    """Whether the work that `kill_point` names has begun in this process."""
    if kill_point.phase == "save":
        old = set(_find_leftovers(out, "new"))
        return lambda: any(
            _parse_step(path) >= kill_point.step
            for path in _find_leftovers(out, "new")
            if path not in old
        )
    if kill_point.phase == "step":
        # A resumed process first cuts the log back, so a new time is a new line or
        # the cut; the step then tells which.
        return lambda: (
            _LogState.from_folder(out).mtime_ns != before.mtime_ns
            and last_step(out) >= kill_point.step
        )
    return lambda: False


def _find_leftovers(out: Path, kind: str = "") -> Iterator[Path]:
    """Unfinished writes and deletes that can be seen now, of checkpoints first."""
    for path in (out / "checkpoints").glob(f".{kind or '*'}-step-*"):
        if LEFTOVER_NAME.fullmatch(path.name):
            yield path
    if not kind:
        yield from out.glob("**/.*.tmp")


def _parse_step(path: Path) -> int:
    match = LEFTOVER_NAME.fullmatch(path.name)
    return int(match[2]) if match else 0


def _is_finished(out: Path, steps: int) -> bool:
    return CheckpointStore(out / "checkpoints").path(steps).is_dir()


def _describe_moment(out: Path, left: set[Path], before: _LogState, steps: int) -> str:
    for path in sorted(left):
        match = LEFTOVER_NAME.fullmatch(path.name)
        if match:
            work = "writing" if match[1] == "new" else "deleting"
            return f"{work} the checkpoint of step {int(match[2])}"
    for path in sorted(left):
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
