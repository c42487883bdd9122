"""The settings of a command line: a recipe with the flags of `vitral train` on top."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import vitral.models
import vitral.recipes
import vitral.weights
from vitral.cli.config_flags import (
    add_config_flags,
    parse_value,
    replace_fields,
    require_read,
)
from vitral.cli.parser import Parser
from vitral.cli.start_weights import choose_start
from vitral.data import Preprocess
from vitral.errors import ConfigError, VitralError
from vitral.tasks import ObjectiveConfig, get_objective, get_task, objectives, tasks
from vitral.workflows import TrainConfig
from vitral.workflows.resolve_task import resolve_task, with_objective

SKIPPED_FIELDS = ("data", "recipe", "model", "weights", "preprocess_changes", "task")
"""Fields that `vitral train` sets by flags of its own."""
PIXEL_FIELDS = ("value_range", "mean", "std")
"""Fields of the pre-processing that `--set` sets, in place of measured ones."""
PLACEHOLDERS = ("DATA", "digits")
"""Data of `--help-all` where none is named: recipes look at theirs."""


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """Settings, the recipe they began as, and why that one with these weights."""

    config: TrainConfig
    recipe: str
    reason: str
    start: str
    """Sentence on the weights that nobody named; empty where there is none."""


def resolve_config(
    data: str, args: argparse.Namespace, rest: list[str]
) -> ResolvedConfig:
    """Return the recipe of a command with its flags on top.

    Args:
        args: the flags that `vitral train` declares.
        rest: the flags of the config's fields, not parsed.
    """
    resolved = _resolve_recipe(data, args)
    config = _with_task_of_flags(resolved.config, args, rest)
    config = apply_flags(resolve_task(config), rest)
    return dataclasses.replace(resolved, config=config)


def apply_flags(config: TrainConfig, argv: list[str]) -> TrainConfig:
    """Return `config` with flags on top; an unknown flag names the nearest, exit 2."""
    parser = Parser("train", "")
    add_config_flags(parser, config, SKIPPED_FIELDS)
    changed = replace_fields(config, parser.parse_known(argv, {})[0])
    require_read(changed, parser.given)
    return changed


def config_flags(argv: Sequence[str] = ()) -> dict[str, argparse.Action]:
    """Return the flags of the config's fields, with those of every objective.

    Args:
        argv: the command line. An objective that it names has its own flags; else a
            flag of several objectives takes as many words as it does in any.
    """
    flags: dict[str, argparse.Action] = {}
    words = {part for word in argv for part in word.split("=")}
    named = [name for name in objectives() if name in words]
    for name, objective in objectives().items():
        parser = Parser("train", "")
        config = TrainConfig(data="DATA", model="MODEL", objective=objective())
        add_config_flags(parser, config, SKIPPED_FIELDS)
        for flag, action in parser.flags().items():
            known = flags.get(flag)
            is_named = name in named[:1]
            takes_more = known and known.nargs is None and action.nargs is not None
            if known is None or is_named or (takes_more and not named):
                flags[flag] = action
    return flags


def format_all_flags(
    parser: Parser, data: str, args: argparse.Namespace, rest: list[str]
) -> str:
    """Return the help of every flag, with the defaults that the recipe gives.

    Raises:
        ConfigError: the recipe looks at its data or weights, and none are named.
    """
    if data:
        resolved = _resolve_recipe(data, args)
    else:
        data, resolved = _resolve_without_data(args)
    config = apply_flags(resolved.config, rest)
    add_config_flags(parser, config, SKIPPED_FIELDS)
    return (
        f"{parser.format_help_all()}\n"
        f"Defaults: recipe {resolved.recipe} for {data}, model "
        f"{config.model or config.weights}."
    )


def _resolve_without_data(args: argparse.Namespace) -> tuple[str, ResolvedConfig]:
    for data in PLACEHOLDERS:
        try:
            return data, _resolve_recipe(data, args)
        except VitralError as error:
            reason = error
    raise ConfigError(
        "The defaults depend on data and weights: name them, as in `vitral train DATA "
        f"--weights FILE --help-all`. Without them: {reason}"
    ) from reason


def _resolve_recipe(data: str, args: argparse.Namespace) -> ResolvedConfig:
    recipe, reason = args.recipe, "asked for"
    start = choose_start(data, args)
    if not recipe:
        recipe, reason = vitral.recipes.choose_recipe(data, start.weights, args.model)
    config = vitral.recipes.get_recipe(recipe)(data, start.weights)
    config = _with_model_changes(config, args)
    config = _with_objective(config, args.objective)
    if args.twin:
        config = vitral.recipes.twin(config)
    return ResolvedConfig(config, recipe, reason, start.sentence)


def _with_model_changes(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    changes: dict[str, Any] = dict(config.model_changes)
    if args.model:
        # The size that is asked for by name comes before the recipe's own.
        sizes = {*vitral.models.SIZES["b"], "patch_size"}
        changes = {name: v for name, v in changes.items() if name not in sizes}
    if args.channels:
        changes["in_chans"] = args.channels
    if args.drop_path is not None:
        changes["drop_path_rate"] = args.drop_path
    inputs = dict(config.preprocess_changes)
    for assignment in args.set:
        name, value = parse_assignment(assignment)
        section, dot, field = name.partition(".")
        if dot and section in Preprocess.SECTIONS:
            inputs[section] = {**inputs.get(section, {}), field: value}
        elif name in PIXEL_FIELDS:
            inputs[name] = value
        else:
            changes[name] = value
    fields: dict[str, Any] = {"model_changes": changes, "preprocess_changes": inputs}
    if changes.get("in_chans", 3) != 3:
        # A recipe's colour operations are for red, green and blue.
        fields["augment"] = dataclasses.replace(
            config.augment, color_jitter=0.0, rand_augment=0, policy="rand"
        )
    if args.model:
        fields["model"] = args.model
    if args.linear_probe:
        if not config.weights:
            raise ConfigError(
                "`--linear-probe` keeps the weights of a pre-trained model: give them "
                "with `--weights FILE`."
            )
        fields["freeze"] = vitral.weights.read(config.weights).config.num_blocks
        fields["objective"] = config.objective.with_fitted_head()
    return dataclasses.replace(config, **fields)


def parse_assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            f"`--set {text}` must be FIELD=VALUE, such as `--set reg_tokens=4`."
        )
    parsed = parse_value(value)
    is_list = isinstance(parsed, list) and name in PIXEL_FIELDS
    if isinstance(parsed, list | dict) and not is_list:
        raise ConfigError(
            f"`--set {text}` must be one number, true, false, null or a word."
        )
    return name, parsed


def _with_objective(config: TrainConfig, name: str) -> TrainConfig:
    """Return `config` for another objective, whose evaluation may give no accuracy."""
    if name in ("", config.objective.NAME):
        return config
    return with_objective(config, get_objective(name))


def _with_task_of_flags(
    config: TrainConfig, args: argparse.Namespace, rest: list[str]
) -> TrainConfig:
    """Return `config` with the task that is asked for.

    `--task` and `--objective` ask for one by name. Any other flag asks for a task if
    the default objective of that task alone has it, as `--target` is regression's. A
    task without answers is asked for by name only.
    """
    if args.task:
        return dataclasses.replace(config, task=get_task(args.task).name)
    if args.objective:
        return dataclasses.replace(config, task=config.objective.TASK)
    words = {word.partition("=")[0] for word in rest if word.startswith("--")}
    words = {word.removeprefix("--").replace("-", "_") for word in words}
    asked = words - _field_names(config) - _field_names(config.objective)
    for task in tasks().values():
        if task.has_answers and asked & _field_names(task.objectives[0]):
            return dataclasses.replace(config, task=task.name)
    return config


def _field_names(config: Any) -> set[str]:
    """Return the names of fields, and of the fields of nested configs."""
    names = set()
    for field in dataclasses.fields(config):
        names.add(field.name)
        nested = getattr(config, field.name, None)
        if dataclasses.is_dataclass(nested) and not isinstance(nested, ObjectiveConfig):
            names |= _field_names(nested)
    return names
