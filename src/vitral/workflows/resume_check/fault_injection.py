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

Place = Literal["start", "step", "save", "end"]
ROUND: tuple[Place, ...] = ("start", "step", "save", "step", "end")
"""So many kills of each kind in five."""
LEFT = re.compile(r"\.(new|old)-step-(\d+)-\d+")
POLL = 0.002
TAIL_BYTES = 4096


@runtime_checkable
class Life(Protocol):
    """A process that trains; subprocess.Popen is one."""

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


class Aim(NamedTuple):
    """When to kill: somewhere in one kind of work, from a step on."""

    place: Place
    step: int
    delay: float
    """Share of that work's usual duration that passes before the kill, from 0 to 1."""


class Kill(NamedTuple):
    """What the disk says of the moment of a kill."""

    where: str
    checkpoint: int
    """The newest step with a checkpoint; 0 for none."""


@dataclass(kw_only=True)
class Pace:
    """Seconds that things took in the unbroken run."""

    start: float = 0.0
    """Until the first step is logged."""
    step: float = 0.0
    save: float = 0.0
    end: float = 0.0
    """After the last checkpoint."""


def aims(kills: int, steps: int, seed: int) -> list[Aim]:
    """Random moments, spread over the steps and over all kinds of work."""
    generator = random.Random(seed)
    whole, rest = divmod(kills, len(ROUND))
    places = [*ROUND * whole, *generator.sample(ROUND, rest)]
    generator.shuffle(places)
    # A run that was killed at its end begins there again.
    places.sort(key=lambda place: place == "end")
    targets = sorted(generator.randint(1, max(1, steps - 1)) for _ in places)
    return [
        Aim(place, target, generator.random())
        for place, target in zip(places, targets, strict=True)
    ]


def watch(life: Life, out: Path, steps: int) -> Pace:
    """Wait for the end of an unbroken run, and measure its work."""
    pace = Pace()
    began = time.monotonic()
    first = last = saving = 0.0
    while life.poll() is None:
        now = time.monotonic()
        if not first and last_step(out):
            first, pace.start = now, now - began
        if not last and _finished(out, steps):
            last = now
        if _leftovers(out, "new"):
            saving = saving or now
        elif saving:
            pace.save, saving = max(pace.save, now - saving), 0.0
        time.sleep(POLL)
    end = time.monotonic()
    last = last or end
    pace.start = pace.start or end - began
    pace.step = (last - (first or began)) / steps
    pace.end = end - last
    return pace


def strike(life: Life, out: Path, aim: Aim, pace: Pace, steps: int) -> Kill | None:
    """Kill at the moment of `aim`; None when the process ended before it came."""
    before = set(_leftovers(out))
    log = _Log.of(out)
    reached = _reached(out, aim, log)
    if aim.place != "start":
        while life.poll() is None and not reached() and not _finished(out, steps):
            time.sleep(POLL)
    until = time.monotonic() + aim.delay * getattr(pace, aim.place)
    while life.poll() is None and time.monotonic() < until:
        time.sleep(min(POLL, max(0.0, until - time.monotonic())))
    if life.poll() is not None:
        return None
    life.kill()
    if life.wait() >= 0:  # it ended by itself in between
        return None
    where = _where(out, set(_leftovers(out)) - before, log, steps)
    return Kill(where, max(CheckpointStore(out / "checkpoints").steps(), default=0))


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


class _Log(NamedTuple):
    """metrics.jsonl as it was when a process started."""

    changed: int
    step: int

    @classmethod
    def of(cls, out: Path) -> "_Log":
        try:
            changed = (out / "metrics.jsonl").stat().st_mtime_ns
        except FileNotFoundError:
            changed = 0
        return cls(changed, last_step(out))


def _reached(out: Path, aim: Aim, before: _Log) -> Callable[[], bool]:
    """Whether the work that `aim` names has begun in this process."""
    if aim.place == "save":
        old = set(_leftovers(out, "new"))
        return lambda: any(
            _step_of(path) >= aim.step
            for path in _leftovers(out, "new")
            if path not in old
        )
    if aim.place == "step":
        # A resumed process first cuts the log back, so a new time is a new line or
        # the cut; the step then tells which.
        return lambda: (
            _Log.of(out).changed != before.changed and last_step(out) >= aim.step
        )
    return lambda: False


def _leftovers(out: Path, kind: str = "") -> Iterator[Path]:
    """Unfinished writes and deletes that can be seen now, of checkpoints first."""
    for path in (out / "checkpoints").glob(f".{kind or '*'}-step-*"):
        if LEFT.fullmatch(path.name):
            yield path
    if not kind:
        yield from out.glob("**/.*.tmp")


def _step_of(path: Path) -> int:
    match = LEFT.fullmatch(path.name)
    return int(match[2]) if match else 0


def _finished(out: Path, steps: int) -> bool:
    return CheckpointStore(out / "checkpoints").path(steps).is_dir()


def _where(out: Path, left: set[Path], before: _Log, steps: int) -> str:
    for path in sorted(left):
        match = LEFT.fullmatch(path.name)
        if match:
            work = "writing" if match[1] == "new" else "deleting"
            return f"{work} the checkpoint of step {int(match[2])}"
    for path in sorted(left):
        return f"writing {path.relative_to(out).parent / path.name.split('.')[1]}"
    if _finished(out, steps):
        return "after the last checkpoint"
    if any(
        not path.with_name("tokens.json").is_file()
        for path in out.glob("cache/*/tokens.bin")
    ):
        return "computing frozen outputs"
    log = _Log.of(out)
    if log.changed == before.changed:
        return "starting"
    if log.step:
        return f"after step {log.step}"
    return "in the first step"
