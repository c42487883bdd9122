"""Plan of a training run: data, model and number of steps, before anything is built."""

import hashlib
import json
from dataclasses import dataclass

from vitral import config_io
from vitral.data import Audit
from vitral.models import ModelConfig
from vitral.training import lr_at, steps_for
from vitral.training.distributed import broadcast_from_rank_zero
from vitral.weights import WeightsSource, read
from vitral.workflows.config import VOLATILE, TrainConfig
from vitral.workflows.dataset import audit_dataset, open_data, run_input_kind
from vitral.workflows.session import Session
from vitral.workflows.train.build import resolve_model_config
from vitral.workflows.train.build_objective import validate_objective


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The facts of a run that is about to start."""

    config: TrainConfig
    audit: Audit
    """The data set with its splits, and the files that cannot be decoded."""
    source: WeightsSource | None
    """Content of `config.weights`; None for fresh weights."""
    model: ModelConfig
    steps: int
    """Updates of the whole run."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the head; empty for an objective without labels."""
        return self.audit.dataset.classes if self.config.objective.LABELS else ()

    def lr(self, step: int) -> float:
        """Return the learning rate of an update; updates are counted from 0."""
        config = self.config
        return lr_at(step, self.steps, config.optim.lr, config.schedule)


def make_plan(config: TrainConfig, session: Session) -> TrainPlan:
    """Open and audit the data, and decide on model and steps.

    Rank 0 audits; the split goes to split.csv, so that a resumed run keeps it.

    Raises:
        ConfigError: settings, data and weights do not fit each other.
        DataError: the data cannot be used.
        WeightsError: the weights cannot be read.
    """
    dataset = open_data(config, run_input_kind(config))
    validate_objective(config, dataset)
    source = read(config.weights) if config.weights else None
    num_classes = len(dataset.classes) if config.objective.LABELS else 0
    model = resolve_model_config(config, num_classes, source)
    split_file, workers = session.out / "split.csv", session.runtime.workers
    audit = broadcast_from_rank_zero(
        lambda: audit_dataset(dataset, split_file, config, workers)
    )
    steps = config.loop.steps or steps_for(
        len(audit.dataset.select("train")), config.epochs, config.batch_size
    )
    plan = TrainPlan(
        config=config, audit=audit, source=source, model=model, steps=steps
    )
    plan.lr(0)  # a schedule that does not fit the steps ends the run here
    return plan


def config_hash(config: TrainConfig) -> str:
    """Return a hash of every setting that changes a number of the run."""
    # Once through JSON's types, or `epochs=8` and `epochs=8.0` would be two runs.
    plain = config_io.from_dict(TrainConfig, config_io.to_dict(config), "The config")
    values = config_io.to_dict(plain)
    for name in VOLATILE:
        values.pop(name)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
