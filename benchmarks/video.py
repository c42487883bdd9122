"""What each of TimeSformer's five schemes costs, over frames and over resolution.

    OMP_NUM_THREADS=1 python benchmarks/video.py --out video.jsonl
    python benchmarks/video.py --draw video.jsonl --to docs/images

A clip, float32, random weights; a forward pass without gradients, and a training step:
forward, softmax loss, backward. Multiply-accumulates are counted exactly. Memory is
the most that the process ever held in that step less what it held before (Linux's
VmHWM and VmRSS), each in a process of its own that did a tiny step first. Time is the
median of rounds, all schemes in turns in one process; CPU time, so that other work on
the machine stretches it little. Rounds end early where they take long. Rows that the
file has already are not measured again.

torch's fused attention never keeps the matrix of attention weights, which the paper's
code did. Both ways are measured for `joint` and `divided`: `fused`, which is the
default, and `matrices`, torch's plain kernel.
"""

import argparse
import ctypes
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import vitral as vt
from vitral import plots
from vitral.models import AttentionType, VisionModel, get_config
from vitral.plots.cost_curves import CostCurve, CostPanel

SCHEMES: tuple[AttentionType, ...] = get_args(AttentionType)
FRAMES, SIZES = (2, 4, 8, 16, 32), (112, 160, 224, 320)
OWN_FRAMES, OWN_SIZE = 8, 224
KEPT_UP_TO = 16
"""Frames; beyond, the matrices of `joint` take more memory than a small machine has."""
KERNELS = {
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "matrices": [SDPBackend.MATH],
}
MODES = ("forward", "training")
ENOUGH = 15.0
"""CPU seconds of one input, after which no further round begins."""


class Cell(NamedTuple):
    """What is measured."""

    model: str
    attention_type: AttentionType
    kernel: str
    mode: str
    frames: int
    size: int


def step_of(cell: Cell, model: VisionModel, clip: Tensor) -> Callable[[], None]:
    """A forward pass or a training step that leaves no gradient behind."""

    def forward() -> None:
        with sdpa_kernel(KERNELS[cell.kernel]), torch.no_grad():
            model(clip)

    def training() -> None:
        with sdpa_kernel(KERNELS[cell.kernel]):
            target = torch.zeros(len(clip), dtype=torch.int64)
            torch.nn.functional.cross_entropy(model(clip), target).backward()
        model.zero_grad()

    return forward if cell.mode == "forward" else training


def model_of(cell: Cell) -> VisionModel:
    torch.manual_seed(0)
    changes = {
        "attention_type": cell.attention_type,
        "num_frames": cell.frames,
        "num_classes": 400,
    }
    model = vt.create(cell.model, image_size=cell.size, **changes)
    return model.train(cell.mode == "training")


def clip_of(cell: Cell) -> Tensor:
    return torch.randn(1, cell.frames, 3, cell.size, cell.size)


def held(what: str) -> float:
    """MiB that this process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(what))
    return int(line.split()[1]) / 1024


def memory(cell: Cell) -> float:
    """MiB above what weights and clip take, in the first full step of a process."""
    torch.set_num_threads(1)
    model, clip = model_of(cell), clip_of(cell)
    step_of(cell, model, torch.randn(1, 2, 3, 32, 32))()
    ctypes.CDLL(None).malloc_trim(0)  # else what the tiny step freed would be reused
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back
    before = held("VmRSS")
    step_of(cell, model, clip)()
    return held("VmHWM") - before


def seconds(cells: list[Cell], rounds: int) -> dict[Cell, float]:
    """Medians of CPU time; the order of the cells turns from round to round."""
    runs = {cell: step_of(cell, model_of(cell), clip_of(cell)) for cell in cells}
    found: dict[Cell, list[float]] = {cell: [] for cell in cells}
    begun = time.process_time()
    for turn in range(rounds):
        if turn and time.process_time() - begun > ENOUGH:
            break
        at = turn % len(cells)
        for cell in cells[at:] + cells[:at]:
            started = time.process_time()
            runs[cell]()
            found[cell].append(time.process_time() - started)
    return {cell: statistics.median(times) for cell, times in found.items()}


def cells_of(model: str, frames: int, size: int, mode: str) -> list[Cell]:
    cells = [Cell(model, one, "fused", mode, frames, size) for one in SCHEMES]
    if frames <= KEPT_UP_TO:
        kept: tuple[AttentionType, ...] = ("joint", "divided")
        cells += [Cell(model, one, "matrices", mode, frames, size) for one in kept]
    return cells


def measured(model: str, rounds: int, known: set[Cell]) -> Iterator[dict[str, Any]]:
    """A row a cell, the cheap ones first; none for an input whose cells are known."""
    inputs = [(frames, OWN_SIZE) for frames in FRAMES]
    inputs += [(OWN_FRAMES, size) for size in SIZES if size != OWN_SIZE]
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["torch", "vitral.plots"])
    # One process a cell: memory that a process once had, it keeps.
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        for frames, size in sorted(inputs, key=lambda one: one[0] * one[1] ** 2):
            for mode in MODES:
                cells = cells_of(model, frames, size, mode)
                if known.issuperset(cells):
                    continue
                mebibytes = list(pool.map(memory, cells))
                times = seconds(cells, rounds)
                for cell, mib in zip(cells, mebibytes, strict=True):
                    changes = {
                        "attention_type": cell.attention_type,
                        "num_classes": 400,
                    }
                    macs = get_config(model, changes).macs(size, num_frames=frames)
                    cost = {"macs": macs, "mib": mib, "seconds": times[cell]}
                    yield {**cell._asdict(), **cost}


Rows = list[dict[str, Any]]


def read(file: Path) -> Rows:
    if not file.exists():
        return []
    return [json.loads(text) for text in file.read_text().splitlines()]


def cell_of(row: dict[str, Any]) -> Cell:
    return Cell(*(row[field] for field in Cell._fields))


def line(
    rows: Rows, along: str, what: str, scale: float = 1.0, **wanted: str
) -> CostCurve:
    """`what` over frames at 224 pixels, or over sizes at 8 frames."""
    fixed = {"frames": {"size": OWN_SIZE}, "size": {"frames": OWN_FRAMES}}[along]
    asked = {"kernel": "fused", **wanted, **fixed}
    found = {
        row[along]: row[what] * scale
        for row in rows
        if all(row[name] == value for name, value in asked.items())
    }
    sizes = sorted(found)
    return CostCurve(sizes, [found[size] for size in sizes])


def over(rows: Rows, along: str, what: str, **wanted: str) -> CostCurve:
    """`joint` over `divided`."""
    joint, divided = (
        line(rows, along, what, attention_type=scheme, **wanted)
        for scheme in ("joint", "divided")
    )
    pairs = zip(joint.costs, divided.costs, strict=True)  # type: ignore[arg-type]
    return CostCurve(joint.sizes, [one / other for one, other in pairs])


def draw(rows: Rows, folder: Path) -> None:
    axes = {"frames": f"frames of {OWN_SIZE} pixels", "size": "pixels of 8 frames"}
    for along, axis in axes.items():
        kinds = (
            ("Multiply-accumulates", "G of a forward pass", "macs", 1e-9, "forward"),
            ("Memory", "MiB of a training step", "mib", 1, "training"),
            ("Time", "CPU seconds of a training step", "seconds", 1, "training"),
        )
        panels = [
            CostPanel(
                title,
                unit,
                {
                    scheme: line(
                        rows, along, what, by, mode=mode, attention_type=scheme
                    )
                    for scheme in SCHEMES
                },
            )
            for title, unit, what, by, mode in kinds
        ]
        save(plots.cost_growth(panels, axis=axis), folder / f"video-{along}.png")
    panels = [
        CostPanel(
            {"forward": "Forward pass", "training": "Training step"}[mode],
            "joint / divided",
            {
                "multiply-accumulates": over(rows, "frames", "macs", mode=mode),
                "time, fused": over(rows, "frames", "seconds", mode=mode),
                "time, matrices": over(
                    rows, "frames", "seconds", mode=mode, kernel="matrices"
                ),
                "memory, fused": over(rows, "frames", "mib", mode=mode),
                "memory, matrices": over(
                    rows, "frames", "mib", mode=mode, kernel="matrices"
                ),
            },
            level=1.0,
        )
        for mode in MODES
    ]
    save(plots.cost_growth(panels, axis=axes["frames"]), folder / "video-ratio.png")


def save(plot: plots.Plot, file: Path) -> None:
    file.write_bytes(plots.to_png(plot.figure))
    print(f"{file}: {plot.alt}")


def tables(rows: Rows) -> None:
    """The rows as Markdown: a table a mode, a line an input, a column a scheme."""
    found = {cell_of(row): row for row in rows}
    for mode in MODES:
        print(f"\n| {mode}: frames, pixels | {' | '.join(SCHEMES)} | with matrices |")
        print("|" + "---|" * (len(SCHEMES) + 2))
        inputs = {(one.frames, one.size) for one in found if one.mode == mode}
        for frames, size in sorted(inputs, key=lambda one: (one[1], one[0])):
            cells = cells_of(rows[0]["model"], frames, size, mode)
            texts = [
                f"{found[cell]['mib']:.0f} MiB, {found[cell]['seconds']:.2f} s"
                for cell in cells
            ]
            own = texts[: len(SCHEMES)]
            if mode == "forward":
                macs = [found[cell]["macs"] / 1e9 for cell in cells[: len(SCHEMES)]]
                own = [f"{n:.1f} G, {text}" for n, text in zip(macs, own, strict=True)]
            kept = [
                f"{cell.attention_type} {text}"
                for cell, text in list(zip(cells, texts, strict=True))[len(SCHEMES) :]
            ]
            line_of = " | ".join([*own, "; ".join(kept) or "-"])
            print(f"| {frames}, {size} | {line_of} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="timesformer_ti16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("video.jsonl"))
    parser.add_argument("--draw", type=Path, help="rows to draw, measuring nothing")
    parser.add_argument("--to", type=Path, default=Path())
    known = parser.parse_args()
    if known.draw:
        draw(read(known.draw), known.to)
        tables(read(known.draw))
        return
    torch.set_num_threads(1)
    started = time.monotonic()
    done = {cell_of(row) for row in read(known.out)}
    with known.out.open("a") as file:
        for row in measured(known.model, known.rounds, done):
            print(json.dumps(row), file=file, flush=True)
            print(f"{time.monotonic() - started:6.0f} s  {row}", flush=True)


if __name__ == "__main__":
    main()
