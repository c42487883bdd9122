"""From the settings of a self-training to those of a round, and from a folder to the
teacher in it.
"""

from dataclasses import replace
from pathlib import Path

from vitral.data.sources import read_about
from vitral.errors import ConfigError, DataError
from vitral.objectives import SupervisedConfig
from vitral.run.config import TrainConfig
from vitral.run.folder import Run
from vitral.run.self_training_state import STATE

DONE = "report.html"
"""What `train` writes last."""


def student_config(config: TrainConfig, data: Path) -> TrainConfig:
    """The settings of a round: those of the student, on the merged data set.

    Label smoothing is in the targets of the labelled images, so that it leaves the
    teacher's probabilities alone.
    """
    objective = replace(softmax_of(config), smoothing=0.0)
    return replace(
        config, data=str(data), val=0.0, test=0.0, group_by="", objective=objective
    )


def last_round(folder: Path) -> Path:
    """The newest finished round of a self-training; any other folder as it is."""
    if not (folder / STATE).is_file():
        return folder
    done = [file.parent for file in folder.glob(f"round-*/{DONE}")]
    return max(done, key=lambda p: int(p.name.split("-")[1]), default=folder)


def learned_from(run: Run) -> str:
    """The labelled data of a run, of a student's too; empty where it is not known."""
    try:
        data = run.config.data
        if Path(data).suffix == ".json" and Path(data).is_file():
            return read_about(Path(data)).labelled
        return lasting(data)
    except (ConfigError, DataError):
        return ""


def lasting(data: str) -> str:
    """A path that holds wherever it is read from; a name as it is."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def softmax_of(config: TrainConfig) -> SupervisedConfig:
    objective = config.objective
    if not isinstance(objective, SupervisedConfig) or objective.loss != "softmax":
        raise ConfigError(
            "A student of self-training learns one class an image with the softmax "
            "loss: leave `--objective` and `--loss` as they are."
        )
    return objective


def temperature_of(teacher: Run) -> float:
    found = teacher.metrics.get("val", {}).get("calibrated")
    if not isinstance(found, dict):
        raise ConfigError(
            f"The teacher {teacher.path} has no temperature: its run measured no val "
            "split. Leave `--calibrated` out."
        )
    return float(found["temperature"])
