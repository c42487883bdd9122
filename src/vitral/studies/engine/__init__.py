"""The engine of the studies: trials, scheduler, tables, pages."""

from vitral.studies.engine.base import HERE, Size, Student, Study, Trial, trials_of
from vitral.studies.engine.crossover import leads
from vitral.studies.engine.image_table import write_table
from vitral.studies.engine.page import detail_lines, table_lines
from vitral.studies.engine.run_study import machine, plan, run_study, write_recipes
from vitral.studies.engine.scheduler import Lab, cpu_seconds_of, tabulate
from vitral.studies.engine.settings import (
    HEADED,
    TINY,
    cifar10_from_zero,
    digits_after,
    finetuned,
    imagenet,
    mnist,
    with_lr,
)
from vitral.studies.engine.subsets import nested_order, subset_sizes
from vitral.studies.engine.table import Gap, Table, Value

__all__ = [
    "HEADED",
    "HERE",
    "TINY",
    "Gap",
    "Lab",
    "Size",
    "Student",
    "Study",
    "Table",
    "Trial",
    "Value",
    "cifar10_from_zero",
    "cpu_seconds_of",
    "detail_lines",
    "digits_after",
    "finetuned",
    "imagenet",
    "leads",
    "machine",
    "mnist",
    "nested_order",
    "plan",
    "run_study",
    "subset_sizes",
    "table_lines",
    "tabulate",
    "trials_of",
    "with_lr",
    "write_recipes",
    "write_table",
]
