"""Floor 6: the paper's experiments, one file a question, at a size one can afford.

A study is a module of this room with a `STUDY`; nothing else lists it.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from vitral.errors import ConfigError
from vitral.studies.engine import ResultTable, Size, Study, Trial, ordered_trials


@cache
def all_studies() -> Mapping[str, Study]:
    """Every study by its name."""
    found: dict[str, Study] = {}
    for module in pkgutil.iter_modules(__path__):
        content = importlib.import_module(f"{__name__}.{module.name}")
        if isinstance(getattr(content, "STUDY", None), Study):
            found[content.STUDY.name] = content.STUDY
    return MappingProxyType(dict(sorted(found.items())))


def get_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ConfigError: nobody's name; the nearest are in the message.
    """
    known = all_studies()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.0)
    raise ConfigError(
        f"Unknown study `{name}`. The nearest names are {' and '.join(near)}; all are "
        f"{', '.join(known)}."
    )


__all__ = [
    "ResultTable",
    "Size",
    "Study",
    "Trial",
    "all_studies",
    "get_study",
    "ordered_trials",
]
