"""Read `--task` and `--target`: what is learned from a data set."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitral.errors import ConfigError

if TYPE_CHECKING:
    from vitral.tasks import ObjectiveConfig


def read_objective(task: str, target: Sequence[str]) -> "ObjectiveConfig | None":
    """Return the settings that two flags ask for; None where neither is given.

    Args:
        task: value of `--task`.
        target: values of `--target`, columns of numbers.

    Raises:
        ConfigError: there is no such task, or it learns no numbers.
    """
    from vitral.tasks import get_task, tasks

    if not task and not target:
        return None
    candidates = [get_task(task)] if task else list(tasks().values())
    if not target:
        return candidates[0].objectives[0]()
    for candidate in candidates:
        settings = candidate.objectives[0]
        if "target" in {field.name for field in dataclasses.fields(settings)}:
            return settings(target=tuple(target))  # type: ignore[call-arg]
    raise ConfigError(
        f"`--target {' '.join(target)}` names columns of numbers, which the task "
        f"{task} does not learn: leave one of the two out."
    )
