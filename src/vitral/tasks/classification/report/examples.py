"""Sections of single answers: the worst errors of a run and a few right answers.

The maps next to the pictures are computed for `explained_examples` and read from the
run folder.
"""

from collections.abc import Iterable, Sequence

from vitral.document import (
    Answered,
    Block,
    Gallery,
    Paragraph,
    PictureSources,
    RunFolder,
    Section,
    Strong,
    Text,
    build_gallery,
    maps_note,
    pointer,
    share,
)
from vitral.errors import ConfigError
from vitral.tasks.classification.multi_label import MultiLabel
from vitral.tasks.classification.predictions import Prediction, read_predictions
from vitral.tasks.classification.result import Classification
from vitral.tasks.reporter import ExplainedExample
from vitral.tasks.result import Result

MOST_ERRORS = 24
MOST_RIGHT = 24
MOST_RIGHT_A_CLASS = 2


def select_answers(run: RunFolder[Result]) -> list[Prediction]:
    """Return every answer that a report shows: the worst errors, then right answers."""
    table = read_answers(run) or ()
    return [
        table[i]
        for i in [*_worst_indices(table), *_correct_indices(table, _classes(run))]
    ]


def explained_examples(run: RunFolder[Result]) -> list[ExplainedExample]:
    """Return the examples of `select_answers` with the index of their answer.

    Raises:
        ConfigError: an answer is no class of the result.
    """
    index = {name: i for i, name in enumerate(_classes(run))}
    rows = select_answers(run)
    for row in rows:
        if row.predicted not in index:
            raise ConfigError(
                f"{run.table(run.headline_split or '')}: the answer {row.predicted!r} "
                "is no class of the result beside it. Write both again with `vitral "
                "eval`."
            )
    return [ExplainedExample(row.path, index[row.predicted]) for row in rows]


def example_sections(
    run: RunFolder[Result], sources: PictureSources, budget: int
) -> list[Section]:
    """Return the most confident errors, and the most confident right answers.

    Args:
        budget: characters of photographs.
    """
    split = run.headline_split
    if split is None:
        errors: list[Block] = [_missing("Nothing was measured, so no error is known.")]
        right: list[Block] = [
            _missing("Nothing was measured, so no right answer is known.")
        ]
    else:
        errors, right = _example_blocks(run, split, sources, budget)
    return [
        Section(id="errors", title="Errors", heading="Worst errors", blocks=errors),
        Section(id="right", title="Right answers", blocks=right),
    ]


def _example_blocks(
    run: RunFolder[Result], split: str, sources: PictureSources, budget: int
) -> tuple[list[Block], list[Block]]:
    table = read_answers(run)
    if table is None:
        note = _missing(_missing_table_note(run, split))
        return [note], [note]
    for_errors = budget * 9 // 16
    worst = _gallery(run, table, _worst_indices(table), sources, for_errors)
    right = _gallery(
        run,
        table,
        _correct_indices(table, _classes(run)),
        sources,
        budget - for_errors,
    )
    return _error_blocks(run, split, worst), _right_blocks(
        run, split, right, noted=worst.with_maps
    )


def _error_blocks(run: RunFolder[Result], split: str, gallery: Gallery) -> list[Block]:
    if not gallery.items:
        return [_missing("No decoded image was answered wrongly.")]
    text = (
        f"The wrong answers that the model was most confident of ({split}); the "
        "percentage is its confidence."
    )
    return [_lead(run, text, with_note=gallery.with_maps), gallery]


def _right_blocks(
    run: RunFolder[Result], split: str, gallery: Gallery, *, noted: bool
) -> list[Block]:
    """Return text and pictures.

    Args:
        noted: True if the maps were described before.
    """
    if not gallery.items:
        return [_missing("No image was answered rightly.")]
    if not gallery.with_pictures:
        text = (
            "The pictures cannot be read from here: run `vitral report` in the folder "
            "where the run was started."
        )
        return [_missing(text)]
    text = (
        "The right answers that the model was most confident of, a few of each class "
        f"({split})."
    )
    return [_lead(run, text, with_note=gallery.with_maps and not noted), gallery]


def _lead(run: RunFolder[Result], text: str, *, with_note: bool) -> Paragraph:
    return Paragraph([f"{text} {maps_note(run)}" if with_note else text], "quiet")


def _missing(text: str) -> Paragraph:
    return Paragraph([text], "missing")


def _missing_table_note(run: RunFolder[Result], split: str) -> str:
    if isinstance(run.results[split], MultiLabel):
        return (
            "A run with several labels an image keeps no row per image, so no single "
            "answer can be shown."
        )
    return f"predictions/{split}.csv is missing."


def read_answers(run: RunFolder[Result]) -> tuple[Prediction, ...] | None:
    """Return the answers of the headline split; None without a table."""
    file = run.table(run.headline_split or "")
    return read_predictions(file) if file.is_file() else None


def _classes(run: RunFolder[Result]) -> Sequence[str]:
    result = run.results.get(run.headline_split or "")
    if not isinstance(result, Classification | MultiLabel):
        return []
    return [row.name for row in result.per_class]


def _gallery(
    run: RunFolder[Result],
    table: Sequence[Prediction],
    indices: Sequence[int],
    sources: PictureSources,
    budget: int,
) -> Gallery:
    file = f"predictions/{run.headline_split}.csv"
    answers = [_named_answer(table[i], pointer(file, i, "confidence")) for i in indices]
    return build_gallery(run, answers, sources, budget)


def _named_answer(row: Prediction, source: str) -> Answered:
    taken = row.predicted != row.label
    answer: Text = [" taken for ", Strong(row.predicted)] if taken else []
    caption = [Strong(row.label), *answer, ", ", share(row.confidence, source)]
    alt = (
        f"a {row.label}" if row.correct else f"a {row.label} taken for {row.predicted}"
    )
    return Answered(row.path, alt, caption)


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
