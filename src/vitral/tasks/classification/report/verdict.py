"""Main sentence and remarks about classes.

The main sentence has the number of images, an interval, and the share that always
answering the most frequent class would reach. The remarks name its weaknesses.
"""

from vitral.document import (
    Remark,
    Text,
    count,
    interval,
    pointer,
    result_file,
    share,
)
from vitral.tasks.classification.multi_label import MultiLabel
from vitral.tasks.classification.result import Classification
from vitral.tasks.remarks import split_noun
from vitral.tasks.result import FEW_IMAGES

FEW_IMAGES_A_CLASS = 10
WIDE_INTERVAL = 0.1


def single_label_sentence(result: Classification, split: str) -> Text:
    """Return the accuracy beside that of the most frequent class."""
    file = result_file(split)
    return [
        share(result.top1, pointer(file, "top1")),
        " of ",
        count(result.n, pointer(file, "n")),
        f" {split_noun(split)} are right (95 % interval ",
        *interval(result.top1_interval, pointer(file, "top1_interval")),
        "); always answering the most frequent class would be right for ",
        share(result.majority, pointer(file, "majority")),
        ".",
    ]


def multi_label_sentence(result: MultiLabel, split: str) -> Text:
    """Return the mean average precision and the exact matches."""
    file = result_file(split)
    return [
        "The mean average precision is ",
        share(result.mean_average_precision, pointer(file, "mean_average_precision")),
        "; every label is right for ",
        share(result.exact_match, pointer(file, "exact_match")),
        " of ",
        count(result.n, pointer(file, "n")),
        f" {split_noun(split)} (95 % interval ",
        *interval(result.exact_match_interval, pointer(file, "exact_match_interval")),
        ").",
    ]


def single_label_remarks(
    result: Classification, split: str, about_size: list[Remark]
) -> list[Remark]:
    """Return remarks on baseline, sample size, interval and classes.

    Args:
        about_size: those on the number of images.
    """
    remarks = [_baseline_remark(result), *about_size]
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
                    f"{split_noun(split)}; their own numbers say little."
                ],
            )
        )
    return remarks


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
