"""Tasks: everything that a model can be asked, one folder each."""

from vitral.tasks.answer import Answer
from vitral.tasks.base import (
    AnswerContext,
    ObjectiveContext,
    Task,
    TrainingUse,
)
from vitral.tasks.discovery import (
    TaskChoice,
    choose_task,
    describe_extra,
    find_task,
    get_objective,
    get_task,
    objectives,
    read_result,
    tasks,
)
from vitral.tasks.labels import Labels
from vitral.tasks.mean import MeanMetric, MeanResult
from vitral.tasks.monitor import Monitor, MonitorContext
from vitral.tasks.objective import BatchLike, ObjectiveConfig
from vitral.tasks.presentation import Display, Fact, Field, Presentation
from vitral.tasks.result import Headline, Metric, Result, SecondResult

__all__ = [
    "Answer",
    "AnswerContext",
    "BatchLike",
    "Display",
    "Fact",
    "Field",
    "Headline",
    "Labels",
    "MeanMetric",
    "MeanResult",
    "Metric",
    "Monitor",
    "MonitorContext",
    "ObjectiveConfig",
    "ObjectiveContext",
    "Presentation",
    "Result",
    "SecondResult",
    "Task",
    "TaskChoice",
    "TrainingUse",
    "choose_task",
    "describe_extra",
    "find_task",
    "get_objective",
    "get_task",
    "objectives",
    "read_result",
    "tasks",
]
