"""Worst errors of a run and a few right answers, with their pictures.

The maps next to the pictures are computed for the answers of `select_examples` and read
from the run folder.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from vitral.errors import ImageError
from vitral.report.images import Picture, thumbnail, tint_filmstrip, tint_thumbnail
from vitral.report.load_run import RunFolder
from vitral.report.numbers import pointer, share
from vitral.tasks.classification import MultiLabel, Prediction

MOST_ERRORS = 24
MOST_RIGHT = 24
MOST_RIGHT_A_CLASS = 2
ImageLoader = Callable[[str], Image.Image | None]


@dataclass(frozen=True, slots=True)
class PictureSources:
    """Functions of an example's id that return a picture. None: no such function."""

    images: ImageLoader | None = None
    """The original image."""
    views: ImageLoader | None = None
    """The preprocessed image, which the map belongs to."""


@dataclass(frozen=True, slots=True)
class PredictionExamples:
    """Selected answers in a split, as the template takes them."""

    split: str
    items: list[dict[str, Any]]
    note: str
    """What is missing."""
    with_maps: bool = False
    has_frames: bool = False
    """True if the pictures are strips of frames, which show the input as well."""


def select_examples(run: RunFolder) -> list[Prediction]:
    """Return every answer that a report shows: the worst errors, then right answers."""
    table = run.predictions.get(run.headline_split or "", ())
    return [
        table[i]
        for i in [*_worst_indices(table), *_correct_indices(table, _classes(run))]
    ]


def worst_errors(
    run: RunFolder, sources: PictureSources, budget: int
) -> PredictionExamples | None:
    """Return the most confident wrong answers, with pictures up to `budget` characters.

    None: nothing was measured.
    """
    empty = "No decoded image was answered wrongly."
    return _build_examples(run, _worst_indices, sources, budget, empty=empty)


def correct_examples(
    run: RunFolder, sources: PictureSources, budget: int
) -> PredictionExamples | None:
    """Return the most confident right answers of each class; see `worst_errors`."""
    select = partial(_correct_indices, classes=_classes(run))
    empty = "No image was answered rightly."
    examples = _build_examples(run, select, sources, budget, empty=empty)
    if examples is None or not examples.items:
        return examples
    if not any(item["picture"] for item in examples.items):
        return PredictionExamples(examples.split, [], "No picture of them can be had.")
    return examples


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
    """Return the rows of wrong answers, the most confident first."""
    wrong = (i for i, row in enumerate(table) if not row.correct)
    return _sort_by_confidence(table, wrong)[:MOST_ERRORS]


def _correct_indices(table: Sequence[Prediction], classes: Sequence[str]) -> list[int]:
    """Return the rows of right answers by class; of many classes, an even selection."""
    rows: dict[str, list[int]] = {name: [] for name in classes}
    for i in _sort_by_confidence(
        table, (i for i, row in enumerate(table) if row.correct)
    ):
        rows.setdefault(table[i].label, []).append(i)
    selected: dict[str, list[int]] = {name: [] for name in rows}
    for rank in range(MOST_RIGHT_A_CLASS):
        left = MOST_RIGHT - sum(map(len, selected.values()))
        available = [name for name, indices in rows.items() if len(indices) > rank]
        for name in _pick_evenly(available, left):
            selected[name].append(rows[name][rank])
    return [i for indices in selected.values() for i in indices]


def _sort_by_confidence(table: Sequence[Prediction], rows: Iterable[int]) -> list[int]:
    decoded = [i for i in rows if table[i].confidence is not None]
    return sorted(decoded, key=lambda i: (-(table[i].confidence or 0.0), table[i].path))


def _pick_evenly(names: list[str], count: int) -> list[str]:
    if len(names) <= count:
        return names
    return [names[i * len(names) // count] for i in range(count)]


def _build_examples(
    run: RunFolder,
    select: Callable[[Sequence[Prediction]], list[int]],
    sources: PictureSources,
    budget: int,
    *,
    empty: str,
) -> PredictionExamples | None:
    split = run.headline_split
    if split is None:
        return None
    table = run.predictions.get(split)
    if table is None:
        return PredictionExamples(split, [], _missing_table_note(run, split))
    indices = select(table)
    if not indices:
        return PredictionExamples(split, [], empty)
    items = []
    for i in indices:
        row = table[i]
        pictures = {
            "picture": _picture(row, sources),
            "map_picture": _map_picture(run, row, sources),
        }
        for name, picture in pictures.items():
            if picture is not None and len(picture.source) <= budget:
                budget -= len(picture.source)
            else:
                pictures[name] = None
        source = pointer(f"predictions/{split}.csv", i, "confidence")
        confidence = share(row.confidence, source)
        answer = {"path": row.path, "true": row.label, "predicted": row.predicted}
        items.append({**answer, "confidence": confidence, **pictures})
    of_clips = run.inspection is not None and run.inspection.has_frames
    with_maps = any(item["map_picture"] for item in items)
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
    stored = run.inspection
    heat = stored.maps.get(row.path) if stored is not None else None
    image = None if heat is None else _load_image(sources.views, row.path)
    if heat is None or image is None:
        return None
    return (
        tint_thumbnail(image, heat) if heat.ndim == 2 else tint_filmstrip(image, heat)
    )


def _load_image(load: ImageLoader | None, path: str) -> Image.Image | None:
    try:
        return load(path) if load is not None else None
    except (OSError, ImageError):
        return None
