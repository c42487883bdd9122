"""Check that a run that was killed and resumed equals an uninterrupted one.

The same command runs once undisturbed and once with SIGKILL at random moments, each
time restarted with --resume. Both run folders must be equal bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitral.errors import GateError, VitralError
from vitral.workflows.resume_check.compare_runs import RunDiff, diff_runs
from vitral.workflows.resume_check.fault_injection import (
    KillPoint,
    KillRecord,
    Timings,
    TrainProcess,
    kill_at,
    measure_timings,
    sample_kill_points,
)

MAX_TRIES = 4
"""Starts per kill, if the process ends before it."""
StartCommand = Callable[[Path], TrainProcess]
"""Start the training command with this output folder and --resume."""


@dataclass(frozen=True, kw_only=True)
class ResumeCheck:
    """The kills of one run, and its differences from the uninterrupted one."""

    kills: tuple[KillRecord, ...]
    missed: int
    """Kills that came too late in each try: the process had ended by itself."""
    diff: RunDiff
    seconds: float

    def lines(self) -> list[str]:
        """Format the kills as a table."""
        width = max((len(kill.where) for kill in self.kills), default=0)
        rows = [f"kill  {'where':{width}}  goes on from"]
        rows += [
            f"{index:4}  {kill.where:{width}}  step {kill.checkpoint}"
            for index, kill in enumerate(self.kills, 1)
        ]
        if self.missed:
            rows.append(f"{self.missed} kills came too late, after the end of the run.")
        return rows

    def require_equal(self, out: Path) -> None:
        """Raise unless the killed run equals the uninterrupted one.

        Raises:
            GateError: they differ; the message has the first difference of each kind.
        """
        if self.diff.differences:
            raise GateError(
                "The run that was killed and resumed is not the unbroken one. "
                f"{' '.join(self.diff.differences)} Both are in {out}. State that is "
                "neither in the checkpoint nor a function of the seed and the step "
                "does this; so do kernels that are not deterministic, which "
                "`device=cpu` leaves out."
            )


def run_reference(start: StartCommand, out: Path, steps: int) -> Timings:
    """Run the command to its end in `out`, undisturbed.

    Raises:
        VitralError: it fails by itself, with its exit code.
    """
    process = start(out)
    try:
        timings = measure_timings(process, out, steps)
    finally:
        _terminate(process)
    _require_end(process.wait(), out)
    return timings


def run_with_kills(
    start: StartCommand,
    out: Path,
    reference: Path,
    timings: Timings,
    *,
    steps: int,
    kills: int,
    seed: int,
) -> ResumeCheck:
    """Run the command in `out` with `kills` SIGKILLs, and compare it with `reference`.

    Args:
        timings: those of the uninterrupted run.
        seed: decides the moments of the kills.

    Raises:
        VitralError: it fails by itself, with its exit code.
    """
    started = time.monotonic()
    records = [
        record
        for point in sample_kill_points(kills, steps, seed)
        if (record := _kill_once(start, out, point, timings, steps=steps)) is not None
    ]
    process = start(out)
    try:
        _require_end(process.wait(), out)
    finally:
        _terminate(process)
    return ResumeCheck(
        kills=tuple(records),
        missed=kills - len(records),
        diff=diff_runs(reference, out),
        seconds=time.monotonic() - started,
    )


def _kill_once(
    start: StartCommand,
    out: Path,
    kill_point: KillPoint,
    timings: Timings,
    *,
    steps: int,
) -> KillRecord | None:
    """Kill one process; retry with an earlier kill if it ends first, else None."""
    for _ in range(MAX_TRIES):
        process = start(out)
        try:
            record = kill_at(process, out, kill_point, timings, steps=steps)
        finally:
            _terminate(process)
        if record is not None:
            return record
        _require_end(process.wait(), out)
        kill_point = KillPoint("start", kill_point.step, kill_point.delay / 2)
    return None


def _terminate(process: TrainProcess) -> None:
    """Kill the process if it still runs, as after an error or Ctrl-C."""
    if process.poll() is None:
        process.kill()
        process.wait()


def errors_file(out: Path) -> Path:
    """Return the file next to `out` that holds the standard error of its processes."""
    return out.with_name(f"{out.name}.errors.txt")


def _require_end(code: int, out: Path) -> None:
    if code == 0:
        return
    file = errors_file(out)
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    error = VitralError(
        f"The training into {out} did not finish, with nobody killing it: exit code "
        f"{code}. It said: {lines[-1] if lines else 'nothing'}"
    )
    error.exit_code = code if code > 0 else 1
    raise error
