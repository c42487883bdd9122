"""Floor 6: the fastest way to run a model that is still good enough."""

from vitral.tuning.candidate import WAYS, Candidate, prepare
from vitral.tuning.outcome import caution, figure, write
from vitral.tuning.points import Point, as_markdown, choose, command, frontier
from vitral.tuning.sweep import Plan, Swept, sweep, timed

__all__ = [
    "WAYS",
    "Candidate",
    "Plan",
    "Point",
    "Swept",
    "as_markdown",
    "caution",
    "choose",
    "command",
    "figure",
    "frontier",
    "prepare",
    "sweep",
    "timed",
    "write",
]
