"""Settings of a self-training, and the state file that a restart is checked against."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitral.atomic_io import write_json
from vitral.data.sources import read_pseudo_data
from vitral.errors import ConfigError, DataError
from vitral.tasks import get_task
from vitral.tasks.classification import THRESHOLD, check_settings
from vitral.validation import above_zero
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run
from vitral.workflows.run_lock import claim_folder

STATE_FILE = "self-training.json"
LAST_FILE = "report.html"
"""The file that `train` writes last."""


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """Rounds of a self-training, and the choice and weight of its pseudo-labels."""

    rounds: int = 3
    """Students trained one after another."""
    threshold: float = THRESHOLD
    """Least confidence of a prediction that is learned from."""
    per_class: int = 0
    """Images of each class after balancing; 0 for the mean number of a class above the
    threshold, -1 for no balance."""
    ratio: float = 3.0
    """Pseudo-labelled images for each labelled one in an epoch; the paper has 3 for
    most of its models."""
    temperature: float = 1.0
    """T of targets p^(1/T); below 1 is sharper."""
    hard: bool = False
    """Learn the teacher's class alone instead of its probabilities."""
    calibrated: bool = False
    """Divide the teacher's logits by the temperature that its run has fitted on val."""

    def __post_init__(self) -> None:
        check_settings(self.threshold, self.per_class, self.temperature)
        if self.rounds < 1:
            raise ConfigError(f"`rounds` must be 1 or more: got {self.rounds}.")
        above_zero(ratio=self.ratio)


def start_or_resume(out: Path, new: dict[str, Any]) -> None:
    """Create the folder, or check that it was started with the same settings."""
    state = out / STATE_FILE
    if not claim_folder(out, STATE_FILE, "self-training", ("log.txt",)):
        write_json(state, new)
        return
    try:
        old = json.loads(state.read_text(encoding="utf-8"))
        pairs = [*_find_differences(old, json.loads(json.dumps(new)))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{state} is damaged ({error}): name another folder."
        ) from error
    if pairs:
        name, before, now = pairs[0]
        raise ConfigError(
            f"The self-training in {out} began with `{name}` {before!r} and cannot go "
            f"on with {now!r}. Use the first settings, or another folder."
        )
    write_json(state, new)


def _find_differences(
    old: dict[str, Any], new: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Return (name, old, new) of changes, `rounds` and comments left out."""
    differences = []
    for name, now in new.items():
        before = old[name]
        if isinstance(now, dict):
            differences += [
                (inner, before.get(inner), value)
                for inner, value in now.items()
                if before.get(inner) != value and inner not in ("rounds", "expected")
            ]
        elif before != now:
            differences.append((name, before, now))
    return differences


def student_config(config: TrainConfig, data: Path) -> TrainConfig:
    """Return the settings of a round: those of the student, on the merged data set.

    The targets of the labelled images hold the label smoothing, so that it does not
    change the teacher's probabilities.
    """
    student_smoothing(config)  # refuses an objective without one class an image
    objective = replace(config.objective, smoothing=0.0)  # type: ignore[call-arg]
    return replace(
        config, data=str(data), val=0.0, test=0.0, group_by="", objective=objective
    )


def find_last_round(folder: Path) -> Path:
    """Return the last finished round of a self-training; other folders unchanged."""
    if not (folder / STATE_FILE).is_file():
        return folder
    done = [file.parent for file in folder.glob(f"round-*/{LAST_FILE}")]
    return max(done, key=lambda p: int(p.name.split("-")[1]), default=folder)


def labeled_source(run: Run) -> str:
    """Return the labelled data of a run, or of a student's run; empty if unknown."""
    try:
        data = run.config.data
        if Path(data).suffix == ".json" and Path(data).is_file():
            return read_pseudo_data(Path(data)).labelled
        return absolute_path(data)
    except (ConfigError, DataError):
        return ""


def absolute_path(data: str) -> str:
    """Return the absolute path of existing data; the name of a data set unchanged."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def read_temperature(teacher: Run) -> float:
    calibrated = teacher.metrics.get("val", {}).get("calibrated")
    if not isinstance(calibrated, dict):
        raise ConfigError(
            f"The teacher {teacher.path} has no temperature: its run measured no val "
            "split. Leave `calibrated` out."
        )
    return float(calibrated["temperature"])


def student_smoothing(config: TrainConfig) -> float:
    """Return the label smoothing of a student; refuse one that cannot be one."""
    task = get_task(config.objective.TASK)
    return task.student_smoothing(config.objective)
