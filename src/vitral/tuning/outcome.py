"""A sweep on disk: table, figure, and the words that say what the numbers are."""

from pathlib import Path

from vitral import plots
from vitral.files import write_atomic, write_json
from vitral.plots.operating import Measured, operating_points
from vitral.tuning.points import Point, as_csv, as_markdown, frontier
from vitral.tuning.sweep import Plan, Swept


def write(out: Path, swept: Swept, chosen: Point | None, plan: Plan) -> list[Path]:
    """points.json, points.csv, points.md and points.png in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"points.{kind}" for kind in ("json", "csv", "md", "png")]
    write_json(
        files[0],
        {
            "split": plan.split,
            "points": [point.row() for point in swept.points],
            "chosen": None if chosen is None else chosen.row(),
            "left_out": swept.left_out,
        },
    )
    write_atomic(files[1], as_csv(swept.points))
    words = "\n".join(caution(swept, plan))
    write_atomic(files[2], f"{as_markdown(swept.points, chosen)}\n{words}\n")
    write_atomic(files[3], plots.to_png(figure(swept, chosen, plan).figure))
    return files


def caution(swept: Swept, plan: Plan) -> list[str]:
    """What the numbers are of, and what they are not."""
    count = swept.points[0].images
    lines = [
        f"Accuracy is of {count:,} images of {plan.split}, the same for every way. "
        f"The point is chosen on them, so its accuracy is a little flattered: measure "
        "it once on images that were not looked at.",
        "Milliseconds are of this machine while it did what else it did; the speed-up "
        "is a ratio of passes in turns with the first way.",
    ]
    if plan.split == "test":
        lines.append(
            "The split is test: after this choice it is no unseen data any more."
        )
    if swept.left_out:
        lines.append(f"{len(swept.left_out)} ways were left out; see points.json.")
    return lines


def figure(swept: Swept, chosen: Point | None, plan: Plan) -> plots.Plot:
    """Accuracy over milliseconds; names stand at the points that none beats."""
    best = frontier(swept.points)
    groups: dict[str, list[Measured]] = {}
    for point in swept.points:
        one = point.candidate
        name = str(one).split(",")[0]
        label = f"merge {one.merge}, batch {one.batch}"
        if one.image_size != swept.own_size:
            label = f"{one.image_size[0]} px, {label}"
        shown = label if point is chosen or point in best else ""
        groups.setdefault(name, []).append(
            Measured(point.ms, point.accuracy, shown, point is chosen)
        )
    count = swept.points[0].images
    return operating_points(
        groups, note=f"accuracy of {count:,} images of {plan.split}"
    )
