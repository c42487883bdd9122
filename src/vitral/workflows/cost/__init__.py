"""Cost of a run before it starts: multiply-adds, memory, time."""

from vitral.workflows.cost.dataset_sizes import PUBLISHED
from vitral.workflows.cost.macs import macs_of
from vitral.workflows.cost.plan import FLOPS_PER_MAC, Cost, estimate, measured_flops

__all__ = [
    "FLOPS_PER_MAC",
    "PUBLISHED",
    "Cost",
    "estimate",
    "macs_of",
    "measured_flops",
]
