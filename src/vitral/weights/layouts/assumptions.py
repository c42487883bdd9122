"""Settings that no tensor shows: said in one line, replaced where the user knows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import vitral.models
from vitral.errors import ConfigError
from vitral.models import ViTConfig
from vitral.weights.checkpoint_facts import LayoutInput, WeightsSource
from vitral.weights.layouts.layout import Layout

DECIDED = ("architecture", "model_args", "model_type")
"""Fields of config.json that say which function the tensors belong to."""
POOLS = {
    "token": "the class token is pooled",
    "avg": "the mean of the patches is pooled",
    "map": "attention pools the patches",
    "token_avg": "class token and mean of the patches are pooled",
    "avg_all": "the mean of class token and patches is pooled",
}
ACTIVATIONS = {
    "gelu": "exact GELU",
    "gelu_tanh": "GELU by tanh",
    "quick_gelu": "QuickGELU",
}


def with_assumptions(
    layout: Layout, opened: LayoutInput, source: WeightsSource
) -> WeightsSource:
    """Return the source with a note on its assumptions, where a file is alone."""
    config = source.config
    alone = not any(field in opened.config_json for field in DECIDED)
    if layout.same_names is None or not alone or not isinstance(config, ViTConfig):
        return source
    gate = "a SiLU gate" if config.mlp == "swiglu" else "no gate"
    head = f"{config.num_heads} head" + ("s" if config.num_heads > 1 else "")
    note = (
        f"assumed, as the file does not say: {POOLS[config.global_pool]}, "
        f"{ACTIVATIONS[config.act]}, {gate}, {head}"
    )
    if layout.same_names:
        note += f"; {layout.same_names}, have the same names"
    note += ". Other settings: `vitral convert --set`, `settings` of `vt.load`"
    return replace(source, notes=(*source.notes, note))


def with_settings(source: WeightsSource, settings: Mapping[str, Any]) -> WeightsSource:
    """Return the source with settings of the caller in place of those assumed.

    Raises:
        ConfigError: a setting is unknown, or the tensors show another value.
    """
    config = vitral.models.replace_config(source.config, dict(settings))
    old, new = map(vitral.models.tensor_shapes, (source.config, config))
    if old != new:
        given = ", ".join(f"{name}={value}" for name, value in settings.items())
        wrong = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        raise ConfigError(
            f"{source.path}: `{given}` is of another model than the file's, whose "
            f"tensors show the setting: {wrong[0]} would be {new.get(wrong[0])}, and "
            f"is {old.get(wrong[0])}. Give settings that no tensor shows, such as "
            "global_pool, act or num_heads."
        )
    given = ", ".join(f"{name}={value}" for name, value in settings.items())
    return replace(source, config=config, notes=(*source.notes, f"as given: {given}"))
