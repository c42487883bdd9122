"""Words of a task about a run: in its report, its card and in comparisons.

The defaults fit any task, from `Result.headline` and `Result.scalars`. A task with
figures, or with a table of answers, derives its own and returns it from
`Task.reporter`:

    class RegressionReporter(Reporter):
        subject = "A regressor of images"

        def sections(self, run, sources, budget):
            results, split = self.results_section(run), run.headline_split
            if split is None or not run.table(split).is_file():
                return [results]
            rows = read_rows(run.table(split))
            scatter = Figures([svg_picture(plot_scatter(rows))])
            results = replace(results, blocks=[*results.blocks, scatter])
            worst = [
                Answered(row.path, f"{row.true:g}", [f"{row.true:g} taken for ..."])
                for row in worst_rows(rows)
            ]
            gallery = build_gallery(run, worst, sources, budget.pictures)
            blocks = [Paragraph([maps_note(run)], "quiet"), gallery]
            return [results, Section(id="errors", title="Errors", blocks=blocks)]

        def select_examples(self, run):
            return [ExplainedExample(row.path) for row in worst_rows(...)]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from vitral.document import (
    Block,
    Gauge,
    PageBudget,
    Paragraph,
    PictureSources,
    Remark,
    RunFolder,
    Section,
    Text,
    Verdict,
    count,
    pointer,
    result_file,
)
from vitral.tasks.measures import Measure, format_headline, measures_table
from vitral.tasks.remarks import (
    fitted_remarks,
    optimistic_note,
    sample_size_remarks,
    split_noun,
    split_remarks,
)
from vitral.tasks.result import FEW_IMAGES, Result

NOT_MEASURED = (
    "This run has no measured result yet: predictions/ holds no .json file. "
    "Measure it with `vitral eval`."
)
NO_RESULT = (
    "predictions/ holds no result (.json), so there is nothing to show. Measure the "
    "run with `vitral eval`."
)


class ExplainedExample(NamedTuple):
    """An answer that a report shows with its map."""

    id: str
    """Id of the example."""
    output: int = 0
    """Index of the output that the map explains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScores:
    """Score of each image of a split, by which two runs are compared in pairs."""

    name: str
    """Name of the mean of the scores, such as `mean absolute error`."""
    paths: tuple[str, ...]
    truths: tuple[str, ...]
    """The right answer of each image, which must be the same in both runs."""
    values: np.ndarray
    """bool for right or wrong, or numbers."""
    higher_is_better: bool = True


class Reporter:
    """Writer of all parts of report and card that depend on the task."""

    subject: ClassVar[str] = "A model of images"
    """Description of the model, at the start of a card."""
    outputs_name: ClassVar[str] = "outputs"
    """Variable that the card's example code assigns the outputs to."""
    compared: ClassVar[str] = ""
    """Title of the column of headlines in a comparison; empty for their name."""

    # Main sentence

    def verdict(self, run: RunFolder[Result]) -> Verdict:
        """Return the main sentence about a run, and its remarks."""
        split = run.headline_split
        if split is None:
            return Verdict(None, [NOT_MEASURED], [])
        result = run.results[split]
        remarks = [
            *self.remarks(result, split),
            *split_remarks(split, run.selection_splits),
            *fitted_remarks(result),
        ]
        return Verdict(split, self.sentence(result, split), remarks)

    def sentence(self, result: Result, split: str) -> Text:
        """Return the result in one sentence: number, images and interval."""
        headline, file = result.headline(), result_file(split)
        number, limits = format_headline(headline, file)
        name = headline.name[:1].upper() + headline.name[1:]
        text: list[Any] = [
            f"{name}: ",
            number,
            " on ",
            count(result.n, pointer(file, "n")),
        ]
        text.append(f" {split_noun(split)}")
        return [*text, *([" (95 % interval ", *limits, ")"] if limits else []), "."]

    def remarks(self, result: Result, split: str) -> list[Remark]:
        """Return what a reader of the number must know."""
        return sample_size_remarks(result, split)

    def gauge(self, result: Result) -> Gauge | None:
        """Return the drawing under the main sentence; None for a task without one."""
        return None

    # Sections

    def sections(
        self, run: RunFolder[Result], sources: PictureSources, budget: PageBudget
    ) -> list[Section]:
        """Return the sections after Training, in order: results, then answers.

        Args:
            sources: functions that load the pictures of examples.
            budget: room in the page.

        Raises:
            ConfigError: a file of the run is damaged.
        """
        return [self.results_section(run)]

    def results_section(self, run: RunFolder[Result]) -> Section:
        """Return the section of numbers: each measure in every split."""
        if not run.results:
            return Section(
                id="results",
                title="Results",
                blocks=[Paragraph([NO_RESULT], "missing")],
            )
        blocks: list[Block] = [
            measures_table(run, self.measures),
            *optimistic_note(run),
        ]
        return Section(id="results", title="Results", blocks=blocks)

    def measures(self, result: Result) -> Sequence[Measure]:
        """Return the numbers of the results table: the headline, then the scalars.

        What the result has under another name in its JSON is left out.
        """
        headline = result.headline()
        kind: Literal["share", "number"] = "share" if headline.is_share else "number"
        others = [
            Measure(
                name,
                name.replace("_", " "),
                kind="count" if isinstance(value, int) else "number",
            )
            for name, value in result.scalars().items()
            if name not in ("n", "n_unreadable", headline.field)
            and hasattr(result, name)
        ]
        return [
            Measure("n", "Images", "undecodable ones included", "count"),
            Measure(headline.field, headline.name, kind=kind),
            *others,
        ]

    def select_examples(self, run: RunFolder[Result]) -> list[ExplainedExample]:
        """Return the answers of the headline split that need a map; none by default.

        Raises:
            ConfigError: the table of answers is damaged.
        """
        return []

    def image_scores(self, run: RunFolder[Result]) -> ImageScores | None:
        """Return the scores of the headline split; None without answers an image.

        Raises:
            ConfigError: the table of answers is damaged.
        """
        return None

    # Card

    def card_measures(self, result: Result) -> Sequence[Measure]:
        """Return the numbers of a card that are not None."""
        return [
            measure
            for measure in self.measures(result)
            if measure.kind != "count"
            and getattr(result, measure.field, None) is not None
        ]

    def card_outputs(self, run: RunFolder[Result]) -> tuple[str, list[str]]:
        """Return a word for the outputs and their names in order; none by default."""
        return "Outputs", []

    def limits(self, run: RunFolder[Result]) -> list[str]:
        """Return sentences on what the model cannot be used for."""
        lines = [
            "The numbers hold for images like those it was measured on: same cameras, "
            "same places."
        ]
        result = run.results.get(run.headline_split or "")
        if result is None:
            lines.append("It has not been measured.")
        elif result.n < FEW_IMAGES:
            lines.append(f"It was measured on {result.n} images only.")
        return lines
