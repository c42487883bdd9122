"""Find the fastest way to run a model within a bound on accuracy."""

from vitral.autotune.calibration_data import open_images
from vitral.autotune.candidate import WAYS, Candidate, CandidateBuilder, prepare
from vitral.autotune.commands import commands
from vitral.autotune.measurement import Point, as_markdown, choose, frontier
from vitral.autotune.plan import SweepPlan, make_candidates
from vitral.autotune.results import (
    caution_lines,
    make_figure,
    write_points,
    write_results,
)
from vitral.autotune.sweep import SweepResult, sweep, time_pair

__all__ = [
    "WAYS",
    "Candidate",
    "CandidateBuilder",
    "Point",
    "SweepPlan",
    "SweepResult",
    "as_markdown",
    "caution_lines",
    "choose",
    "commands",
    "frontier",
    "make_candidates",
    "make_figure",
    "open_images",
    "prepare",
    "sweep",
    "time_pair",
    "write_points",
    "write_results",
]
