"""Name of the metric that chooses a step, where none does."""

NO_MONITOR = "none"
"""Value of `LoopConfig.monitor` that keeps the last step."""
