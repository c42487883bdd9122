"""Sources of examples: folders, tables, hubs, built-in sets."""

from vitral.data.sources import torchvision_datasets
from vitral.data.sources.builtin import NUMBER_COLUMNS, read_numbers
from vitral.data.sources.huggingface import (
    LABELS,
    PREFIX,
    choose_label_column,
    read_hub,
)
from vitral.data.sources.image_folder import assign_groups, read_folder
from vitral.data.sources.pseudo_labels import (
    TABLE,
    PseudoData,
    read_pseudo,
    read_pseudo_data,
)
from vitral.data.sources.synthetic import Label, moving_squares
from vitral.data.sources.table import read_table
from vitral.data.sources.table_files import find_table, table_columns
from vitral.data.sources.table_labels import has_marks
from vitral.data.sources.table_parquet import (
    import_pyarrow,
    read_features,
    unwrap_feature,
)
from vitral.data.sources.table_rows import csv_rows, json_rows, read_text
from vitral.data.sources.torchvision_catalogue import TORCHVISION_DATASETS
from vitral.data.sources.torchvision_datasets import default_root, read_named
from vitral.data.sources.unlabelled import CLASSES, has_classes, read_unlabelled

__all__ = [
    "CLASSES",
    "LABELS",
    "NUMBER_COLUMNS",
    "PREFIX",
    "TABLE",
    "TORCHVISION_DATASETS",
    "Label",
    "PseudoData",
    "assign_groups",
    "choose_label_column",
    "csv_rows",
    "default_root",
    "find_table",
    "has_classes",
    "has_marks",
    "import_pyarrow",
    "json_rows",
    "moving_squares",
    "read_features",
    "read_folder",
    "read_hub",
    "read_named",
    "read_numbers",
    "read_pseudo",
    "read_pseudo_data",
    "read_table",
    "read_text",
    "read_unlabelled",
    "table_columns",
    "torchvision_datasets",
    "unwrap_feature",
]
