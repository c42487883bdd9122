"""Floor 6: the fastest way to run a model that is still good enough."""

from vitral.autotune.calibration_data import images_of
from vitral.autotune.candidate import WAYS, Candidate, Maker, prepare
from vitral.autotune.commands import commands
from vitral.autotune.measurement import Point, as_markdown, choose, frontier
from vitral.autotune.plan import Plan, candidates_of
from vitral.autotune.results import caution, figure, keep, write
from vitral.autotune.sweep import Swept, sweep, timed

__all__ = [
    "WAYS",
    "Candidate",
    "Maker",
    "Plan",
    "Point",
    "Swept",
    "as_markdown",
    "candidates_of",
    "caution",
    "choose",
    "commands",
    "figure",
    "frontier",
    "images_of",
    "keep",
    "prepare",
    "sweep",
    "timed",
    "write",
]
