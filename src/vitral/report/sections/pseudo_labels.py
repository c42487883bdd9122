"""HTML page of a teacher's pseudo-labels: counts, confidence and images.

Like the report of a run it needs no network and no script.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from vitral import plots
from vitral.atomic_io import write_atomic
from vitral.document.images import svg_picture, thumbnail
from vitral.evaluation import wilson
from vitral.report.pages import render_page

PAGE = "report.html"
PNG = "overview.png"
IMAGES_PER_GROUP = 6
"""Images in each of the three groups of a class."""
MOST_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class PseudoLabelReport:
    """Content of the page; arrays have one value per image."""

    title: str
    teacher: str
    unlabelled: str
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    label: Int[np.ndarray, " images"]
    confidence: Float[np.ndarray, " images"]
    copies: Int[np.ndarray, " images"]
    """Copies in an epoch; 0 for an image that is not trained on."""
    threshold: float
    num_labelled: int
    labelled_copies: int
    left_out: Sequence[tuple[str, str]]
    truth: Int[np.ndarray, " images"] | None
    """True class, -1 if unknown. None: no class is known."""

    @property
    def used(self) -> Bool[np.ndarray, " images"]:
        return self.copies > 0


def write_pseudo_page(
    folder: Path, facts: PseudoLabelReport, image: Callable[[str], Image.Image | None]
) -> Path:
    """Write report.html and overview.png in `folder`, and return the page.

    Args:
        image: function of a path that returns the image, or None if it is unavailable.
    """
    plot = _plot(facts)
    write_atomic(folder / PNG, plots.to_png(plot.figure))
    html = render_page(
        "pseudo.html.j2",
        "report.css",
        "pseudo.css",
        title=facts.title,
        sentence=_sentence(facts),
        subtitle=[f"teacher {facts.teacher}", f"images {facts.unlabelled}"],
        remarks=_remarks(facts),
        plot=svg_picture(plot),
        rows=_rows(facts, image),
        omitted=max(0, len(facts.classes) - MOST_CLASSES),
        knows_truth=facts.truth is not None,
        left_out=facts.left_out[:20],
        num_left_out=len(facts.left_out),
    )
    write_atomic(folder / PAGE, html)
    return folder / PAGE


def _plot(facts: PseudoLabelReport) -> plots.Plot:
    count = len(facts.classes)
    is_known = facts.truth is not None and bool((facts.truth >= 0).all())
    return plots.pseudo_labels(
        facts.classes,
        np.bincount(facts.label, minlength=count),
        np.bincount(facts.label[facts.used], minlength=count),
        np.bincount(facts.label, facts.copies, count).astype(np.int64),
        confidence=facts.confidence,
        used=facts.used,
        threshold=facts.threshold,
        correct=facts.label == facts.truth if is_known else None,
    )


def _sentence(facts: PseudoLabelReport) -> str:
    used, count = int(facts.used.sum()), len(facts.paths)
    text = f"Of {count:,} unlabelled images {used:,} are learned from"
    if facts.truth is None:
        return f"{text}."
    judged = facts.used & (facts.truth >= 0)
    right = int((facts.label == facts.truth)[judged].sum())
    low, high = wilson(right, int(judged.sum()))
    share = right / max(1, int(judged.sum()))
    return (
        f"{text}; the teacher is right for {100 * share:.1f} % of those (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f} %)."
    )


def _remarks(facts: PseudoLabelReport) -> list[str]:
    sure = facts.confidence >= facts.threshold
    unsure = int((~sure).sum())
    over = int((sure & ~facts.used).sum())
    times = facts.labelled_copies
    pseudo, labelled = int(facts.copies.sum()), facts.num_labelled * times
    often = {1: "once", 2: "twice"}.get(times, f"{times} times")
    remarks = [
        f"{unsure:,} images are below the confidence of {facts.threshold:g}; {over:,} "
        "more are sure enough, but their class has surer ones.",
        f"An epoch shows {pseudo:,} pseudo-labelled images and {labelled:,} labelled "
        f"ones ({facts.num_labelled:,}, each {often}): "
        f"{pseudo / labelled:.2g} to 1.",
    ]
    none = [
        name
        for index, name in enumerate(facts.classes)
        if not facts.used[facts.label == index].any()
    ]
    if none:
        remarks.append(
            f"No image is kept of {', '.join(none[:8])}"
            f"{' and others' if len(none) > 8 else ''}: the student learns these "
            "classes from the labelled images alone."
        )
    if facts.truth is not None:
        judged = facts.truth >= 0
        remarks.append(
            f"The true classes of {int(judged.sum()):,} images are known to this page "
            "alone; nothing was trained with them."
        )
    return remarks


def _rows(
    facts: PseudoLabelReport, image: Callable[[str], Image.Image | None]
) -> list[dict[str, Any]]:
    rows = []
    for index, name in list(enumerate(facts.classes))[:MOST_CLASSES]:
        images = np.flatnonzero(facts.label == index)
        images = images[np.argsort(-facts.confidence[images], kind="stable")]
        used, unused = images[facts.used[images]], images[~facts.used[images]]
        # No image is in both of the first two groups.
        start = max(len(used) - IMAGES_PER_GROUP, min(IMAGES_PER_GROUP, len(used)))
        numbers = [f"{len(images):,} answered", f"{len(used):,} kept"]
        numbers.append(f"{int(facts.copies[images].sum()):,} in an epoch")
        groups = [
            {"name": title, "images": _group_images(facts, members, image)}
            for title, members in [
                ("kept, most sure", used[:IMAGES_PER_GROUP]),
                ("kept, least sure", used[start:]),
                ("left, the surest of them", unused[:IMAGES_PER_GROUP]),
            ]
        ]
        rows.append({"name": name, "numbers": numbers, "groups": groups})
    return rows


def _group_images(
    facts: PseudoLabelReport,
    rows: Int[np.ndarray, " shown"],
    image: Callable[[str], Image.Image | None],
) -> list[dict[str, Any]]:
    shown = []
    for row in rows:
        path, loaded = facts.paths[row], image(facts.paths[row])
        true = -1 if facts.truth is None else int(facts.truth[row])
        wrong = facts.classes[true] if true not in (-1, facts.label[row]) else ""
        picture = None
        if loaded is not None:
            alt = f"{path}, answered {facts.classes[facts.label[row]]}"
            picture = thumbnail(loaded, alt)
        confidence = f"{100 * facts.confidence[row]:.1f}{plots.style.PERCENT}"
        shown.append(
            {"picture": picture, "path": path, "confidence": confidence, "wrong": wrong}
        )
    return shown
