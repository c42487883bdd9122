"""Find tasks: the folders of this package, and entry points of other packages.

A package offers a task by an entry point of the group `vitral.tasks` that names an
instance of `Task`. Packages in the working folder are not looked at: what lies there
must not run.
"""

import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from vitral.data import SourceFacts
from vitral.errors import ConfigError
from vitral.tasks.base import Task
from vitral.tasks.objective import ObjectiveConfig
from vitral.tasks.result import Result
from vitral.validation import nearest_names

GROUP = "vitral.tasks"
"""Group of the entry points."""


class TaskChoice(NamedTuple):
    """A task that fits a source, why, and the others that would have fitted."""

    task: Task
    reason: str
    others: tuple[str, ...]


@functools.cache
def tasks() -> dict[str, Task]:
    """Return every task by its name, by rank.

    Raises:
        ConfigError: a package's task cannot be imported, or two have one name.
    """
    by_name: dict[str, Task] = {}
    for task in sorted((*_own_tasks(), *_packaged_tasks()), key=lambda t: t.priority):
        if task.name in by_name:
            raise ConfigError(
                f"Two tasks are called {task.name}: {type(by_name[task.name])} and "
                f"{type(task)}. Uninstall the package of one."
            )
        by_name[task.name] = task
    return by_name


def get_task(name: str) -> Task:
    """Return the task of that name or alias.

    Raises:
        ConfigError: there is none.
    """
    for task in tasks().values():
        if name in (task.name, *task.aliases):
            return task
    nearest = " and ".join(nearest_names(name, tasks(), cutoff=0.0))
    raise ConfigError(
        f"There is no task `{name[:60]}`: the nearest are {nearest}. All are "
        f"{', '.join(tasks())}."
    )


def objectives() -> dict[str, type[ObjectiveConfig]]:
    """Return the settings class of each objective by its name."""
    return {
        objective.NAME: objective
        for task in tasks().values()
        for objective in task.objectives
    }


def get_objective(name: str, **settings: Any) -> ObjectiveConfig:
    """Return the settings of an objective by its name.

    Args:
        settings: fields that differ from the defaults.

    Raises:
        ConfigError: there is no such objective.
    """
    known = objectives()
    if name not in known:
        raise ConfigError(
            f"There is no objective `{name}`: all are {', '.join(sorted(known))}."
        )
    return known[name](**settings)


def find_task(extra: Mapping[str, Any], num_outputs: int) -> Task:
    """Return the task of a stored model; what names none is a classifier.

    Args:
        extra: plain data of the model's config.json.
        num_outputs: width of its head; 0 without one.

    Raises:
        ConfigError: the model names a task that is not installed.
    """
    if "task" in extra:
        return get_task(str(extra["task"]))
    claimed = (task for task in tasks().values() if task.claims(extra, num_outputs))
    return next(claimed, None) or get_task(ObjectiveConfig.TASK)


def describe_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what other libraries' files say about a stored model's task.

    Args:
        extra: plain data of the model's config.json. A foreign model has no task there,
            and nothing is added.
    """
    if not ({"task"} | _extra_keys()) & set(extra):
        return {}
    task = find_task(extra, 1)
    word = task.problem_type(task.load_labels((), extra))
    return {"problem_type": word} if word else {}


def _extra_keys() -> set[str]:
    return {key for task in tasks().values() for key in task.label_keys}


def choose_task(source: SourceFacts) -> TaskChoice | None:
    """Return the first task that fits a source; None if none does."""
    reasons = {task.name: task.fits(source) for task in tasks().values()}
    fitting = [name for name, reason in reasons.items() if reason]
    if not fitting:
        return None
    first, *others = fitting
    return TaskChoice(tasks()[first], reasons[first], tuple(others))


def read_result(value: Mapping[str, Any]) -> Result:
    """Return a stored result of any task.

    Raises:
        ConfigError: it is of no task, or a field is missing or has another type.
    """
    for task in tasks().values():
        result = task.result_of(value)
        if result is not None:
            return result.from_dict(dict(value))
    if value.get("kind"):
        raise ConfigError(
            f"the result is of the kind `{str(value['kind'])[:60]}`, which no task "
            "here has: install the package of its task, or measure again with "
            "`vitral eval`."
        )
    return get_task(ObjectiveConfig.TASK).results[0].from_dict(dict(value))


def _own_tasks() -> Iterator[Task]:
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__):
        if module.ispkg:
            yield importlib.import_module(f"{__package__}.{module.name}").TASK


def _packaged_tasks() -> Iterator[Task]:
    here = Path.cwd()
    # `python -m` puts the working folder first.
    path = [name for name in sys.path if name and not _is_same(name, here)]
    for distribution in metadata.distributions(path=path):
        for point in distribution.entry_points.select(group=GROUP):
            yield _load_entry_point(point, distribution.name)


def _is_same(name: str, folder: Path) -> bool:
    try:
        return os.path.samefile(name, folder)
    except OSError:
        return False


def _load_entry_point(point: metadata.EntryPoint, package: str) -> Task:
    try:
        task = point.load()
    except Exception as error:
        raise ConfigError(
            f"The task {point.name} of the package {package} cannot be imported "
            f"({type(error).__name__}: {error}). Mend the package, or uninstall it."
        ) from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"The entry point {point.name} of the package {package} is no instance of "
            f"vitral.tasks.Task: got {type(task).__name__}."
        )
    return task
