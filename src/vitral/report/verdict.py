"""Main sentence and remarks about the result of a run.

The main sentence has the number of images, an interval, and the share that always
answering the most frequent class would reach. The remarks name its weaknesses.
"""

from dataclasses import dataclass

from vitral.report.load_run import RunFolder, result_file
from vitral.report.numbers import Text, count, interval, pointer, share
from vitral.report.sections import representation_sentence
from vitral.tasks.classification import Classification, MultiLabel

FEW_IMAGES = 100
FEW_IMAGES_A_CLASS = 10
WIDE_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence after the main one; `tone` is good, plain or warning."""

    tone: str
    text: Text


@dataclass(frozen=True, slots=True)
class Verdict:
    """The main sentence of a run, and its remarks."""

    split: str | None
    text: Text
    remarks: list[Remark]


def verdict(run: RunFolder) -> Verdict:
    """Return the main sentence about a run, and its remarks."""
    split = run.headline_split
    if split is None and run.representation is not None:
        return Verdict(None, representation_sentence(run), [])
    if split is None:
        text = [
            "This run has no measured result yet: predictions/ holds no .json file. "
            "Measure it with `vitral eval`."
        ]
        return Verdict(None, text, [])
    result = run.results[split]
    sentence, remarks = (
        _multi_label_verdict(result, split)
        if isinstance(result, MultiLabel)
        else _single_label_verdict(result, split)
    )
    return Verdict(split, sentence, remarks + _split_remarks(run, split))


def _split_noun(split: str) -> str:
    return {"train": "training", "val": "validation"}.get(split, split) + " images"


def _single_label_verdict(
    result: Classification, split: str
) -> tuple[Text, list[Remark]]:
    file = result_file(split)
    text: Text = [
        share(result.top1, pointer(file, "top1")),
        " of ",
        count(result.n, pointer(file, "n")),
        f" {_split_noun(split)} are right (95 % interval ",
        *interval(result.top1_interval, pointer(file, "top1_interval")),
        "); always answering the most frequent class would be right for ",
        share(result.majority, pointer(file, "majority")),
        ".",
    ]
    remarks = [_baseline_remark(result)]
    remarks += _sample_size_remarks(result.n, result.n_unreadable, split)
    low, high = result.top1_interval
    if result.n >= FEW_IMAGES and high - low > WIDE_INTERVAL:
        remarks.append(
            Remark("warning", ["The interval is wide: read it, not the single number."])
        )
    supports = [row.support for row in result.per_class]
    if result.n >= FEW_IMAGES and min(supports) < FEW_IMAGES_A_CLASS:
        remarks.append(
            Remark(
                "plain",
                [
                    f"Some classes have fewer than {FEW_IMAGES_A_CLASS} "
                    f"{_split_noun(split)}; their own numbers say little."
                ],
            )
        )
    return text, remarks


def _baseline_remark(result: Classification) -> Remark:
    name = result.majority_class
    if result.top1_interval.contains(result.majority):
        return Remark(
            "warning",
            [
                "The interval contains that baseline: on these images the model cannot "
                f"be told apart from always answering “{name}”."
            ],
        )
    if result.top1 < result.majority:
        return Remark(
            "warning",
            [f"The model is worse than always answering “{name}”."],
        )
    return Remark(
        "good",
        [f"The whole interval lies above that baseline (always answering “{name}”)."],
    )


def _multi_label_verdict(result: MultiLabel, split: str) -> tuple[Text, list[Remark]]:
    file = result_file(split)
    text: Text = [
        "The mean average precision is ",
        share(result.mean_average_precision, pointer(file, "mean_average_precision")),
        "; every label is right for ",
        share(result.exact_match, pointer(file, "exact_match")),
        " of ",
        count(result.n, pointer(file, "n")),
        f" {_split_noun(split)} (95 % interval ",
        *interval(result.exact_match_interval, pointer(file, "exact_match_interval")),
        ").",
    ]
    return text, _sample_size_remarks(result.n, result.n_unreadable, split)


def _sample_size_remarks(n: int, n_unreadable: int, split: str) -> list[Remark]:
    remarks = []
    if n < FEW_IMAGES:
        remarks.append(
            Remark(
                "warning",
                [
                    "Only ",
                    count(n, pointer(result_file(split), "n")),
                    f" {_split_noun(split)} were measured: read the interval, not the "
                    "single number.",
                ],
            )
        )
    if n_unreadable:
        text: Text = [
            count(n_unreadable, pointer(result_file(split), "n_unreadable")),
            f" of the {_split_noun(split)} could not be decoded and "
            f"{'counts' if n_unreadable == 1 else 'count'} as wrong.",
        ]
        remarks.append(Remark("plain", text))
    return remarks


def _split_remarks(run: RunFolder, split: str) -> list[Remark]:
    if split == "train":
        text = (
            "The model was trained on these very images: this is not an estimate for "
            "new images."
        )
    elif split in run.selection_splits:
        text = (
            f"The {_split_noun(split)} were also used to choose the model, so the "
            "number is optimistic. Keep a test split apart for an honest one."
        )
    else:
        return []
    return [Remark("warning", [text])]
