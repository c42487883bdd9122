"""Experiments of the papers, one module with a `STUDY` per question.

A study is found by its file; nothing else lists it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from vitral.errors import ConfigError
from vitral.studies.engine import ResultTable, Size, Study, Trial, ordered_trials
from vitral.validation import nearest_names


@cache
def all_studies() -> Mapping[str, Study]:
    """Return all studies by name."""
    studies: dict[str, Study] = {}
    for module in pkgutil.iter_modules(__path__):
        content = importlib.import_module(f"{__name__}.{module.name}")
        if isinstance(getattr(content, "STUDY", None), Study):
            studies[content.STUDY.name] = content.STUDY
    return MappingProxyType(dict(sorted(studies.items())))


def get_study(name: str) -> Study:
    """Return the study of that name.

    Raises:
        ConfigError: unknown name; the message has the nearest ones.
    """
    studies = all_studies()
    if name in studies:
        return studies[name]
    near = nearest_names(name, studies, cutoff=0.0)
    raise ConfigError(
        f"Unknown study `{name}`. The nearest names are {' and '.join(near)}; all are "
        f"{', '.join(studies)}."
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
