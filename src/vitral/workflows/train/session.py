"""The begin of a run: the ranks meet, the folder is theirs, what is known is said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from vitral.atomic_io import write_atomic, write_json
from vitral.data import Audit
from vitral.training.distributed import TIMEOUT, joined
from vitral.workflows.config import TrainConfig
from vitral.workflows.dataset import describe_data
from vitral.workflows.run_lock import held, write_errors_as_ours
from vitral.workflows.runtime import command_line, describe, pick_device
from vitral.workflows.train.build import Prepared, num_parameters, write_config
from vitral.workflows.train.rank_loader import about_ranks, place_of


class Begun(NamedTuple):
    """What was settled before a run looks at its data."""

    place: torch.device
    resume: bool


@contextmanager
def begun(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    rank_timeout: float = TIMEOUT,
) -> Iterator[Begun]:
    """Meet the other ranks, and make the folder this run's alone.

    Raises:
        ConfigError: as `train`.
    """
    place = pick_device(device)
    with (
        joined(place, rank_timeout),
        write_errors_as_ours(out),
        held(config, out, resume) as again,
    ):
        yield Begun(place_of(place), again)


def write_facts(
    config: TrainConfig, out: Path, found: Audit, place: torch.device
) -> None:
    """What is known before the first step."""
    write_config(config, out / "config.json")
    write_json(out / "data.json", describe_data(found))
    write_json(out / "environment.json", describe(place) | about_ranks())
    write_atomic(out / "command.txt", command_line() + "\n")


def tell(announce: Callable[[str], None], found: Audit, prepared: Prepared) -> None:
    """The facts of the data and the model, line by line."""
    for split, counts in found.dataset.counts().items():
        announce(f"data: {split} {sum(counts.values())} {found.dataset.kind}")
    for file in found.bad:
        announce(f"unreadable: {file.path} ({file.split}): {file.reason}")
    for note in found.dataset.notes:
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
