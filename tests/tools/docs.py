"""Print into the docs what the code knows: the floors, and a drawing of the rooms.

    python tests/tools/docs.py

Writes the table of tests/test_floors.py into docs/extending.md, and the drawing of the
imports to docs/images/rooms.png. `make docs` calls it.
"""

import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from test_floors import FLOOR, FLOORS, SOURCE, imports, known  # noqa: E402

BEGIN, END = "<!-- floors: make docs -->", "<!-- end of floors -->"
ROW, WIDTH, HEIGHT = 1.62, 2.9, 1.1
INK, QUIET, FILL = "#1d2327", "#8a949b", "#eef2f4"


def floors_table() -> str:
    """Return the floors as a table in Markdown, the ground first."""
    rows = [
        f"| {floor} | {', '.join(f'`{room}`' for room in rooms)} | {knows} |"
        for floor, (rooms, knows) in enumerate(FLOORS)
    ]
    return "\n".join(["| floor | rooms | knows |", "|---|---|---|", *rows])


def write_table(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{floors_table()}\n\n{END}{after}", "utf-8")


def count_imports() -> dict[tuple[str, str], int]:
    """Count the imports from one room to another."""
    there, counts = known(SOURCE), defaultdict(int)
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        if parts[0] not in FLOOR:
            continue
        package = ".".join(("vitral", *parts[:-1]))
        for item in imports(file.read_text(encoding="utf-8"), package, there):
            other = item.name.split(".")[1]
            if other in FLOOR and other != parts[0]:
                counts[parts[0], other] += 1
    return counts


def count_lines(room: str) -> tuple[int, list[str]]:
    """Count the lines of a room, and list its wings."""
    folder = SOURCE / room
    files = list(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]
    wings = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (path / "__init__.py").is_file()
    )
    lines = sum(len(file.read_text("utf-8").splitlines()) for file in files)
    return lines, wings


def place_rooms() -> dict[str, tuple[float, float]]:
    """Return the centre of each room: one row a floor, the ground at the bottom."""
    centres = {}
    for floor, (rooms, _) in enumerate(FLOORS):
        for index, room in enumerate(rooms):
            x = (index - (len(rooms) - 1) / 2) * (WIDTH + 0.75)
            centres[room] = (x, floor * ROW)
    return centres


def draw_room(axes: Axes, room: str, centre: tuple[float, float]) -> None:
    x, y = centre
    lines, wings = count_lines(room)
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=FILL,
            edgecolor=INK,
            linewidth=0.8,
            zorder=3,
        )
    )
    axes.text(x, y + 0.28, room, ha="center", va="center", weight="bold", zorder=4)
    text = f"{lines:,} lines"
    if wings:
        half = -(-len(wings) // 2)
        parts = [wings] if len(wings) < 4 else [wings[:half], wings[half:]]
        text += "\n" + "\n".join(" · ".join(part) for part in parts)
    axes.text(
        x, y - 0.14, text, ha="center", va="center", size=5.6, color=INK, zorder=4
    )


def draw(file: Path) -> None:
    """Draw the rooms on their floors, with an arrow from each room to what it imports.

    The width of an arrow grows with the number of imports; to the ground none is drawn.
    """
    mpl.rcParams["font.size"] = 8
    figure = Figure(figsize=(8, 11.5), layout="constrained")
    axes = figure.subplots()
    centres = place_rooms()
    for (room, other), count in sorted(count_imports().items()):
        if FLOOR[other] < 2:
            continue
        (x0, y0), (x1, y1) = centres[room], centres[other]
        bend = (
            0.0 if FLOOR[room] - FLOOR[other] == 1 else 0.18 * (1 if x0 >= x1 else -1)
        )
        axes.add_patch(
            FancyArrowPatch(
                (x0, y0 - HEIGHT / 2),
                (x1, y1 + HEIGHT / 2),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=6,
                linewidth=0.3 + min(count, 40) / 25,
                color=QUIET,
                alpha=0.55,
                zorder=1,
            )
        )
    for room, centre in centres.items():
        draw_room(axes, room, centre)
    axes.set_xlim(-5.8, 5.8)
    axes.set_ylim(-0.8, (len(FLOORS) - 1) * ROW + 0.8)
    axes.set_axis_off()
    figure.savefig(file, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    write_table(ROOT / "docs" / "extending.md")
    draw(ROOT / "docs" / "images" / "rooms.png")
