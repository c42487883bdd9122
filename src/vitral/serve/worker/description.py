"""Description of the model, from the worker process to the server process."""

import mimetypes
from typing import Any

from pydantic import TypeAdapter

from vitral.tasks import Field, Presentation, Task
from vitral.tasks.labels import Labels

DRAWN = ""
"""In place of a suffix: the upright picture with the answer on it."""
_DRAWN_TYPE = "image/jpeg"
_NAMED_OUTPUTS = 4


def describe_task(presentation: Presentation) -> dict[str, Any]:
    """Return the task's part of /openapi.json as plain data; see `schema.add_task`."""
    facts = {
        name: Field(type(fact.value) if fact.type is None else fact.type)
        for name, fact in presentation.facts.items()
    }
    return {
        "Answer": {n: _to_schema(field) for n, field in presentation.fields.items()},
        "Facts": {name: _to_schema(field) for name, field in facts.items()},
        "summary": presentation.summary,
        "listed": presentation.listed,
        "outputs": {
            "name": presentation.outputs_name,
            "schema": TypeAdapter(presentation.outputs.type).json_schema(),
            "description": presentation.outputs.description,
        },
        "files": _describe_files(presentation),
    }


def describe_display(
    task: Task, labels: Labels, presentation: Presentation
) -> dict[str, Any]:
    """Return how the page shows an answer, and what the model's outputs are.

    `names` is empty where the task's words for the outputs are their names.
    """
    display, outputs = presentation.display, task.describe(labels)
    names = ", ".join(labels.names[:_NAMED_OUTPUTS])
    if outputs.startswith(names):
        names = ""
    elif len(labels.names) > _NAMED_OUTPUTS:
        names += ", …"
    return {
        "outputs": outputs,
        "names": names,
        "title": display.title,
        "placeholder": display.placeholder,
        "bars": display.bars,
        "interval": list(display.interval),
        "interval_name": display.interval_name,
        "fields": list(presentation.fields),
        "explained": display.explained,
        "drawn": drawn_type(presentation),
    }


def suffixes_by_type(presentation: Presentation) -> dict[str, str]:
    """Return the suffix of the file of each media type, or `DRAWN`."""
    suffixes: dict[str, str] = {}
    for suffix in presentation.files:
        suffixes.setdefault(media_type_of(suffix), suffix)
    if presentation.draws:
        suffixes.setdefault(_DRAWN_TYPE, DRAWN)
    return suffixes


def drawn_type(presentation: Presentation) -> str:
    """Return the media type of the drawn picture; empty if there is none."""
    suffixes = suffixes_by_type(presentation)
    return next((kind for kind in suffixes if suffixes[kind] == DRAWN), "")


def media_type_of(suffix: str) -> str:
    """Return the media type of a file with a suffix such as `.overlay.jpg`."""
    return mimetypes.guess_type(f"answer{suffix}")[0] or "application/octet-stream"


def _describe_files(presentation: Presentation) -> dict[str, str]:
    contents = {DRAWN: "the upright picture with the answer on it"}
    contents |= presentation.files
    return {
        media_type: contents[suffix]
        for media_type, suffix in suffixes_by_type(presentation).items()
    }


def _to_schema(field: Field) -> dict[str, Any]:
    schema = TypeAdapter(field.type).json_schema()
    return schema | ({"description": field.description} if field.description else {})
