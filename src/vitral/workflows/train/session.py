"""The begin of a run: the ranks meet, the folder is theirs, what is known is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from vitral.atomic_io import write_atomic, write_json
from vitral.data import Audit
from vitral.training.distributed import TIMEOUT, process_group
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import describe_data
from vitral.workflows.run_lock import lock_run_folder, translate_os_errors
from vitral.workflows.runtime import command_line, describe_environment, pick_device
from vitral.workflows.train.build import ModelBundle, num_parameters, write_config
from vitral.workflows.train.rank_loader import describe_ranks, local_device


class Session(NamedTuple):
    """What was settled before a run looks at its data."""

    device: torch.device
    resume: bool


@contextmanager
def run_session(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    rank_timeout: float = TIMEOUT,
) -> Iterator[Session]:
    """Meet the other ranks, and make the folder this run's alone.

    Raises:
        ConfigError: as `train`.
    """
    place = pick_device(device)
    with (
        process_group(place, rank_timeout),
        translate_os_errors(out),
        lock_run_folder(config, out, resume) as again,
    ):
        yield Session(local_device(place), again)


def write_metadata(
    config: TrainConfig, out: Path, audit: Audit, device: torch.device
) -> None:
    """What is known before the first step."""
    write_config(config, out / "config.json")
    write_json(out / "data.json", describe_data(audit))
    write_json(
        out / "environment.json", describe_environment(device) | describe_ranks()
    )
    write_atomic(out / "command.txt", command_line() + "\n")


def log_summary(
    announce: Callable[[str], None], audit: Audit, prepared: ModelBundle
) -> None:
    """The facts of the data and the model, line by line."""
    for split, counts in audit.dataset.counts().items():
        announce(f"data: {split} {sum(counts.values())} {audit.dataset.kind}")
    for file in audit.bad:
        announce(f"unreadable: {file.path} ({file.split}): {file.reason}")
    for note in audit.dataset.notes:
        announce(f"note: {note}")
    config = prepared.model.config
    learns = sum(p.numel() for p in prepared.model.parameters() if p.requires_grad)
    frames = f"{config.num_frames} frames of " if config.num_frames else ""
    announce(
        f"model: {num_parameters(prepared.model):,} parameters, {learns:,} learn, "
        f"{frames}{config.image_hw[0]} x {config.image_hw[1]} pixels in "
        f"{config.grid.rows} x {config.grid.columns} patches"
    )
    if prepared.ledger is not None:
        for line in str(prepared.ledger).splitlines():
            announce(line)
        announce(prepared.ledger.summary().splitlines()[0])
