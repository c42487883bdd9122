"""Put a training together, resume where it stopped, and run the loop."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class EpochBatches:
    """The training batches of a run, epoch by epoch."""

    epoch: Callable[[int, int], Iterator[Any]]
    """(epoch, start_batch) to the batches of that epoch from that index on, each a
    NamedTuple with a field `id` whose other fields can be cut along the images, or a
    `RankSlice` of it with a rank's own rows. It may end early."""
    per_epoch: int
    """Batches after which an epoch ends, even if there are more."""


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """The settings of one `fit`."""

    loop: LoopConfig
    lr: Callable[[int], float]
    """Index of an update, from 0, to its learning rate."""
    folder: Path
    """Folder of the checkpoints and of metrics.jsonl."""
    seed: int
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 turns it off."""
    resume: bool = False
    """True resumes from the newest checkpoint that verifies, and starts when there is
    none. A finished run returns at once."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that must be the same on resume: hash of the config, fingerprint of
    the data."""
    shard: ShardMode = "none"
    """`fsdp` keeps a part of the model on each rank, `none` all of it."""
    lower_is_better: frozenset[str] = frozenset({"loss"})
    """Metrics of the evaluation of which the smaller is the better one; those with
    `loss` in their name are, listed or not."""
    ready: bool = False
    """True for a model that needs no updates: it is evaluated and saved."""
    recompute: bool = False
    """True computes the inside of a block again for the gradient."""


def fit(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: EpochBatches,
    spec: FitSpec,
    *,
    device: torch.device,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    on_best: Callable[[nn.Module, int], None] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train `objective.model` and leave checkpoints and metrics.jsonl in the folder.

    The ranks of a process group call it alike and train one model together, on the
    batches of one process; rank 0 writes.

    Args:
        objective: has `.model`; objective(batch) gives scalar metrics and `loss`, with
            `weight` where that is not a mean over images, or else `terms`, whose
            weights `objective.term_weights(batch)` gives before any forward pass; see
            vitral.training.loss. `accumulates = False` refuses parts.
        evaluate: gets the (averaged) model in eval mode, under no_grad; every value
            must be finite. A signal cuts it off, and the resumed run repeats it.
        on_best: called with that model and the step after each best evaluation; once
            at the end where `evaluate` is None.

    Raises:
        ConfigError: the folder is in use or another run's, or nothing can be sharded.
        DataError: an epoch has no batches.
        DivergedError: a number is not finite; earlier checkpoints are intact.
        InterruptedRun: SIGINT or SIGTERM, after the step and a checkpoint.
        WeightsError: a checkpoint cannot be written or none verifies.
    """
    config = spec.loop
    ranks = RankGroup.from_process_group(device)
    _validate(objective, config, spec.shard, ranks, spec.ready)
    objective.to(device).train()
    if spec.recompute:
        checkpoint_activations(find_blocks(objective))
    state, parallel = _parallelize(objective, optimizer, config, ranks, spec.shard)
    settings = _result_settings(config) | {"seed": spec.seed, **spec.identity}
    settings["batches_per_epoch"] = batches.per_epoch
    files = RunStore(spec.folder, settings, config.keep, ranks)
    step = TrainStep(
        forward=parallel.forward,
        parameters=state.parameters,
        optimizer=optimizer,
        device=device,
        seed=spec.seed,
        accumulate=config.accumulate,
        bf16=config.precision == "bf16",
        clip_norm=spec.clip_norm,
        ranks=ranks,
        no_sync=parallel.no_sync,
        term_weights=getattr(objective, "term_weights", None),
    )
    stream = BatchStream(batches.epoch, batches.per_epoch, ranks)
    callbacks = Callbacks(spec.lr, evaluate, on_best)
    display = progress or Progress(
        config.steps, None if ranks.is_rank_zero else io.StringIO()
    )
    with display, StopSignals() as stop, closing(stream), closing(files):
        position, notes = files.open(state, config.compile, spec.resume)
        if spec.resume:
            display.note(_describe_start(position.step, config.steps, files))
        trainer = Trainer(
            config,
            state,
            files,
            step,
            stream,
            callbacks,
            display,
            stop,
            ranks,
            spec.lower_is_better,
        )
        return trainer.run(position, notes)


def _describe_start(step: int, steps: int, files: RunStore) -> str:
    if step:
        return f"resumes at update {step:,} of {steps:,} from {files.store.path(step)}"
    return f"no checkpoint in {files.store.folder}: starts at update 0 of {steps:,}"


def _validate(
    objective: nn.Module,
    config: LoopConfig,
    shard: ShardMode,
    ranks: RankGroup,
    ready: bool,
) -> None:
    if config.steps < 1 and not ready:
        raise ConfigError(
            "`steps` is 0: derive it from the epochs with `steps_for` first."
        )
    if config.accumulate > 1 and not getattr(objective, "accumulates", True):
        raise ConfigError(
            f"`accumulate` is {config.accumulate}, and the loss of "
            f"{type(objective).__name__} compares the examples of a batch with each "
            "other, so that it cannot be cut into parts: leave it at 1, and lower the "
            "batch size where memory is short."
        )
    if shard == "fsdp" and ranks.world == 1:
        raise ConfigError(
            "`shard` divides a model among several ranks, and this is the only one: "
            "start it with torchrun, or leave it out."
        )


def _result_settings(config: LoopConfig) -> dict[str, Any]:
    """Return the settings that decide a number; the others may change on resume."""
    free = ("keep", "compile", "checkpoint_every")
    return {name: v for name, v in asdict(config).items() if name not in free}


def _parallelize(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: LoopConfig,
    ranks: RankGroup,
    shard: ShardMode,
) -> tuple[TrainState, ParallelForward]:
    """Return what is trained, and the forward pass that trains it on all ranks."""
    ema = 0.0 if shard == "fsdp" else config.ema
    if ranks.world == 1:
        state = TrainState.create(objective, optimizer, ema, config.ema_warmup)
        forward = torch.compile(objective) if config.compile else objective
        return state, ParallelForward(forward)
    # Importing them costs half a second that one process does not need.
    from vitral.training.parallel import (
        ShardedTrainState,
        plain_copy,
        shard_objective,
        wrap_ddp,
    )

    if shard == "none":
        state = TrainState.create(objective, optimizer, ema, config.ema_warmup)
        return state, wrap_ddp(objective, ranks, config.compile)
    # Raises for an unusable optimizer before anything is sharded.
    TrainState.create(objective, optimizer, 0.0, False)
    plain = plain_copy(objective)
    parallel = shard_objective(objective, optimizer, ranks, config.compile)
    state = TrainState.create(objective, optimizer, 0.0, False)
    sharded = ShardedTrainState.from_train_state(
        state, plain, config.ema, config.ema_warmup
    )
    return sharded, parallel
