"""Parts of report and card that depend on classes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from vitral.document import (
    Gauge,
    PageBudget,
    PictureSources,
    Remark,
    RunFolder,
    Section,
    Text,
    bar,
)
from vitral.tasks.classification.multi_label import MultiLabel
from vitral.tasks.classification.report.examples import (
    example_sections,
    explained_examples,
    read_answers,
)
from vitral.tasks.classification.report.results import (
    CARD_MEASURES,
    MEASURES,
    class_blocks,
)
from vitral.tasks.classification.report.verdict import (
    multi_label_sentence,
    single_label_remarks,
    single_label_sentence,
)
from vitral.tasks.classification.result import Classification
from vitral.tasks.measures import Measure
from vitral.tasks.reporter import ExplainedExample, ImageScores, Reporter
from vitral.tasks.result import Result


class ClassificationReporter(Reporter):
    """Writer about one class an image, or several."""

    subject: ClassVar[str] = "An image classifier"
    outputs_name: ClassVar[str] = "logits"
    compared: ClassVar[str] = "right"

    def sentence(self, result: Result, split: str) -> Text:
        if isinstance(result, MultiLabel):
            return multi_label_sentence(result, split)
        return single_label_sentence(_single_label(result), split)

    def remarks(self, result: Result, split: str) -> list[Remark]:
        remarks = super().remarks(result, split)
        if isinstance(result, MultiLabel):
            return remarks
        return single_label_remarks(_single_label(result), split, remarks)

    def gauge(self, result: Result) -> Gauge | None:
        if not isinstance(result, Classification):
            return None
        return Gauge(
            bar(result.top1_interval, result.top1),
            round(100 * result.majority, 1),
            "most frequent class",
        )

    def sections(
        self, run: RunFolder[Result], sources: PictureSources, budget: PageBudget
    ) -> list[Section]:
        results = self.results_section(run)
        split = run.headline_split
        if split is not None:
            blocks = class_blocks(run.results[split], split, budget.rows)
            results = replace(results, blocks=[*results.blocks, *blocks])
        return [results, *example_sections(run, sources, budget.pictures)]

    def measures(self, result: Result) -> Sequence[Measure]:
        return MEASURES

    def select_examples(self, run: RunFolder[Result]) -> list[ExplainedExample]:
        return explained_examples(run)

    def image_scores(self, run: RunFolder[Result]) -> ImageScores | None:
        result = run.results.get(run.headline_split or "")
        table = read_answers(run) if isinstance(result, Classification) else None
        if not table:
            return None
        return ImageScores(
            name="right",
            paths=tuple(row.path for row in table),
            truths=tuple(row.label for row in table),
            values=np.array([row.correct for row in table]),
        )

    def card_measures(self, result: Result) -> Sequence[Measure]:
        return [
            measure
            for measure in CARD_MEASURES[type(result)]
            if getattr(result, measure.field) is not None
        ]

    def card_outputs(self, run: RunFolder[Result]) -> tuple[str, list[str]]:
        return "Classes", [str(name) for name in (run.data or {}).get("classes") or []]

    def limits(self, run: RunFolder[Result]) -> list[str]:
        first, *others = super().limits(run)
        lines = [
            "It always answers one of its classes, for any image, also for one that "
            "shows none of them.",
            f"{first.removesuffix('.')}, same shares of the classes.",
            *others,
        ]
        result = run.results.get(run.headline_split or "")
        weak = _weak_classes(result) if isinstance(result, Classification) else []
        if weak:
            more = " and others" if len(weak) > 10 else ""
            lines.append(
                "For these classes it is not shown that it finds at least half of the "
                f"images: {', '.join(weak[:10])}{more}."
            )
        return lines


def _single_label(result: Result) -> Classification:
    assert isinstance(result, Classification)
    return result


def _weak_classes(result: Classification) -> list[str]:
    """Return the classes whose recall may be below a half."""
    return [
        row.name
        for row in result.per_class
        if row.recall is None or row.recall_interval.low < 0.5
    ]
