"""The table of named weights, and the record that a name means."""

import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from vitral import config_io
from vitral.errors import WeightsError
from vitral.validation import nearest_names
from vitral.weights.zoo.record import Record

PREFIX = re.compile(r"^(hf-hub:|hf_hub:)")


@cache
def records() -> Mapping[str, Record]:
    """Return every record by its name, in the order of the table.

    Raises:
        ConfigError: a cell of the table is of the wrong type.
    """
    text = (files("vitral.weights.zoo") / "table.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    found = [_parse(row) for row in rows]
    return MappingProxyType({record.name: record for record in found})


def find_record(text: str) -> Record | None:
    """Return the record that a name means; None for text that is no such name.

    A name is the table's own, timm's `model.tag`, or the id of a hub repository. The id
    with a revision means that revision, not the record.

    Raises:
        WeightsError: the name fits several records, such as timm's without its tag.
    """
    name = PREFIX.sub("", text)
    if name in records():
        return records()[name]
    for record in records().values():
        if record.timm and name in (record.timm, f"timm/{record.timm}"):
            return record
    _refuse_ambiguous(text, name.removeprefix("timm/"))
    return None


def find_terms(repository: str) -> Record | None:
    """Return the record whose licence holds for a hub repository; None if unknown."""
    for record in records().values():
        if repository in (record.hub, record.also):
            return record
    return None


def find_default(model: str) -> Record:
    """Return the record that the table marks as the weights of a model.

    Raises:
        WeightsError: no record is marked; the message has the candidates.
    """
    candidates = [it for it in records().values() if it.model == model]
    marked = [it for it in candidates if it.default]
    if len(marked) == 1:
        return marked[0]
    if candidates:
        raise WeightsError(
            f"The model {model} has no weights by default. Choose one by its name: "
            f"{_list(candidates)}, as in `vitral.load({candidates[0].name!r})`."
        )
    raise WeightsError(
        f"The table of named weights has none for {model}. `vitral weights list` lists "
        "all; a model with fresh weights has `pretrained=False`."
    )


def nearest(text: str) -> list[str]:
    """Return up to three names that are spelled like `text`."""
    names = [*records(), *(it.timm for it in records().values() if it.timm)]
    return nearest_names(PREFIX.sub("", text), names, count=3, cutoff=0.6)


def _refuse_ambiguous(text: str, name: str) -> None:
    """Refuse timm's name without a tag, and the beginning of several names."""
    same_model = [
        it for it in records().values() if it.timm and it.timm.split(".")[0] == name
    ]
    begun = [it for it in records().values() if it.name.startswith(f"{name}_")]
    candidates = same_model or begun
    # `vit_s16` alone is an architecture, whose weights are several.
    if not candidates or not name:
        return
    raise WeightsError(
        f"`{text}` may mean several weights: {_list(candidates)}. Give one of these "
        "names; a name without its data or tag has changed its meaning before."
    )


def _list(found: Iterable[Record]) -> str:
    names = [it.name for it in found]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _parse(row: Mapping[str, str]) -> Record:
    """Read a row: an empty cell leaves the default of its field."""
    types = {field.name: field.type for field in dataclasses.fields(Record)}
    values: dict[str, object] = {}
    for column, text in row.items():
        if text == "":
            continue
        kind = types[column]
        values[column] = kind(text) if kind in (int, float) else text
        if kind is bool:
            values[column] = text == "yes"
    return config_io.from_dict(Record, values, f"The record of {row['name']}")
