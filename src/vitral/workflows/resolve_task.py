"""Decide which task a run learns: as asked, else as the data says."""

from dataclasses import replace
from pathlib import Path

from vitral.data import describe_source
from vitral.errors import ConfigError
from vitral.tasks import ObjectiveConfig, choose_task, get_task
from vitral.training import fast_precision
from vitral.workflows.config import TrainConfig, read_config


def resolve_task(config: TrainConfig) -> TrainConfig:
    """Return the settings with a task, and with an objective of that task.

    An objective of another task than the default one decides by itself. The default
    one gives way to `config.task`, or to the task that the data fits.

    Raises:
        ConfigError: there is no such task.
    """
    name = get_task(config.task).name if config.task else _find_name(config)
    objective = config.objective
    if name != objective.TASK:
        objective = get_task(name).objectives[0]()
    return with_objective(config, objective)


def with_objective(config: TrainConfig, objective: ObjectiveConfig) -> TrainConfig:
    """Return the settings for an objective, whose metrics may have other names."""
    loop = config.loop
    # A recipe may leave the loop's own default beside the objective that data fits.
    if loop.monitor in (config.objective.MONITOR, ObjectiveConfig.MONITOR):
        loop = replace(loop, monitor=objective.MONITOR)
    return replace(config, objective=objective, loop=loop, task=objective.TASK)


def resume_settings(config: TrainConfig, out: Path) -> TrainConfig:
    """Return the settings for resuming the run in `out`, where a default has changed.

    A precision that this machine chose gives way to that of the machine before. They
    are unchanged without a run there, or with one that cannot be read.
    """
    try:
        stored = read_config(out / "config.json")
    except ConfigError:
        return config
    loop = config.loop
    if loop.precision == fast_precision():
        loop = replace(loop, precision=stored.loop.precision)
    objective = config.objective.resume_from(stored.objective)
    return replace(config, objective=objective, loop=loop)


def fitting_objective(data: str) -> ObjectiveConfig:
    """Return the settings of the task that the data fits, else the default ones."""
    choice = choose_task(describe_source(data))
    name = ObjectiveConfig.TASK if choice is None else choice.task.name
    return get_task(name).objectives[0]()


def _find_name(config: TrainConfig) -> str:
    if config.objective.TASK != ObjectiveConfig.TASK:
        return config.objective.TASK
    choice = choose_task(describe_source(config.data))
    return config.objective.TASK if choice is None else choice.task.name
