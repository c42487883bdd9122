"""Kill and resume a run at random moments; compare it with one that ran through."""

from vitral.workflows.resume_check.fault_injection import TrainProcess
from vitral.workflows.resume_check.verify import (
    StartCommand,
    errors_file,
    run_reference,
    run_with_kills,
)

__all__ = [
    "StartCommand",
    "TrainProcess",
    "errors_file",
    "run_reference",
    "run_with_kills",
]
