"""Kill and resume a run at random moments; compare it with one that ran through."""

from vitral.workflows.resume_check.fault_injection import Life
from vitral.workflows.resume_check.verify import Start, errors_file, killed, unbroken

__all__ = ["Life", "Start", "errors_file", "killed", "unbroken"]
