"""Session of a training run: join the process group, lock the run folder."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from vitral import config_io
from vitral.errors import InterruptedRun
from vitral.training.distributed import process_group
from vitral.workflows.config import TrainConfig
from vitral.workflows.run_lock import lock_run_folder, translate_os_errors
from vitral.workflows.runtime import Runtime, local_device, pick_device


@dataclass(frozen=True, kw_only=True)
class Session:
    """Facts that are settled before a run opens its data."""

    out: Path
    """The run folder, which this process group owns."""
    runtime: Runtime
    device: torch.device
    """This rank's device."""
    resume: bool
    """As asked, or true because torchrun started the ranks again."""
    data_changed: bool = False
    """Go on although files have other content than when the run began."""


@contextmanager
def translate_interrupts() -> Iterator[None]:
    """Raise InterruptedRun for Ctrl-C outside of the steps, which save alone."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRun(
            "Stopped by SIGINT outside of the steps; what is finished is kept. Run the "
            "same command with --resume to go on.",
            128 + signal.SIGINT,
        ) from error


@contextmanager
def run_session(
    config: TrainConfig,
    out: Path,
    runtime: Runtime,
    resume: bool = False,
    data_changed: bool = False,
) -> Iterator[Session]:
    """Join the process group and lock the run folder for as long as the run takes."""
    device = pick_device(runtime.device)
    with (
        process_group(device, runtime.rank_timeout),
        translate_os_errors(out),
        lock_run_folder(config_io.to_dict(config), out, resume) as resumes,
        translate_interrupts(),
    ):
        yield Session(
            out=out,
            runtime=runtime,
            device=local_device(device),
            resume=resumes,
            data_changed=data_changed,
        )
