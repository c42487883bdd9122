"""The settings of a self-training, and the file that lets it go on where it stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vitral import config_io
from vitral.atomic_io import TEMPORARY_SUFFIX, write_json
from vitral.errors import ConfigError
from vitral.objectives.self_training import THRESHOLD, check_settings
from vitral.run.config import TrainConfig

STATE = "self-training.json"


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


class Begun(NamedTuple):
    """What must be the same when a self-training goes on."""

    config: TrainConfig
    settings: SelfTrainingConfig
    unlabelled: str
    teacher: str

    def plain(self) -> dict[str, Any]:
        return {
            "config": config_io.to_plain(self.config),
            "settings": asdict(self.settings),
            "unlabelled": self.unlabelled,
            "teacher": self.teacher,
        }


def begin(out: Path, begun: Begun) -> None:
    """Make the folder, or see that it began with the same settings."""
    if out.is_file():
        raise ConfigError(f"`--out {out}` is a file: name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    state, new = out / STATE, begun.plain()
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
        pairs = [*_differences(old, json.loads(json.dumps(new)))]
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


def _differences(
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
