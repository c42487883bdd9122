"""Is a resumed run the same run? Killed and unbroken, side by side, on this machine.

The same command runs once undisturbed and once with SIGKILL at random moments, each
time started again with --resume. What the two leave must be equal bit for bit.
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
StartCommand = Callable[[Path], TrainProcess]
"""Starts the training command with this output folder and --resume."""


@dataclass(frozen=True, kw_only=True)
class ResumeCheck:
    """The kills of one run, and what of it differs from the unbroken one."""

    kills: tuple[KillRecord, ...]
    missed: int
    """Kills that came too late each time: the process had ended by itself."""
    diff: RunDiff
    seconds: float

    def lines(self) -> list[str]:
        """The table for a person."""
        width = max((len(kill.where) for kill in self.kills), default=0)
        rows = [f"kill  {'where':{width}}  goes on from"]
        rows += [
            f"{number:4}  {kill.where:{width}}  step {kill.checkpoint}"
            for number, kill in enumerate(self.kills, 1)
        ]
        if self.missed:
            rows.append(f"{self.missed} kills came too late, after the end of the run.")
        return rows

    def require_equal(self, out: Path) -> None:
        """Raise unless the killed run is the unbroken one.

        Raises:
            GateError: it is not; the message has the first difference of each kind.
        """
        if self.diff.differences:
            raise GateError(
                "The run that was killed and resumed is not the unbroken one. "
                f"{' '.join(self.diff.differences)} Both are in {out}. State that is "
                "neither in the checkpoint nor a function of the seed and the step "
                "does this; so do kernels that are not deterministic, which "
                "`--device cpu` leaves out."
            )


def run_reference(start: StartCommand, out: Path, steps: int) -> Timings:
    """Run the command to its end in `out`, undisturbed.

    Raises:
        VitralError: it fails by itself, with its exit code.
    """
    life = start(out)
    try:
        pace = measure_timings(life, out, steps)
    finally:
        _terminate(life)
    _require_end(life.wait(), out)
    return pace


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
        timings: of the unbroken run.
        seed: of the moments.

    Raises:
        VitralError: it fails by itself, with its exit code.
    """
    began = time.monotonic()
    found = [
        kill
        for aim in sample_kill_points(kills, steps, seed)
        if (kill := _kill_once(start, out, aim, timings, steps)) is not None
    ]
    life = start(out)
    try:
        _require_end(life.wait(), out)
    finally:
        _terminate(life)
    return ResumeCheck(
        kills=tuple(found),
        missed=kills - len(found),
        diff=diff_runs(reference, out),
        seconds=time.monotonic() - began,
    )


def _kill_once(
    start: StartCommand, out: Path, kill_point: KillPoint, timings: Timings, steps: int
) -> KillRecord | None:
    """Kill one process; one that outran its kill is started again, for an earlier
    one. None when `TRIES` did so."""
    for _ in range(MAX_TRIES):
        life = start(out)
        try:
            kill = kill_at(life, out, kill_point, timings, steps)
        finally:
            _terminate(life)
        if kill is not None:
            return kill
        _require_end(life.wait(), out)
        kill_point = KillPoint("start", kill_point.step, kill_point.delay / 2)
    return None


def _terminate(process: TrainProcess) -> None:
    """No process outlives an error or Ctrl-C here."""
    if process.poll() is None:
        process.kill()
        process.wait()


def errors_file(out: Path) -> Path:
    """Where `Start` leaves the standard error of its processes, beside the folder."""
    return out.with_name(f"{out.name}.errors.txt")


def _require_end(code: int, out: Path) -> None:
    if code == 0:
        return
    file = errors_file(out)
    said = file.read_text(errors="replace").splitlines() if file.is_file() else []
    error = VitralError(
        f"The training into {out} did not finish, with nobody killing it: exit code "
        f"{code}. It said: {said[-1] if said else 'nothing'}"
    )
    error.exit_code = code if code > 0 else 1
    raise error
