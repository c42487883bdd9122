"""fit: put a run together, and go on where it stopped.

The loop itself is in loop.py. Data and models come as arguments: nothing here knows
what they are.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from vitral.errors import ConfigError
from vitral.training.activation_checkpoint import checkpoint_activations, find_blocks
from vitral.training.batch_stream import BatchStream
from vitral.training.checkpointing import RunStore, TrainState
from vitral.training.distributed import ParallelForward, RankGroup
from vitral.training.loop import Callbacks, FitResult, LoopConfig, Trainer
from vitral.training.progress import Progress
from vitral.training.signals import StopSignals
from vitral.training.step import TrainStep

ShardMode = Literal["none", "fsdp"]


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
    shard: ShardMode = "none",
    recompute: bool = False,
) -> FitResult:
    """Train `objective.model` and leave checkpoints and metrics.jsonl in `folder`.

    The ranks of a process group call it alike and train one model together, on the
    batches of one process; rank 0 writes.

    Args:
        objective: has `.model`; objective(batch) gives `loss`, scalar metrics, and
            `weight` where the loss is not a mean over images.
        batches: (epoch, start_batch) to the batches of that epoch from that index on,
            each a NamedTuple with a field `id` whose other fields can be cut along
            the images, or a `Share` of it with a rank's own rows. It may end early.
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
        shard: `fsdp` keeps a part of the model on each rank, `none` all of it.
        recompute: compute the inside of a block again for the gradient, not keep it.

    Raises:
        ConfigError: the folder is in use or another run's, or nothing can be sharded.
        DataError: an epoch has no batches.
        DivergedError: a number is not finite; earlier checkpoints are intact.
        InterruptedRun: SIGINT or SIGTERM, after the step and a checkpoint.
        WeightsError: a checkpoint cannot be written or none verifies.
    """
    ranks = RankGroup.from_process_group(device)
    _validate(config, shard, ranks)
    objective.to(device).train()
    if recompute:
        checkpoint_activations(find_blocks(objective))
    trained, parallel = _parallelize(objective, optimizer, config, ranks, shard)
    settings = _result_settings(config) | {"seed": seed, **(extra_state or {})}
    settings["batches_per_epoch"] = batches_per_epoch
    files = RunStore(folder, settings, config.keep, ranks)
    updater = TrainStep(
        forward=parallel.forward,
        parameters=trained.parameters,
        optimizer=optimizer,
        device=device,
        seed=seed,
        accumulate=config.accumulate,
        bf16=config.precision == "bf16",
        clip_norm=clip_norm,
        ranks=ranks,
        no_sync=parallel.no_sync,
    )
    source = BatchStream(batches, batches_per_epoch, ranks)
    hooks = Callbacks(lr, evaluate, on_best)
    shown = progress or Progress(
        config.steps, None if ranks.is_rank_zero else io.StringIO()
    )
    with shown, StopSignals() as stop, closing(source), closing(files):
        opened = files.open(trained, config.compile, resume)
        loop = Trainer(
            config, trained, files, updater, source, hooks, shown, stop, ranks
        )
        return loop.run(opened.state, opened.notes)


def _validate(config: LoopConfig, shard: ShardMode, ranks: RankGroup) -> None:
    """Say what cannot be before anything is changed."""
    if config.steps < 1:
        raise ConfigError(
            "`steps` is 0: derive it from the epochs with `steps_for` first."
        )
    if shard == "fsdp" and ranks.world == 1:
        raise ConfigError(
            "`shard` divides a model among several ranks, and this is the only one: "
            "start it with torchrun, or leave it out."
        )


def _result_settings(config: LoopConfig) -> dict[str, Any]:
    """The settings that decide a number; the others may differ when it is resumed."""
    free = ("keep", "compile", "checkpoint_every")
    return {name: v for name, v in asdict(config).items() if name not in free}


class _ParallelTraining(NamedTuple):
    train_state: TrainState
    parallel: ParallelForward


def _parallelize(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    ranks: RankGroup,
    shard: ShardMode,
) -> _ParallelTraining:
    """What is trained, and how it is called so that all ranks train it."""
    ema = 0.0 if shard == "fsdp" else config.ema
    if ranks.world == 1:
        trained = TrainState.create(objective, optimizer, ema, config.ema_warmup)
        forward = torch.compile(objective) if config.compile else objective
        return _ParallelTraining(trained, ParallelForward(forward))
    # They import half a second of torch that one process does without.
    from vitral.training.parallel import ShardedTrainState, plain_copy, wrap_ddp
    from vitral.training.parallel import shard_objective as divided

    if shard == "none":
        trained = TrainState.create(objective, optimizer, ema, config.ema_warmup)
        return _ParallelTraining(trained, wrap_ddp(objective, ranks, config.compile))
    TrainState.create(
        objective, optimizer, 0.0, False
    )  # refuses before anything is divided
    plain = plain_copy(objective)
    parallel = divided(objective, optimizer, ranks, config.compile)
    trained = TrainState.create(objective, optimizer, 0.0, False)
    return _ParallelTraining(
        ShardedTrainState.from_train_state(
            trained, plain, config.ema, config.ema_warmup
        ),
        parallel,
    )
