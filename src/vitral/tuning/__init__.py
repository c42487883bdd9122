"""Floor 6: the fastest way to run a model that is still good enough."""

from vitral.tuning.candidate import WAYS, Candidate, Maker, prepare
from vitral.tuning.commands import commands
from vitral.tuning.outcome import caution, figure, keep, write
from vitral.tuning.pictures import images_of
from vitral.tuning.plan import Plan, candidates_of
from vitral.tuning.points import Point, as_markdown, choose, frontier
from vitral.tuning.sweep import Swept, sweep, timed

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
