"""Remarks on how far a number can be trusted: few images, or those trained on."""

from vitral.document import (
    Paragraph,
    Remark,
    RunFolder,
    Text,
    count,
    pointer,
    result_file,
)
from vitral.tasks.result import FEW_IMAGES, Result


def split_noun(split: str) -> str:
    """Return `test images`, or `validation images` for val."""
    return {"train": "training", "val": "validation"}.get(split, split) + " images"


def sample_size_remarks(result: Result, split: str) -> list[Remark]:
    """Return remarks on few images and on those that could not be decoded."""
    remarks: list[Remark] = []
    if result.n < FEW_IMAGES:
        remarks.append(
            Remark(
                "warning",
                [
                    "Only ",
                    count(result.n, pointer(result_file(split), "n")),
                    f" {split_noun(split)} were measured: read the interval, not the "
                    "single number.",
                ],
            )
        )
    number = result.n_unreadable
    if number:
        text: Text = [
            count(number, pointer(result_file(split), "n_unreadable")),
            f" of the {split_noun(split)} could not be decoded and "
            f"{'counts' if number == 1 else 'count'} as wrong.",
        ]
        remarks.append(Remark("plain", text))
    return remarks


def fitted_remarks(result: Result) -> list[Remark]:
    """Return a remark for each thing that was fitted on val."""
    return [
        Remark("plain", [f"{line[:1].upper()}{line[1:]}."])
        for line in result.fitted_lines()
    ]


def split_remarks(split: str, selection_splits: set[str]) -> list[Remark]:
    """Return why a split is no honest measurement; none for one that is.

    Args:
        selection_splits: splits that chose the model.
    """
    if split == "train":
        text = (
            "The model was trained on these very images: this is not an estimate for "
            "new images."
        )
    elif split in selection_splits:
        text = (
            f"The {split_noun(split)} were also used to choose the model, so the "
            "number is optimistic. Keep a test split apart for an honest one."
        )
    else:
        return []
    return [Remark("warning", [text])]


def optimistic_note(run: RunFolder[Result]) -> list[Paragraph]:
    """Return a note on the splits that chose the model; none without them."""
    splits = [split for split in run.results if split in run.selection_splits]
    if not splits:
        return []
    text = (
        f"{', '.join(splits)} was used to choose the model, so its numbers are "
        "optimistic."
    )
    return [Paragraph([text], "remark")]
