"""Worker process that decodes images and runs the model, and its supervisor."""

from vitral.serve.worker.supervisor import Worker

__all__ = ["Worker"]
