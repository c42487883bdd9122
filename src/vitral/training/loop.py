"""Training loop: update, log, evaluate, save, stop.

Everything at a step is a function of the seed, the step and the position in the data,
so a run that was killed and resumed ends bit-equal to an unbroken one on the same
machine and thread count.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import nn

from vitral.errors import ConfigError, DivergedError, InterruptedRun
from vitral.training.batch_stream import BatchStream
from vitral.training.checkpointing import RunStore, TrainState, require_finite
from vitral.training.distributed import (
    RankGroup,
    broadcast_from_rank_zero,
    local_ids,
)
from vitral.training.log import NO_MONITOR
from vitral.training.optim import set_lr
from vitral.training.progress import Progress
from vitral.training.signals import StopSignals
from vitral.training.state import LoopState
from vitral.training.step import TrainStep
from vitral.validation import at_least, fraction, one_of


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length of a training, and what happens between the updates."""

    steps: int = 0
    """Updates of the whole run; 0 to derive them from epochs before the loop starts."""

    accumulate: int = 1
    """Parts that a batch is cut into to save memory; the gradient is that of the whole
    batch. 1 turns it off."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16` runs the forward pass in bfloat16 where torch's autocast allows it; the
    weights stay float32."""

    ema: float = 0.0
    """Factor of the running average of the weights, which is then what is evaluated
    and kept as the best model; 0.9999 in the paper; 0 turns it off."""

    ema_warmup: bool = False
    """True lets the factor rise as (1 + step)/(10 + step) up to `ema`."""

    log_every: int = 10
    """Steps between two lines of metrics, which hold the means since the last line."""

    eval_every: int = 0
    """Steps between two evaluations; 0 for one at the end only."""

    checkpoint_every: int = 0
    """Steps between two checkpoints; 0 for one at the end and on a signal only."""

    keep: int = 2
    """Newest checkpoints that stay, beside the best one's."""

    compile: bool = False
    """True compiles the model with torch.compile."""

    patience: int = 0
    """Evaluations without a better one after which the run stops; 0 turns it off."""

    monitor: str = "accuracy"
    """The evaluation's metric that decides which step is the best: the largest one, or
    the smallest where less is better, as of any metric with `loss` in its name. `none`
    keeps the last step, so that no step is a draw from a small val."""

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "keep"):
            at_least(1, **{name: getattr(self, name)})
        for name in ("steps", "eval_every", "checkpoint_every", "patience"):
            at_least(0, **{name: getattr(self, name)})
        fraction(ema=self.ema)
        one_of(("fp32", "bf16"), precision=self.precision)
        if self.patience and self.monitor == NO_MONITOR:
            raise ConfigError(
                "`patience` stops where no step is better, and `monitor=none` takes "
                "the last step: set `patience=0`, or choose a monitor."
            )

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        unread = {}
        if not self.ema:
            unread["ema_warmup"] = "`ema=0.9999`"
        if not self.eval_every:
            unread["patience"] = "`eval_every=100`, evaluations before the last step,"
        return unread


class FitResult(NamedTuple):
    """Result of a training."""

    step: int
    best_step: int | None
    """None without evaluation."""
    best_metric: float | None
    stopped_early: bool
    model: nn.Module
    """In eval mode, after the last step: the averaged weights when `ema` is on."""
    notes: tuple[str, ...]
    """Events such as a checkpoint that was skipped because it was damaged."""
    objective: nn.Module
    """As the last step left it, whole on every rank."""


class Callbacks(NamedTuple):
    """Functions of the caller that the loop calls."""

    lr: Callable[[int], float]
    evaluate: Callable[[nn.Module], dict[str, float]] | None
    on_best: Callable[[nn.Module, int], None] | None


@dataclass
class Trainer:
    config: LoopConfig
    train_state: TrainState
    files: RunStore
    updater: TrainStep
    batch_stream: BatchStream
    callbacks: Callbacks
    progress: Progress
    signals: StopSignals
    ranks: RankGroup = field(default_factory=RankGroup)
    lower_is_better: frozenset[str] = frozenset()

    def run(self, state: LoopState, notes: tuple[str, ...]) -> FitResult:
        """Train from `state` to the end; reads top to bottom."""
        self.state = state
        self.saved = state.step
        self.stop: signal.Signals | None = None
        self.timer = _Timer()
        self.notes: list[str] = []
        self.log_note(notes)
        self.progress.start(state.step)
        self.train_state.objective.train()
        while True:
            self.evaluate_if_due()
            self.sync_stop_signal()
            self.save_if_due()
            if self.stop is not None:
                raise self.interruption_error()
            if self.is_done():
                break
            self.train_step()
        model = self.train_state.eval_model().eval()
        if self.callbacks.evaluate is None:
            self.notify_best(model)
        return FitResult(
            state.step,
            state.best_step,
            state.best_metric,
            state.stopped_early,
            model,
            tuple(self.notes),
            self.train_state.full_objective(),
        )

    def is_done(self) -> bool:
        return self.state.step >= self.config.steps or self.state.stopped_early

    def sync_stop_signal(self) -> None:
        """All ranks stop at the same step, whichever of them got the signal."""
        number = self.ranks.all_reduce_max(int(self.signals.received or 0))
        self.stop = signal.Signals(number) if number else None

    def train_step(self) -> None:
        state = self.state
        started = time.perf_counter()
        batch = self.batch_stream.next(state)
        waited = time.perf_counter() - started
        rate = self.callbacks.lr(state.step)
        set_lr(self.train_state.optimizer, rate)
        update = self.updater.update(batch, state.step)
        self.train_state.update_average()
        state.step += 1
        state.record_ids(local_ids(batch))
        state.add_metrics({**update.metrics, "grad_norm": update.grad_norm})
        self.timer.add(update.images, time.perf_counter() - started, waited)
        self.progress.update(state.step, {**update.metrics, "lr": rate})
        if state.step % self.config.log_every == 0 or state.step == self.config.steps:
            values = {**state.pop_window_means(), "lr": rate, **self.timer.rates()}
            epoch = round(
                state.epoch + state.batch / self.batch_stream.batches_per_epoch, 6
            )
            record = {"event": "train", "step": state.step, "epoch": epoch, **values}
            self.files.log.append(record)
            self.progress.log_step(state.step, values)
            self.timer = _Timer()

    def evaluate_if_due(self) -> None:
        """Evaluate where the step asks for it, and decide on best and early stop."""
        state, config, evaluate = self.state, self.config, self.callbacks.evaluate
        last = state.step == config.steps
        every = config.eval_every and state.step % config.eval_every == 0
        # A run without updates is measured once, at step 0.
        known = state.evaluated >= state.step and (state.step or config.steps)
        if evaluate is None or known or not (last or every):
            return
        model = self.train_state.eval_model()
        self.train_state.objective.eval()
        model.eval()
        self.updater.seed_torch(state.step, -1)
        with torch.no_grad():
            try:
                if self.ranks.world == 1:
                    metrics = self.signals.run_abortable(lambda: evaluate(model))
                else:  # one that left would leave the others waiting
                    result = evaluate(model)
                    metrics = broadcast_from_rank_zero(lambda: result)
            except DivergedError as error:
                raise DivergedError(
                    f"The evaluation at step {state.step} found: {error}"
                ) from error
        if metrics is None:
            return  # the resumed run evaluates this step
        values = {name: float(value) for name, value in metrics.items()}
        self.files.log.append(
            {"event": "eval", "step": state.step, "split": "val", **values}
        )
        self.update_best(values, model)
        state.evaluated = state.step
        self.train_state.objective.train()

    def update_best(self, values: dict[str, float], model: nn.Module) -> None:
        state, config = self.state, self.config
        shown = "  ".join(f"{name} {number:.4g}" for name, number in values.items())
        if config.monitor == NO_MONITOR:
            state.best_step = state.step
            self.notify_best(model)
            self.progress.note(f"evaluation at step {state.step}: {shown}")
            return
        if config.monitor not in values:
            raise ConfigError(
                f"`monitor` is {config.monitor!r}, which the evaluation does not "
                f"give: choose one of {', '.join(sorted(values))}."
            )
        value = values[config.monitor]
        lower = "loss" in config.monitor or config.monitor in self.lower_is_better
        sign = -1 if lower else 1
        gain = 1.0 if state.best_metric is None else sign * (value - state.best_metric)
        if gain >= 0:
            # Of equal ones the later step is kept: a small validation set has many.
            state.best_step, state.best_metric = state.step, value
            self.notify_best(model)
        state.waiting = 0 if gain > 0 else state.waiting + 1
        state.stopped_early = 0 < config.patience <= state.waiting
        assert state.best_metric is not None
        assert state.best_step is not None
        self.progress.set_best(config.monitor, state.best_metric, state.best_step)
        self.progress.note(f"evaluation at step {state.step}: {shown}")
        if state.stopped_early and state.step < config.steps:
            note = (
                f"stopped early at update {state.step:,} of {config.steps:,}: "
                f"patience {config.patience} ran out, the best {config.monitor} is "
                f"that of update {state.best_step:,}"
            )
            self.log_note((note,))

    def notify_best(self, model: nn.Module) -> None:
        """Hand the model out, once for all ranks."""
        on_best, step = self.callbacks.on_best, self.state.step
        if on_best is not None:
            # Infinite weights can still be accurate; the caller will save them.
            require_finite(step, {"model": model.state_dict()})
            broadcast_from_rank_zero(lambda: on_best(model, step))

    def save_if_due(self) -> None:
        """Save at the asked steps, at the end, and when a signal came."""
        state, every = self.state, self.config.checkpoint_every
        due = self.is_done() or self.stop is not None
        due = due or (every > 0 and state.step % every == 0)
        if due and state.step != self.saved:
            self.log_note(self.files.save(self.train_state, state, self.config.compile))
            self.saved = state.step

    def interruption_error(self) -> InterruptedRun:
        received, step = self.stop, self.state.step
        assert received is not None
        where = (
            f"step {step} of {self.config.steps} is saved in "
            f"{self.files.store.path(step)}"
            if step
            else "no step was made, so there is no checkpoint"
        )
        return InterruptedRun(
            f"Stopped by {received.name}: {where}. Run the same command with --resume "
            "to go on.",
            128 + int(received),
        )

    def log_note(self, texts: tuple[str, ...]) -> None:
        """Log events in the run, on the screen and in the result."""
        for text in texts:
            self.notes.append(text)
            self.progress.note(text)
            self.files.log.append(
                {"event": "note", "step": self.state.step, "text": text}
            )


class _Timer:
    def __init__(self) -> None:
        self.images = 0
        self.seconds = self.waited = 0.0

    def add(self, images: int, seconds: float, waited: float) -> None:
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def rates(self) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        return {
            "images_per_second": round(self.images / seconds, 2),
            "data_wait": round(min(self.waited / seconds, 1.0), 4),
        }
