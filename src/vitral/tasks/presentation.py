"""Words of a server about a model of a task, and how its page shows an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Field:
    """Type of one value in an answer; str, float, bool, and lists or dicts of them."""

    type: Any
    """Such as `dict[str, float]`."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One value that a client may want to know about a model."""

    value: Any
    """Plain data."""
    type: Any = None
    """As that of a `Field`; None for the type of `value`."""


@dataclass(frozen=True, kw_only=True)
class Display:
    """Fields of an answer that the page shows; it lists all where none is named."""

    title: str = ""
    """Field in large type, a text or a number."""
    placeholder: str = ""
    """Text in place of a title that is empty."""
    bars: str = ""
    """Field with a share from 0 to 1 by name."""
    interval: tuple[str, ...] = ()
    """Fields of the lowest and the highest value that the title may stand for."""
    interval_name: str = "interval"
    """Words for the interval, such as `90 % interval`."""
    explained: str = "the answer"
    """Output that a heat map of gradients explains, as in `Answer.explained_output`."""


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """Part of the server's description and page that depends on the task."""

    fields: Mapping[str, Field]
    """Fields of `Answer.row`."""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    summary: str = "The answer for one image"
    listed: str = ""
    """Things that `AnswerContext.top` counts, such as `classes`; empty for nothing."""
    outputs_name: Literal["outputs", "logits"] = "outputs"
    """Name of the raw outputs, in the query and in the answer."""
    outputs: Field = Field(list, "what the model computes")
    files: Mapping[str, str] = field(default_factory=dict)
    """Content of each of `Answer.files`, by suffix."""
    draws: bool = False
    """True if `Answer.draw` changes the picture."""
    display: Display = Display()
