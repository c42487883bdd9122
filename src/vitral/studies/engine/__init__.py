"""Engine of the studies: trials, scheduler, tables, pages."""

from vitral.studies.engine.base import (
    STUDY_DIR,
    Size,
    Student,
    Study,
    Trial,
    ordered_trials,
)
from vitral.studies.engine.page import (
    command_lines,
    detail_lines,
    markdown_table,
    table_lines,
    write_files,
)
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
    TINY_RESNET,
    ModelVariant,
    cifar10_scratch_config,
    digits_config,
    finetune_config,
    imagenet_config,
    mnist_config,
    small_config,
    with_lr,
)
from vitral.studies.engine.subsets import (
    nested_order,
    subset_sizes,
    write_image_table,
)
from vitral.studies.engine.table import (
    CellStats,
    Difference,
    ResultTable,
    describe_leaders,
)
from vitral.studies.engine.trials import (
    FROM_SCRATCH,
    describe_pretraining_gains,
    grid_trials,
    transfer_trials,
)

__all__ = [
    "FROM_SCRATCH",
    "PRETRAIN_HEAD",
    "STUDY_DIR",
    "TINY",
    "TINY_RESNET",
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
    "command_lines",
    "describe_leaders",
    "describe_machine",
    "describe_plan",
    "describe_pretraining_gains",
    "detail_lines",
    "digits_config",
    "finetune_config",
    "grid_trials",
    "imagenet_config",
    "markdown_table",
    "mnist_config",
    "nested_order",
    "ordered_trials",
    "run_study",
    "small_config",
    "subset_sizes",
    "table_lines",
    "total_cpu_seconds",
    "transfer_trials",
    "with_lr",
    "write_files",
    "write_image_table",
    "write_recipes",
]
