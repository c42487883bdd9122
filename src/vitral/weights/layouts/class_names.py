"""Names of a head's outputs: each is one output's alone."""

import unicodedata
from collections import Counter
from dataclasses import replace

from vitral.weights.checkpoint_facts import WeightsSource

SHOWN = 3


def with_unique_names(source: WeightsSource) -> WeightsSource:
    """Return the source with the output's number behind a name that comes twice.

    ImageNet has two classes called crane: answers by name would lose one of them.
    """
    forms = [unicodedata.normalize("NFC", name) for name in source.classes]
    twice = [name for name, count in Counter(forms).items() if count > 1]
    if not twice:
        return source
    taken, names = set(forms), []
    for number, (name, form) in enumerate(zip(source.classes, forms, strict=True)):
        new = f"{form} ({number})" if form in twice else name
        while form in twice and new in taken:
            new += "'"
        taken.add(new)
        names.append(new)
    shown = ", ".join(twice[:SHOWN]) + (", ..." if twice[SHOWN:] else "")
    note = (
        f"{len(twice)} name(s) stand for several outputs: {shown}; each has the number "
        f"of its output, such as {names[forms.index(twice[0])]}"
    )
    return replace(source, classes=tuple(names), notes=(*source.notes, note))
