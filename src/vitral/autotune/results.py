"""Write the results of a sweep: tables, figure and cautions."""

from pathlib import Path

import numpy as np

from vitral import plots
from vitral.atomic_io import make_folder, write_atomic, write_json
from vitral.autotune.measurement import Point, as_csv, as_markdown, frontier
from vitral.autotune.plan import SweepPlan
from vitral.autotune.sweep import SweepResult
from vitral.plots.operating_points import OperatingPoint, operating_points

UNSTEADY_RATIO = 1.3
"""Ratio of the baseline's slowest to fastest time above which milliseconds mislead."""


def write_points(
    out: Path, result: SweepResult, plan: SweepPlan, chosen: Point | None = None
) -> Path:
    """Write points.json into `out`: all points, and why others were left out."""
    make_folder(out)
    file = out / "points.json"
    write_json(
        file,
        {
            "split": plan.split,
            "views": result.views,
            "points": [point.row() for point in result.points],
            "chosen": None if chosen is None else chosen.row(),
            "left_out": result.left_out,
        },
    )
    return file


def write_results(
    out: Path,
    result: SweepResult,
    chosen: Point | None,
    plan: SweepPlan,
    max_drop: float | None = None,
) -> list[Path]:
    """Write points.json, points.csv, points.md and points.png into `out`.

    Args:
        max_drop: bound of the choice, for the figure.
    """
    make_folder(out)
    files = [out / f"points.{suffix}" for suffix in ("csv", "md", "png")]
    write_atomic(files[0], as_csv(result.points))
    cautions = [f"- {line}\n" for line in caution_lines(result, chosen, plan)]
    left_out = [f"- left out: {name}: {why}\n" for name, why in result.left_out.items()]
    table = as_markdown(result.points, chosen)
    write_atomic(files[1], f"{table}\n{''.join(cautions + left_out)}")
    write_atomic(
        files[2], plots.to_png(make_figure(result, chosen, plan, max_drop).figure)
    )
    return [write_points(out, result, plan, chosen), *files]


def caution_lines(
    result: SweepResult, chosen: Point | None, plan: SweepPlan
) -> list[str]:
    """Return sentences on the limits of the numbers."""
    count = result.points[0].images
    views = {
        "one": "once",
        "flip": "as they are and mirrored",
        "dihedral": "turned and mirrored",
    }
    lines = [
        f"Accuracy is of {count:,} images of {plan.split}, looked at "
        f"{views[result.views]}, the same for every way. The point is chosen on them, "
        "so its accuracy is a little flattered: measure it once on images that were "
        "not looked at.",
        "Milliseconds are of this machine while it did what else it did, all views of "
        "an image together; the speed-up is the median ratio of passes in turns with "
        "the first way.",
    ]
    baseline_ms = [point.first_ms for point in result.points]
    low, high = min(baseline_ms), max(baseline_ms)
    if high > UNSTEADY_RATIO * low:
        lines.append(
            f"The machine was busy: the first way took {low:.2f} ms beside one "
            f"way and {high:.2f} beside another. Compare speed-ups, not "
            "milliseconds, and sweep again when nothing else runs."
        )
    if chosen is not None and chosen is not result.points[0]:
        lines.append(
            f"{count:,} images leave open whether the chosen way loses "
            f"{chosen.drop_interval[0]:+.2f} or {chosen.drop_interval[1]:+.2f} points "
            "(95 %; below zero is a gain): more `--images` narrow it."
        )
    if plan.split == "test":
        lines.append(
            "The split is test: after this choice it is no unseen data any more."
        )
    return lines


def make_figure(
    result: SweepResult,
    chosen: Point | None,
    plan: SweepPlan,
    max_drop: float | None = None,
) -> plots.Plot:
    """Plot accuracy over milliseconds, with labels at the Pareto-optimal points.

    Only the speed-ups are comparable, so the milliseconds are the baseline's median
    divided by them.
    """
    best = frontier(result.points)
    median_ms = float(np.median([point.first_ms for point in result.points]))
    groups: dict[str, list[OperatingPoint]] = {}
    for point in result.points:
        candidate = point.candidate
        name = str(candidate).split(",")[0]
        label = _label(point, result) if point is chosen or point in best else ""
        groups.setdefault(name, []).append(
            OperatingPoint(
                median_ms / point.speedup,
                point.accuracy,
                label,
                point is chosen,
                candidate.merge > 0,
            )
        )
    count, bound = result.points[0].images, None
    note = f"by speed-up, the first way at {median_ms:.3g} ms; {count:,} images"
    if any(point.candidate.merge for point in result.points):
        note += "; open marks merge"
    if max_drop is not None:
        note += f"; dashed: {max_drop:g} points less"
        bound = result.points[0].accuracy - max_drop / 100
    return operating_points(groups, note=note, bound=bound)


def _label(point: Point, result: SweepResult) -> str:
    candidate = point.candidate
    parts = [f"merge {candidate.merge}"] if candidate.merge else []
    schedules = {p.candidate.merge_schedule for p in result.points if p.candidate.merge}
    if candidate.merge and len(schedules) > 1:
        parts[0] += f" {candidate.merge_schedule}"
    if candidate.image_size != result.run_size:
        parts.append(f"{candidate.image_size[0]} px")
    return ", ".join([*parts, f"batch {candidate.batch}"])
