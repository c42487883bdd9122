"""Engine of the studies: trials, scheduler, tables, pages."""

from vitral.studies.engine.base import (
    STUDY_DIR,
    Size,
    Student,
    Study,
    Trial,
    ordered_trials,
)
from vitral.studies.engine.crossover import describe_leaders
from vitral.studies.engine.image_table import write_image_table
from vitral.studies.engine.page import detail_lines, markdown_row, table_lines
from vitral.studies.engine.run_study import (
    describe_machine,
    describe_plan,
    run_study,
    write_recipes,
)
from vitral.studies.engine.scheduler import (
    TrialScheduler,
    build_table,
    total_cpu_seconds,
)
from vitral.studies.engine.settings import (
    PRETRAIN_HEAD,
    TINY,
    ModelVariant,
    cifar10_scratch_config,
    digits_config,
    finetune_config,
    imagenet_config,
    mnist_config,
    with_lr,
)
from vitral.studies.engine.subsets import nested_order, subset_sizes
from vitral.studies.engine.table import CellStats, Difference, ResultTable

__all__ = [
    "PRETRAIN_HEAD",
    "STUDY_DIR",
    "TINY",
    "CellStats",
    "Difference",
    "ModelVariant",
    "ResultTable",
    "Size",
    "Student",
    "Study",
    "Trial",
    "TrialScheduler",
    "build_table",
    "cifar10_scratch_config",
    "describe_leaders",
    "describe_machine",
    "describe_plan",
    "detail_lines",
    "digits_config",
    "finetune_config",
    "imagenet_config",
    "markdown_row",
    "mnist_config",
    "nested_order",
    "ordered_trials",
    "run_study",
    "subset_sizes",
    "table_lines",
    "total_cpu_seconds",
    "with_lr",
    "write_image_table",
    "write_recipes",
]
