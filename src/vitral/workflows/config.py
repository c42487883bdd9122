"""`TrainConfig`: all settings that decide a training run, as plain data.

A recipe returns a full one, the command line changes fields of it, and the run folder
stores it as config.json. Derived values are not stored.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vitral import config_io
from vitral.data import AugmentConfig, MixConfig
from vitral.data.audit import MAX_BAD
from vitral.errors import ConfigError
from vitral.json_file import read_object
from vitral.models import Size2d
from vitral.tasks import ObjectiveConfig, get_objective, get_task, tasks
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.validation import above_zero, not_negative

Plain = int | float | str | bool | None | tuple[int, ...]


def default_objective() -> ObjectiveConfig:
    """Return the objective of settings that name none."""
    return get_objective(ObjectiveConfig.DEFAULT)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run: data, model, objective and optimization."""

    data: str
    """A folder, a .csv or .jsonl table, or the name of a known data set."""
    val: float = 0.1
    """Share that chooses the best step, where the data has no val split; 0 for none."""
    test: float = 0.2
    """Share that is only measured, where the data has no test split; 0 for none."""
    group_by: str = ""
    """Group of images that no split may divide: `folder`, a regular expression on the
    path, or a column of the table; empty for none."""
    max_bad: float = MAX_BAD
    """Share of the images that may be unreadable, in all and in each split; above 1
    their number."""
    recipe: str = ""
    """Recipe that these settings started from; empty for none."""
    expected: str = ""
    """Result to expect from the recipe, and where it was measured."""
    model: str = ""
    """A name such as `vit_s16`; empty to take the model of `weights`."""
    model_changes: dict[str, Plain] = field(default_factory=dict)
    """Fields of the model's own config that differ from its name or its weights."""
    weights: str = ""
    """A model folder, a run or a .safetensors file to start from; empty for none."""
    resolutions: tuple[int, ...] = ()
    """Pixels of the training images in equal parts of the updates, the last the
    model's own, as in (128, 160, 192, 224); empty for one size throughout."""
    image_size: Size2d = 0
    """Pixels, (height, width) or one number, a multiple of the patch; 0 for the
    model's own."""
    preprocess_changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the pre-processing that differ from those of the weights."""
    channel_init: Literal["average", "repeat", "zero"] = "average"
    """Patch weights of another number of channels than that of `weights`: their
    average, or the same ones repeated, both with the same sum, or zero for those that
    are new."""
    freeze: int = -1
    """Number of first blocks that are frozen together with the stem; -1 trains
    everything, the model's depth is a linear probe."""
    cache: bool = False
    """Compute the frozen part's output once per image and view and train on that."""
    eval_views: Literal["one", "flip", "dihedral"] = "one"
    """Views whose probabilities are averaged in evaluation and prediction: the image,
    with its mirror image, or with all symmetries of a square."""
    batch_size: int = 32
    """Images per update."""
    epochs: float = 10.0
    """Passes over the training images, unless `steps` is given."""
    seed: int = 0
    """Seed of the split, order, augmentation, initial weights and dropout."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    task: str = ""
    """Task that the model learns; empty for the one that the data fits."""
    objective: ObjectiveConfig = field(default_factory=default_objective)
    """Objective of the training, with its own fields."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.model and not self.weights:
            raise ConfigError(
                "A run needs a model: give `weights=FILE` to fine-tune one, or "
                "`model=NAME` to train one from scratch."
            )
        above_zero(batch_size=self.batch_size, epochs=self.epochs)
        not_negative(max_bad=self.max_bad)
        if self.cache and self.freeze < 0:
            raise ConfigError(
                "`cache` keeps the output of frozen blocks: say how many with "
                "`freeze=N`."
            )
        if self.cache and self.augment.views == 0:
            raise ConfigError(
                "`cache` keeps every view of an image, so their number must be "
                "finite: give `views=V`."
            )
        if self.cache and self.resolutions:
            raise ConfigError(
                "`cache` keeps the output for images of one size: leave "
                "`resolutions` out, or `cache`."
            )
        if self.cache and (self.mix.mixup or self.mix.cutmix):
            raise ConfigError(
                "Mixup and CutMix blend images, which a cache of frozen outputs does "
                "not have: set `mixup=0` and `cutmix=0`, or leave `cache` out."
            )

    def unread_fields(self) -> dict[str, str]:
        """Return the fields that these settings do not read, with the one that does."""
        unread = {}
        if self.loop.steps:
            unread["epochs"] = "`steps=0`"
        if not self.weights:
            unread["channel_init"] = "`weights=FILE`"
        elif "in_chans" not in self.model_changes:
            unread["channel_init"] = "`channels=N`"
        if not get_task(self.objective.TASK).has_answers:
            unread["eval_views"] = "a task that answers"
        return unread


VOLATILE = ("expected", "max_bad", "task")
"""Fields that may differ when a run resumes, since they change no result of it: the
objective says the task. Device and workers change none either, and are no settings."""

tasks()  # their objectives must be known before a config is read


def read_config(file: Path) -> TrainConfig:
    """Read the settings in a run's config.json."""
    return config_io.from_dict(TrainConfig, read_object(file), file)
