"""Answers of a run with their pictures: the worst errors, and a few right ones.

Which answers those are is decided here alone: the maps beside the pictures are computed
for the same ones (`chosen`) and read from the run folder.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from PIL import Image

from vitral.errors import ImageError
from vitral.evaluation import MultiLabel, Prediction
from vitral.report.images import Picture, thumbnail, tinted, tinted_strip
from vitral.report.load_run import RunFolder
from vitral.report.numbers import Number, pointer, share

MOST_ERRORS = 24
MOST_RIGHT = 24
MOST_RIGHT_A_CLASS = 2
Images = Callable[[str], Image.Image | None]


class Sources(NamedTuple):
    """From an example's id to a picture; None for a function that there is not."""

    images: Images | None = None
    """The image as it is."""
    views: Images | None = None
    """The image as it enters the model, which is what a map belongs to."""


class Answer(NamedTuple):
    """One answer of the model."""

    path: str
    true: str
    predicted: str
    confidence: Number
    picture: Picture | None
    seen: Picture | None
    """The image under the map of what the model looks at."""


class Answers(NamedTuple):
    """Some answers in a split; `note` says what is missing."""

    split: str
    items: list[Answer]
    note: str
    with_maps: bool
    of_clips: bool = False
    """Whether what is seen is a strip of frames, which shows the input as well."""


def chosen(run: RunFolder) -> list[Prediction]:
    """Every answer that a report shows: the worst errors, then the right ones."""
    table = run.predictions.get(run.headline or "", ())
    return [table[i] for i in [*_worst(table), *_right(table, _classes(run))]]


def worst_errors(run: RunFolder, sources: Sources, budget: int) -> Answers | None:
    """The most confident wrong answers, with pictures until `budget` characters."""
    split, table = run.headline, _table(run)
    if split is None:
        return None
    if table is None:
        return Answers(split, [], _no_table(run, split), False)
    places = _worst(table)
    if not places:
        return Answers(split, [], "No decoded image was answered wrongly.", False)
    return _answers(run, split, places, sources, budget)


def right_answers(run: RunFolder, sources: Sources, budget: int) -> Answers | None:
    """The most confident right answers of each class, with pictures as above."""
    split, table = run.headline, _table(run)
    if split is None:
        return None
    if table is None:
        return Answers(split, [], _no_table(run, split), False)
    places = _right(table, _classes(run))
    if not places:
        return Answers(split, [], "No image was answered rightly.", False)
    found = _answers(run, split, places, sources, budget)
    if not any(item.picture for item in found.items):
        return Answers(split, [], "No picture of them can be had.", False)
    return found


def _table(run: RunFolder) -> tuple[Prediction, ...] | None:
    return run.predictions.get(run.headline or "")


def _no_table(run: RunFolder, split: str) -> str:
    if isinstance(run.results[split], MultiLabel):
        return (
            "A run with several labels an image keeps no row per image, so no single "
            "answer can be shown."
        )
    return f"predictions/{split}.csv is missing."


def _classes(run: RunFolder) -> Sequence[str]:
    result = run.results.get(run.headline or "")
    return [row.name for row in result.per_class] if result is not None else []


def _worst(table: Sequence[Prediction]) -> list[int]:
    """The rows of wrong answers, the most confident ones first."""
    wrong = (i for i, row in enumerate(table) if not row.correct)
    return _by_confidence(table, wrong)[:MOST_ERRORS]


def _right(table: Sequence[Prediction], classes: Sequence[str]) -> list[int]:
    """Rows of right answers, class by class: evenly chosen where there are many."""
    rows: dict[str, list[int]] = {name: [] for name in classes}
    for i in _by_confidence(table, (i for i, row in enumerate(table) if row.correct)):
        rows.setdefault(table[i].label, []).append(i)
    taken: dict[str, list[int]] = {name: [] for name in rows}
    for place in range(MOST_RIGHT_A_CLASS):
        left = MOST_RIGHT - sum(map(len, taken.values()))
        having = [name for name, some in rows.items() if len(some) > place]
        for name in _evenly(having, left):
            taken[name].append(rows[name][place])
    return [i for some in taken.values() for i in some]


def _by_confidence(table: Sequence[Prediction], rows: Iterable[int]) -> list[int]:
    decoded = [i for i in rows if table[i].confidence is not None]
    return sorted(decoded, key=lambda i: (-(table[i].confidence or 0.0), table[i].path))


def _evenly(names: list[str], number: int) -> list[str]:
    if len(names) <= number:
        return names
    return [names[i * len(names) // number] for i in range(number)]


def _answers(
    run: RunFolder, split: str, places: list[int], sources: Sources, budget: int
) -> Answers:
    items = []
    for i in places:
        row = run.predictions[split][i]
        pictures: list[Picture | None] = []
        for made in (_picture(row, sources), _seen(run, row, sources)):
            fits = made is not None and len(made.source) <= budget
            budget -= len(made.source) if made is not None and fits else 0
            pictures.append(made if fits else None)
        source = pointer(f"predictions/{split}.csv", i, "confidence")
        number = share(row.confidence, source)
        items.append(Answer(row.path, row.label, row.predicted, number, *pictures))
    of_clips = run.inspected is not None and run.inspected.of_clips
    with_maps = any(item.seen for item in items)
    return Answers(split, items, "", with_maps, of_clips and with_maps)


def _picture(row: Prediction, sources: Sources) -> Picture | None:
    image = _image(sources.images, row.path)
    if row.correct:
        alt = f"{row.path}: a {row.label}"
    else:
        alt = f"{row.path}: a {row.label} taken for {row.predicted}"
    return None if image is None else thumbnail(image, alt)


def _seen(run: RunFolder, row: Prediction, sources: Sources) -> Picture | None:
    found = run.inspected
    heat = found.maps.get(row.path) if found is not None else None
    image = None if heat is None else _image(sources.views, row.path)
    if heat is None or image is None:
        return None
    return tinted(image, heat) if heat.ndim == 2 else tinted_strip(image, heat)


def _image(find: Images | None, path: str) -> Image.Image | None:
    try:
        return find(path) if find is not None else None
    except (OSError, ImageError):
        return None
