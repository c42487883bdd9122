"""Files of a training run, and how a run resumes from them.

Settings that decide its numbers must be the same. A changed machine (threads, torch,
compile) is allowed and noted: the numbers then differ in the last digits only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vitral.errors import ConfigError, WeightsError
from vitral.training.checkpointing.checkpoint import (
    Checkpoint,
    CheckpointStore,
    LatestCheckpoint,
)
from vitral.training.checkpointing.optimizer_state import (
    optimizer_tensors,
    restore_optimizer,
)
from vitral.training.distributed import (
    RankGroup,
    SilentLog,
    broadcast_from_rank_zero,
)
from vitral.training.ema import create_ema
from vitral.training.log import MetricsLog
from vitral.training.state import LoopState

MODEL_PREFIX = "model."


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The modules and the optimizer that a run changes."""

    objective: nn.Module
    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    parameters: dict[str, nn.Parameter]
    """Those that are trained, by their name in the objective."""

    @property
    def is_sharded(self) -> bool:
        """Return whether each rank holds a part of every parameter."""
        return False

    @classmethod
    def create(
        cls,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: float,
        ema_warmup: bool,
    ) -> "TrainState":
        """Gather them; `ema` 0 means no average."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        free = {n: p for n, p in objective.named_parameters() if p.requires_grad}
        lost = [name for name, parameter in free.items() if id(parameter) not in owned]
        if lost:
            raise ConfigError(
                f"{len(lost)} trainable parameters are not in the optimizer, the first "
                f"is {lost[0]}: freeze them or give them to the optimizer."
            )
        model = objective.model
        assert isinstance(model, nn.Module)
        return cls(
            objective=objective,
            model=model,
            average=create_ema(model, ema, ema_warmup) if ema else None,
            optimizer=optimizer,
            parameters=free,
        )

    def eval_model(self) -> nn.Module:
        """Return the model to evaluate and keep, averaged if there is an average."""
        return self.model if self.average is None else self.average.module

    def full_objective(self) -> nn.Module:
        return self.objective

    def update_average(self) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def sharding_templates(self, group: str) -> Mapping[str, Tensor]:
        """Return, by name in a group of `tensors`, what a tensor is divided as."""
        return {}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors in groups, a file each, without empty groups."""
        whole = self.objective.state_dict()
        groups = {
            "model": dict(self.model.state_dict()),
            "objective": {
                name: tensor
                for name, tensor in whole.items()
                if not name.startswith(MODEL_PREFIX)
            },
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
        }
        if self.average is not None:
            groups["ema"] = dict(self.average.module.state_dict())
        return {name: group for name, group in groups.items() if group}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore `tensors`."""
        groups = checkpoint.tensors
        whole = dict(groups.get("objective", {}))
        whole |= {MODEL_PREFIX + name: t for name, t in groups["model"].items()}
        try:
            self.objective.load_state_dict(whole)
            if self.average is not None:
                self.average.module.load_state_dict(groups.get("ema", {}))
                self.average.n_averaged.fill_(1 + checkpoint.step)
        except RuntimeError as error:
            raise WeightsError(
                f"The checkpoint of step {checkpoint.step} belongs to another model: "
                f"{error} Resume with the config of the run."
            ) from error
        restore_optimizer(self.optimizer, self.parameters, groups.get("optimizer", {}))


class RunStore:
    """Checkpoints and metrics.jsonl of one run folder."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        keep: int,
        ranks: RankGroup | None = None,
    ) -> None:
        self.folder = folder
        self.ranks = ranks or RankGroup()
        self.store = CheckpointStore(folder / "checkpoints")
        # Compared with what JSON gives back: a tuple must be a list.
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        self.keep = keep
        self._log: MetricsLog | None = None

    @property
    def log(self) -> MetricsLog:
        assert self._log is not None
        return self._log

    def open(
        self, train_state: TrainState, compiled: bool, resume: bool
    ) -> tuple[LoopState, tuple[str, ...]]:
        """Start, or resume from the newest sound checkpoint: position and notes."""
        latest = broadcast_from_rank_zero(lambda: self._prepare_latest(resume))
        checkpoint = None
        if latest.step is not None:
            checkpoint = self._read(latest.step, train_state)
            self._refuse_other_run(checkpoint.state["settings"])
            train_state.restore(checkpoint)
        first = self.ranks.is_rank_zero
        self._log = MetricsLog(self.folder / "metrics.jsonl") if first else SilentLog()
        if checkpoint is None:
            self._log.truncate(0)
            return LoopState(), ()
        notes = [
            *latest.skipped,
            *self._describe_changes(checkpoint.state, train_state, compiled),
        ]
        if not self._log.truncate(checkpoint.state["metrics_bytes"]):
            notes.append("metrics.jsonl has lost its last lines.")
        return LoopState.from_dict(checkpoint.state["loop"]), tuple(notes)

    def _prepare_latest(self, resume: bool) -> LatestCheckpoint:
        self.store.prepare()
        if not resume and self.store.steps():
            raise ConfigError(
                f"{self.folder} already holds a run: add --resume to go on with it, "
                "or choose another output folder."
            )
        latest = self.store.latest()
        if latest.step is None and latest.skipped:
            raise WeightsError(
                f"No checkpoint in {self.store.folder} can be used. "
                f"{' '.join(latest.skipped)} Remove that folder to start again."
            )
        return latest

    def _read(self, step: int, train_state: TrainState) -> Checkpoint:
        folder = self.store.path(step)
        if not (folder / "shards").is_dir():
            return self.store.load(step)
        from vitral.training.checkpointing import sharded

        state = json.loads((folder / "state.json").read_bytes())
        tensors = sharded.load(
            folder, train_state.sharding_templates if train_state.is_sharded else None
        )
        return Checkpoint(step=step, tensors=tensors, state=state)

    def save(
        self, train_state: TrainState, state: LoopState, compiled: bool
    ) -> tuple[str, ...]:
        """Write a checkpoint, then delete old ones; return notes on what stays."""
        self.log.sync()
        values = {
            "loop": state.to_dict(),
            "metrics_bytes": self.log.length,
            "settings": self.settings,
            "machine": _describe_machine(train_state, compiled, self.ranks),
        }
        if train_state.is_sharded:
            from vitral.training.checkpointing import sharded

            sharded.save(self.store, state.step, train_state.tensors(), values)
        else:
            broadcast_from_rank_zero(
                lambda: self.store.save(state.step, train_state.tensors(), values)
            )
        return broadcast_from_rank_zero(
            lambda: self.store.prune(self.keep, state.best_step)
        )

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _refuse_other_run(self, recorded: dict[str, Any]) -> None:
        for name in sorted(recorded.keys() | self.settings.keys()):
            then, now = recorded.get(name), self.settings.get(name)
            if then != now or (name in recorded) != (name in self.settings):
                raise ConfigError(
                    f"The run in {self.folder} has `{name}` {then!r} and this command "
                    f"{now!r}: resume with the same setting, or train into another "
                    "folder."
                )

    def _describe_changes(
        self, state: dict[str, Any], train_state: TrainState, compiled: bool
    ) -> list[str]:
        before = state["machine"]
        now = _describe_machine(train_state, compiled, self.ranks)
        notes = [
            f"Resumed with {name} {now[name]} instead of {then}: the last digits will "
            "differ from an unbroken run."
            for name, then in before.items()
            if now[name] != then and name != "ranks"
        ]
        then = before.get("ranks", 1)
        if then != self.ranks.world:
            notes.append(
                f"Resumed with {self.ranks.world} ranks instead of {then}: batches "
                "stay the same, but they are cut into other parts, so what is drawn "
                "for a part (dropout, hidden patches) is drawn anew."
            )
        return notes


def _describe_machine(
    train_state: TrainState, compiled: bool, ranks: RankGroup
) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compile": compiled,
        "ranks": ranks.world,
        "shard": "fsdp" if train_state.is_sharded else "none",
    }
