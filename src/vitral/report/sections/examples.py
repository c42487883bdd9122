"""Answers of a run with their pictures: the worst errors, and a few right ones.

Which answers those are is decided here alone: the maps beside the pictures are computed
for the same ones (`chosen`) and read from the run folder.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from PIL import Image

from vitral.errors import ImageError
from vitral.evaluation import MultiLabel, Prediction
from vitral.report.images import Picture, thumbnail, tint_filmstrip, tint_thumbnail
from vitral.report.load_run import RunFolder
from vitral.report.numbers import Number, pointer, share

MOST_ERRORS = 24
MOST_RIGHT = 24
MOST_RIGHT_A_CLASS = 2
ImageLoader = Callable[[str], Image.Image | None]


class PictureSources(NamedTuple):
    """From an example's id to a picture; None for a function that there is not."""

    images: ImageLoader | None = None
    """The image as it is."""
    views: ImageLoader | None = None
    """The image as it enters the model, which is what a map belongs to."""


class PredictionExample(NamedTuple):
    """One answer of the model."""

    path: str
    true: str
    predicted: str
    confidence: Number
    picture: Picture | None
    map_picture: Picture | None
    """The image under the map of what the model looks at."""


class PredictionExamples(NamedTuple):
    """Some answers in a split; `note` says what is missing."""

    split: str
    items: list[PredictionExample]
    note: str
    with_maps: bool
    has_frames: bool = False
    """Whether what is seen is a strip of frames, which shows the input as well."""


def select_examples(run: RunFolder) -> list[Prediction]:
    """Every answer that a report shows: the worst errors, then the right ones."""
    table = run.predictions.get(run.headline_split or "", ())
    return [
        table[i]
        for i in [*_worst_indices(table), *_correct_indices(table, _classes(run))]
    ]


def worst_errors(
    run: RunFolder, sources: PictureSources, budget: int
) -> PredictionExamples | None:
    """The most confident wrong answers, with pictures until `budget` characters."""
    split, table = run.headline_split, _table(run)
    if split is None:
        return None
    if table is None:
        return PredictionExamples(split, [], _missing_table_note(run, split), False)
    places = _worst_indices(table)
    if not places:
        return PredictionExamples(
            split, [], "No decoded image was answered wrongly.", False
        )
    return _build_examples(run, split, places, sources, budget)


def correct_examples(
    run: RunFolder, sources: PictureSources, budget: int
) -> PredictionExamples | None:
    """The most confident right answers of each class, with pictures as above."""
    split, table = run.headline_split, _table(run)
    if split is None:
        return None
    if table is None:
        return PredictionExamples(split, [], _missing_table_note(run, split), False)
    places = _correct_indices(table, _classes(run))
    if not places:
        return PredictionExamples(split, [], "No image was answered rightly.", False)
    found = _build_examples(run, split, places, sources, budget)
    if not any(item.picture for item in found.items):
        return PredictionExamples(split, [], "No picture of them can be had.", False)
    return found


def _table(run: RunFolder) -> tuple[Prediction, ...] | None:
    return run.predictions.get(run.headline_split or "")


def _missing_table_note(run: RunFolder, split: str) -> str:
    if isinstance(run.results[split], MultiLabel):
        return (
            "A run with several labels an image keeps no row per image, so no single "
            "answer can be shown."
        )
    return f"predictions/{split}.csv is missing."


def _classes(run: RunFolder) -> Sequence[str]:
    result = run.results.get(run.headline_split or "")
    return [row.name for row in result.per_class] if result is not None else []


def _worst_indices(table: Sequence[Prediction]) -> list[int]:
    """The rows of wrong answers, the most confident ones first."""
    wrong = (i for i, row in enumerate(table) if not row.correct)
    return _sort_by_confidence(table, wrong)[:MOST_ERRORS]


def _correct_indices(table: Sequence[Prediction], classes: Sequence[str]) -> list[int]:
    """Rows of right answers, class by class: evenly chosen where there are many."""
    rows: dict[str, list[int]] = {name: [] for name in classes}
    for i in _sort_by_confidence(
        table, (i for i, row in enumerate(table) if row.correct)
    ):
        rows.setdefault(table[i].label, []).append(i)
    taken: dict[str, list[int]] = {name: [] for name in rows}
    for place in range(MOST_RIGHT_A_CLASS):
        left = MOST_RIGHT - sum(map(len, taken.values()))
        having = [name for name, some in rows.items() if len(some) > place]
        for name in _pick_evenly(having, left):
            taken[name].append(rows[name][place])
    return [i for some in taken.values() for i in some]


def _sort_by_confidence(table: Sequence[Prediction], rows: Iterable[int]) -> list[int]:
    decoded = [i for i in rows if table[i].confidence is not None]
    return sorted(decoded, key=lambda i: (-(table[i].confidence or 0.0), table[i].path))


def _pick_evenly(names: list[str], number: int) -> list[str]:
    if len(names) <= number:
        return names
    return [names[i * len(names) // number] for i in range(number)]


def _build_examples(
    run: RunFolder, split: str, places: list[int], sources: PictureSources, budget: int
) -> PredictionExamples:
    items = []
    for i in places:
        row = run.predictions[split][i]
        pictures: list[Picture | None] = []
        for made in (_picture(row, sources), _map_picture(run, row, sources)):
            fits = made is not None and len(made.source) <= budget
            budget -= len(made.source) if made is not None and fits else 0
            pictures.append(made if fits else None)
        source = pointer(f"predictions/{split}.csv", i, "confidence")
        number = share(row.confidence, source)
        items.append(
            PredictionExample(row.path, row.label, row.predicted, number, *pictures)
        )
    of_clips = run.inspection is not None and run.inspection.has_frames
    with_maps = any(item.map_picture for item in items)
    return PredictionExamples(split, items, "", with_maps, of_clips and with_maps)


def _picture(row: Prediction, sources: PictureSources) -> Picture | None:
    image = _load_image(sources.images, row.path)
    if row.correct:
        alt = f"{row.path}: a {row.label}"
    else:
        alt = f"{row.path}: a {row.label} taken for {row.predicted}"
    return None if image is None else thumbnail(image, alt)


def _map_picture(
    run: RunFolder, row: Prediction, sources: PictureSources
) -> Picture | None:
    found = run.inspection
    heat = found.maps.get(row.path) if found is not None else None
    image = None if heat is None else _load_image(sources.views, row.path)
    if heat is None or image is None:
        return None
    return (
        tint_thumbnail(image, heat) if heat.ndim == 2 else tint_filmstrip(image, heat)
    )


def _load_image(find: ImageLoader | None, path: str) -> Image.Image | None:
    try:
        return find(path) if find is not None else None
    except (OSError, ImageError):
        return None
