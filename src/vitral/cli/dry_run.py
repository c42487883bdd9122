"""The cost of a run, as `vitral train --dry-run` prints it."""

from collections.abc import Iterator

from vitral.workflows import TrainConfig
from vitral.workflows.cost import RunCost, estimate, measure_flops

DAY = 86_400.0
PLAN_FLAGS = {"--dry-run": False, "--devices": True, "--flops-per-second": True}
"""Flags of a plan, and whether a value follows."""
DEFAULT_OUT = ("--out", "RUN")
TIME_UNITS = (
    (365.25 * DAY, "years"),
    (DAY, "days"),
    (3_600.0, "hours"),
    (60.0, "minutes"),
)


def cost_lines(
    config: TrainConfig, devices: int, flops_per_second: float
) -> Iterator[str]:
    """Yield the cost, line by line.

    Args:
        devices: count that share a batch.
        flops_per_second: of each device; 0 measures the float32 products of this CPU.
    """
    cost = estimate(config, devices=devices)
    yield from describe_cost(cost, config)
    measured = flops_per_second == 0
    speed = measure_flops() if measured else flops_per_second
    source = "the matrix products of this CPU" if measured else "what is given"
    per_device = f" on each of {devices} devices" if devices > 1 else ""
    yield (
        f"time: {format_duration(cost.seconds(speed))} at {speed:.3g} operations a "
        f"second{per_device} "
        f"({source}); training reaches less"
    )


def describe_cost(cost: RunCost, config: TrainConfig) -> Iterator[str]:
    """Yield the lines that need no clock."""
    work, memory = cost.work, cost.memory
    source = "counted" if work.size.counted else "published; nothing was read"
    yield (
        f"data: {work.size.images:,} training images of {work.size.classes:,} classes "
        f"({source})"
    )
    height, width = work.model.image_hw
    yield (
        f"model: {work.name}, {work.parameters:,} parameters, {memory.num_trainable:,} "
        f"learn with `{config.objective.NAME}`; {height} x {width} pixels"
    )
    yield (
        f"work: {work.updates:,} updates of {work.batch_size:,} images, "
        f"{work.images:,} images seen, {work.epochs:.4g} epochs"
    )
    teacher = f" and {work.teacher_macs:,} in the teacher" if work.teacher_macs else ""
    yield (
        f"compute: {work.macs:,} multiply-accumulates an image{teacher}, "
        f"{float(work.macs) * work.images:.3e} forward; {work.flops:.3e} "
        "floating-point operations with the backward pass"
    )
    if config.objective.NEEDS_TEACHER and not config.objective.teacher_path():
        yield "note: no teacher is counted, since none is named: add `--teacher RUN`"
    yield (
        f"memory: {format_bytes(memory.total)} on each device: weights "
        f"{format_bytes(memory.weights)}, gradients {format_bytes(memory.gradients)}, "
        f"{config.optim.optimizer} {format_bytes(memory.optimizer)}, average "
        f"{format_bytes(memory.ema)}, activations of {memory.microbatch_size:,} images "
        f"{format_bytes(memory.activations)}"
    )


def format_bytes(size: int) -> str:
    """Format bytes in the largest unit that leaves a digit before the point."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def format_duration(seconds: float) -> str:
    """Format seconds in the largest unit that leaves a digit before the point."""
    for unit, name in TIME_UNITS:
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"


def remove_plan_flags(argv: list[str]) -> list[str]:
    """Return the command line that starts the planned run."""
    command, skip = [], False
    for word in argv:
        name, equals, _ = word.replace("_", "-").partition("=")
        if skip:
            skip = False
        elif name in PLAN_FLAGS:
            skip = PLAN_FLAGS[name] and not equals
        else:
            command.append(word)
    has_out = any(word.startswith("--out") for word in command)
    return command if has_out else [*command, *DEFAULT_OUT]
