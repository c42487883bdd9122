"""fit: put a run together, and go on where it stopped.

The loop itself is in loop.py. Data and models come as arguments: nothing here knows
what they are.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitral.errors import ConfigError
from vitral.training.loop import FitResult, Hooks, Loop, LoopConfig
from vitral.training.progress import Progress
from vitral.training.resume import RunFiles, Trained
from vitral.training.signals import StopSignals
from vitral.training.source import Source
from vitral.training.step import Updater


def fit(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    config: LoopConfig,
    batches: Callable[[int, int], Iterator[Any]],
    batches_per_epoch: int,
    lr: Callable[[int], float],
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    folder: Path,
    seed: int,
    device: torch.device,
    clip_norm: float = 0.0,
    resume: bool = False,
    on_best: Callable[[nn.Module, int], None] | None = None,
    extra_state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train `objective.model` and leave checkpoints and metrics.jsonl in `folder`.

    Args:
        objective: has `.model`; objective(batch) gives `loss`, scalar metrics, and
            `weight` where the loss is not a mean over images.
        batches: (epoch, start_batch) to the batches of that epoch from that index on,
            each a NamedTuple with a field `id` whose other fields can be cut along
            the images. It may end early: the next epoch follows.
        batches_per_epoch: an epoch ends after so many, even if there are more.
        lr: the index of an update, from 0, to the learning rate.
        evaluate: gets the (averaged) model in eval mode, under no_grad; every value
            must be finite. A signal cuts it off, and the resumed run repeats it.
        clip_norm: the largest norm of the whole gradient; 0 turns it off.
        resume: go on from the newest checkpoint that verifies, or start when there
            is none; a finished run returns at once.
        on_best: called with that model and the step after each best evaluation; once
            at the end where `evaluate` is None.
        extra_state: JSON values that must be the same on resume (hash of the config,
            fingerprint of the data).

    Raises:
        ConfigError: the folder is in use, or is resumed with another setting.
        DataError: an epoch has no batches.
        DivergedError: a number is not finite; earlier checkpoints are intact.
        InterruptedRun: SIGINT or SIGTERM, after the step and a checkpoint.
        WeightsError: a checkpoint cannot be written or none verifies.
    """
    if config.steps < 1:
        raise ConfigError(
            "`steps` is 0: derive it from the epochs with `steps_for` first."
        )
    objective.to(device)
    trained = Trained.of(objective, optimizer, config.ema, config.ema_warmup)
    # What changes no number of a run may differ when it is resumed.
    settings = {
        name: value
        for name, value in asdict(config).items()
        if name not in ("keep", "compile", "checkpoint_every")
    }
    settings |= {"seed": seed, "batches_per_epoch": batches_per_epoch}
    files = RunFiles(folder, settings | dict(extra_state or {}), config.keep)
    updater = Updater(
        forward=torch.compile(objective) if config.compile else objective,
        parameters=trained.parameters,
        optimizer=optimizer,
        device=device,
        seed=seed,
        accumulate=config.accumulate,
        bf16=config.precision == "bf16",
        clip_norm=clip_norm,
    )
    source = Source(batches, batches_per_epoch)
    hooks = Hooks(lr, evaluate, on_best)
    with progress or Progress(config.steps) as shown, StopSignals() as signals:
        try:
            opened = files.open(trained, config.compile, resume)
            loop = Loop(config, trained, files, updater, source, hooks, shown, signals)
            return loop.run(opened.state, opened.notes)
        finally:
            source.close()
            files.close()
