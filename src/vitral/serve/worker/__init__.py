"""Worker process that runs the model, decoder processes, and their supervisor."""

from vitral.serve.worker.supervisor import Worker, worker_died

__all__ = ["Worker", "worker_died"]
