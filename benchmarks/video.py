"""Cost of TimeSformer's five schemes over frames and over resolution.

    OMP_NUM_THREADS=1 python benchmarks/video.py --out video.jsonl
    python benchmarks/video.py --draw video.jsonl --to docs/images

One clip, float32, random weights: a forward pass without gradients, and a training step
of forward, softmax loss and backward. Multiply-accumulates are counted exactly. Memory
is the peak of the step minus the memory before it (Linux's VmHWM and VmRSS), each in
its own process after a tiny step. Time is the median CPU time of rounds, schemes
interleaved in one process; long rounds end early. Rows already in the file are skipped.

torch's fused attention never stores the attention matrix, which the paper's code did.
For `joint` and `divided` both are measured: `fused`, the default, and `matrices`,
torch's plain kernel.
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
DEFAULT_FRAMES, DEFAULT_SIZE = 8, 224
MAX_MATRIX_FRAMES = 16
"""Frames above which the matrices of `joint` exceed a small machine's memory."""
KERNELS = {
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
    "matrices": [SDPBackend.MATH],
}
MODES = ("forward", "training")
MAX_CPU_SECONDS = 15.0
"""CPU seconds of one input after which no further round starts."""


class Cell(NamedTuple):
    """One measurement."""

    model: str
    attention_type: AttentionType
    kernel: str
    mode: str
    frames: int
    size: int


def make_step(cell: Cell, model: VisionModel, clip: Tensor) -> Callable[[], None]:
    """Return a function that runs a forward pass or a training step."""

    def forward() -> None:
        with sdpa_kernel(KERNELS[cell.kernel]), torch.no_grad():
            model(clip)

    def training() -> None:
        with sdpa_kernel(KERNELS[cell.kernel]):
            target = torch.zeros(len(clip), dtype=torch.int64)
            torch.nn.functional.cross_entropy(model(clip), target).backward()
        model.zero_grad()

    return forward if cell.mode == "forward" else training


def make_model(cell: Cell) -> VisionModel:
    torch.manual_seed(0)
    changes = {
        "attention_type": cell.attention_type,
        "num_frames": cell.frames,
        "num_classes": 400,
    }
    model = vt.create(cell.model, image_size=cell.size, **changes)
    return model.train(cell.mode == "training")


def make_clip(cell: Cell) -> Tensor:
    return torch.randn(1, cell.frames, 3, cell.size, cell.size)


def process_memory(what: str) -> float:
    """Return the MiB of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(what))
    return int(line.split()[1]) / 1024


def memory(cell: Cell) -> float:
    """Return the peak MiB of the first full step above weights and clip."""
    torch.set_num_threads(1)
    model, clip = make_model(cell), make_clip(cell)
    make_step(cell, model, torch.randn(1, 2, 3, 32, 32))()
    ctypes.CDLL(None).malloc_trim(0)  # or freed memory of the tiny step is reused
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = process_memory("VmRSS")
    make_step(cell, model, clip)()
    return process_memory("VmHWM") - before


def seconds(cells: list[Cell], rounds: int) -> dict[Cell, float]:
    """Return median CPU seconds; each round rotates the order of the cells."""
    runs = {cell: make_step(cell, make_model(cell), make_clip(cell)) for cell in cells}
    times_by_cell: dict[Cell, list[float]] = {cell: [] for cell in cells}
    start = time.process_time()
    for round_ in range(rounds):
        if round_ and time.process_time() - start > MAX_CPU_SECONDS:
            break
        offset = round_ % len(cells)
        for cell in cells[offset:] + cells[:offset]:
            started = time.process_time()
            runs[cell]()
            times_by_cell[cell].append(time.process_time() - started)
    return {cell: statistics.median(times) for cell, times in times_by_cell.items()}


def list_cells(model: str, frames: int, size: int, mode: str) -> list[Cell]:
    cells = [Cell(model, scheme, "fused", mode, frames, size) for scheme in SCHEMES]
    if frames <= MAX_MATRIX_FRAMES:
        schemes: tuple[AttentionType, ...] = ("joint", "divided")
        cells += [
            Cell(model, scheme, "matrices", mode, frames, size) for scheme in schemes
        ]
    return cells


def measure(model: str, rounds: int, done: set[Cell]) -> Iterator[dict[str, Any]]:
    """Yield a row per cell, the cheap ones first; skip inputs in `done`."""
    inputs = [(frames, DEFAULT_SIZE) for frames in FRAMES]
    inputs += [(DEFAULT_FRAMES, size) for size in SIZES if size != DEFAULT_SIZE]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "vitral.plots"])
    # One process per cell: a process never returns all of its memory.
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for frames, size in sorted(inputs, key=lambda shape: shape[0] * shape[1] ** 2):
            for mode in MODES:
                cells = list_cells(model, frames, size, mode)
                if done.issuperset(cells):
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


def parse_cell(row: dict[str, Any]) -> Cell:
    return Cell(*(row[field] for field in Cell._fields))


def line(
    rows: Rows, along: str, what: str, scale: float = 1.0, **wanted: str
) -> CostCurve:
    """Return `what` over frames at 224 pixels, or over sizes at 8 frames."""
    fixed = {"frames": {"size": DEFAULT_SIZE}, "size": {"frames": DEFAULT_FRAMES}}[
        along
    ]
    filters = {"kernel": "fused", **wanted, **fixed}
    costs = {
        row[along]: row[what] * scale
        for row in rows
        if all(row[name] == value for name, value in filters.items())
    }
    sizes = sorted(costs)
    return CostCurve(sizes, [costs[size] for size in sizes])


def over(rows: Rows, along: str, what: str, **wanted: str) -> CostCurve:
    """Return the ratio of `joint` to `divided`."""
    joint, divided = (
        line(rows, along, what, attention_type=scheme, **wanted)
        for scheme in ("joint", "divided")
    )
    pairs = zip(joint.costs, divided.costs, strict=True)  # type: ignore[arg-type]
    return CostCurve(joint.sizes, [a / b for a, b in pairs])


def draw(rows: Rows, folder: Path) -> None:
    axes = {"frames": f"frames of {DEFAULT_SIZE} pixels", "size": "pixels of 8 frames"}
    for along, axis in axes.items():
        measures = (
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
            for title, unit, what, by, mode in measures
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
    """Print Markdown: a table per mode, a row per input, a column per scheme."""
    rows_by_cell = {parse_cell(row): row for row in rows}
    for mode in MODES:
        print(f"\n| {mode}: frames, pixels | {' | '.join(SCHEMES)} | with matrices |")
        print("|" + "---|" * (len(SCHEMES) + 2))
        inputs = {(c.size, c.frames) for c in rows_by_cell if c.mode == mode}
        for size, frames in sorted(inputs):
            cells = list_cells(rows[0]["model"], frames, size, mode)
            measured = [rows_by_cell[cell] for cell in cells]
            texts = [f"{r['mib']:.0f} MiB, {r['seconds']:.2f} s" for r in measured]
            fused = texts[: len(SCHEMES)]
            if mode == "forward":
                fused = [
                    f"{r['macs'] / 1e9:.1f} G, {text}"
                    for r, text in zip(measured, fused, strict=False)
                ]
            matrices = [
                f"{cell.attention_type} {text}"
                for cell, text in list(zip(cells, texts, strict=True))[len(SCHEMES) :]
            ]
            columns = " | ".join([*fused, "; ".join(matrices) or "-"])
            print(f"| {frames}, {size} | {columns} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="timesformer_ti16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("video.jsonl"))
    parser.add_argument("--draw", type=Path, help="rows to draw, measuring nothing")
    parser.add_argument("--to", type=Path, default=Path())
    args = parser.parse_args()
    if args.draw:
        draw(read(args.draw), args.to)
        tables(read(args.draw))
        return
    torch.set_num_threads(1)
    started = time.monotonic()
    done = {parse_cell(row) for row in read(args.out)}
    with args.out.open("a") as file:
        for row in measure(args.model, args.rounds, done):
            print(json.dumps(row), file=file, flush=True)
            print(f"{time.monotonic() - started:6.0f} s  {row}", flush=True)


if __name__ == "__main__":
    main()
