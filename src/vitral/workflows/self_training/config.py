"""The settings of a self-training, and the file that lets it go on where it stopped."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vitral import config_io
from vitral.atomic_io import TEMPORARY_SUFFIX, write_json
from vitral.data.sources import read_pseudo_data
from vitral.errors import ConfigError, DataError
from vitral.objectives import SupervisedConfig
from vitral.objectives.self_training import THRESHOLD, check_settings
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run

STATE_FILE = "self-training.json"


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """How pseudo-labels are chosen, and how much they count."""

    rounds: int = 3
    """Students after one another."""
    threshold: float = THRESHOLD
    """The least confidence of an answer that is learned from."""
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
        if not self.ratio > 0:
            raise ConfigError(f"`ratio` must be above 0: got {self.ratio}.")


class ResumeKey(NamedTuple):
    """What must be the same when a self-training goes on."""

    config: TrainConfig
    settings: SelfTrainingConfig
    unlabelled: str
    teacher: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "config": config_io.to_dict(self.config),
            "settings": asdict(self.settings),
            "unlabelled": self.unlabelled,
            "teacher": self.teacher,
        }


def start_or_resume(out: Path, resume_key: ResumeKey) -> None:
    """Make the folder, or see that it began with the same settings."""
    if out.is_file():
        raise ConfigError(f"`--out {out}` is a file: name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    state, new = out / STATE_FILE, resume_key.to_dict()
    if not state.is_file():
        others = [f.name for f in out.iterdir() if f.suffix != TEMPORARY_SUFFIX]
        if set(others) - {"log.txt"}:
            raise ConfigError(
                f"The output folder {out} holds something that is not a self-training: "
                "name another folder."
            )
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
    """What changes a number: not how many rounds there are, nor a comment."""
    found = []
    for name, now in new.items():
        before = old[name]
        if isinstance(now, dict):
            found += [
                (inner, before.get(inner), value)
                for inner, value in now.items()
                if before.get(inner) != value and inner not in ("rounds", "expected")
            ]
        elif before != now:
            found.append((name, before, now))
    return found


LAST_FILE = "report.html"
"""What `train` writes last."""


def student_config(config: TrainConfig, data: Path) -> TrainConfig:
    """The settings of a round: those of the student, on the merged data set.

    Label smoothing is in the targets of the labelled images, so that it leaves the
    teacher's probabilities alone.
    """
    objective = replace(require_softmax(config), smoothing=0.0)
    return replace(
        config, data=str(data), val=0.0, test=0.0, group_by="", objective=objective
    )


def find_last_round(folder: Path) -> Path:
    """The newest finished round of a self-training; any other folder as it is."""
    if not (folder / STATE_FILE).is_file():
        return folder
    done = [file.parent for file in folder.glob(f"round-*/{LAST_FILE}")]
    return max(done, key=lambda p: int(p.name.split("-")[1]), default=folder)


def labeled_source(run: Run) -> str:
    """The labelled data of a run, of a student's too; empty where it is not known."""
    try:
        data = run.config.data
        if Path(data).suffix == ".json" and Path(data).is_file():
            return read_pseudo_data(Path(data)).labelled
        return absolute_path(data)
    except (ConfigError, DataError):
        return ""


def absolute_path(data: str) -> str:
    """A path that holds wherever it is read from; a name as it is."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def require_softmax(config: TrainConfig) -> SupervisedConfig:
    objective = config.objective
    if not isinstance(objective, SupervisedConfig) or objective.loss != "softmax":
        raise ConfigError(
            "A student of self-training learns one class an image with the softmax "
            "loss: leave `--objective` and `--loss` as they are."
        )
    return objective


def read_temperature(teacher: Run) -> float:
    found = teacher.metrics.get("val", {}).get("calibrated")
    if not isinstance(found, dict):
        raise ConfigError(
            f"The teacher {teacher.path} has no temperature: its run measured no val "
            "split. Leave `--calibrated` out."
        )
    return float(found["temperature"])
