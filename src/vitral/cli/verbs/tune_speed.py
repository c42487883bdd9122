"""`vitral tune-speed RUN`: the fastest way to run a model that is good enough."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.flags import SCHEDULE_HELP, SCHEDULES
from vitral.cli.logs import install_handler
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, GateError

if TYPE_CHECKING:
    import vitral.autotune

WAYS = ("torch", "onnx", "openvino", "openvino-bf16", "openvino-int8")
"""Those of `vitral.autotune.WAYS`."""


def make_parser() -> Parser:
    parser = Parser(
        "tune-speed",
        "Time and score ways to run a model: runtime, precision, merged tokens, image "
        "size, batch. Names the fastest within a bound on accuracy, or the most "
        "accurate within a bound on time.",
        usage="RUN",
        common="--max-drop --max-ms --ways --merge --image-size --batch-size --images "
        "--minutes --quick --out",
        examples=(
            "runs/photos --quick",
            "runs/photos --max-drop 0.5 --out speed",
            "runs/photos --max-ms 20 --ways torch openvino-int8",
        ),
    )
    parser.add("run RUN", str, "a trained run, with its data")
    parser.add(
        "--max-drop POINTS",
        float,
        "of accuracy that may be lost; default: 0.5, without --max-ms",
    )
    parser.add("--max-ms", float, "milliseconds an image may take")
    parser.add(
        "--ways WAY", [str], f"runtimes to try, of {', '.join(WAYS)}; default: all"
    )
    parser.add("--merge R", [int], "tokens to merge in each block; default: 0 16 8")
    parser.add("--merge-schedule", [str], SCHEDULE_HELP, choices=SCHEDULES)
    parser.add(
        "--image-size --img-size",
        [int],
        "pixels, sides of squares to try; default: the run's own",
    )
    parser.add("--batch-size -b", [int], "images in one pass, to try; default: 1 8")
    parser.add("--split", "val", "whose images are scored")
    parser.add("--images", 500, "of the split, at most")
    parser.add("--rounds", 9, "timed passes")
    parser.add("--minutes", 10.0, "0 for no limit")
    parser.add("--views", "own", "one, or the run's own", choices=("one", "own"))
    parser.add("--quick", False, "few ways, 100 images")
    parser.add("--out", "", "default: tune-speed/ in the run")
    return parser


def run(argv: list[str]) -> None:
    """Sweep, write table and figure, and name the point with the command for it."""
    args = make_parser().parse(argv)
    import vitral.autotune as tuning

    max_drop = args.max_drop
    if max_drop is None and args.max_ms is None:
        max_drop = 0.5
    plan = _plan(args)
    out = Path(args.out) if args.out else Path(args.run) / "tune-speed"
    if out.is_file():
        raise ConfigError(f"{out} is a file: `--out` names a folder.")
    latest: list[tuning.SweepResult] = []

    def keep(swept: tuning.SweepResult) -> None:
        tuning.write_points(out, swept, plan)
        latest[:] = [swept]

    install_handler(print)
    try:
        swept = tuning.sweep(args.run, plan, on_result=keep)
    except KeyboardInterrupt:
        if latest and latest[0].points:
            _show(latest[0], args, plan, out, max_drop)
        raise
    if _show(swept, args, plan, out, max_drop) is None:
        raise GateError(_no_point_message(swept.points, max_drop, args.max_ms))


def _plan(args: argparse.Namespace) -> "vitral.autotune.SweepPlan":
    """Return the sweep that the flags ask for; `--quick` makes it small."""
    from vitral.autotune import WAYS, SweepPlan

    merges = args.merge or ((0, 16) if args.quick else SweepPlan.merges)
    if args.merge_schedule and not any(merges):
        raise ConfigError(
            "`--merge-schedule` says how merged tokens are spread, and with "
            "`--merge 0` alone none are: name a rate above 0, or leave it out."
        )
    return SweepPlan(
        ways=args.ways or tuple(WAYS),
        merges=merges,
        merge_schedules=args.merge_schedule or SweepPlan.merge_schedules,
        image_sizes=[(side, side) for side in args.image_size or ()],
        batches=args.batch_size or ((8,) if args.quick else (1, 8)),
        split=args.split,
        images=min(args.images, 100) if args.quick else args.images,
        rounds=min(args.rounds, 5) if args.quick else args.rounds,
        minutes=args.minutes,
        views="one" if args.views == "one" else None,
    )


def _show(
    result: "vitral.autotune.SweepResult",
    args: argparse.Namespace,
    plan: "vitral.autotune.SweepPlan",
    out: Path,
    max_drop: float | None,
) -> "vitral.autotune.Point | None":
    """Write and print the results; return the chosen point."""
    import vitral.autotune as tuning

    chosen = tuning.choose(result.points, max_drop, args.max_ms)
    files = tuning.write_results(out, result, chosen, plan, max_drop)
    for name, reason in result.left_out.items():
        print(f"left out: {name}: {reason}")
    print(tuning.as_markdown(result.points, chosen), end="")
    for line in tuning.caution_lines(result, chosen, plan):
        print(line)
    print(f"files: {', '.join(str(file) for file in files)}")
    if chosen is None:
        return None
    print(f"chosen: {chosen.candidate}")
    first, *then = tuning.commands(
        chosen,
        args.run,
        run_size=result.run_size,
        run_merge=result.run_merge,
        views=None if result.views == result.run_views else result.views,
        max_drop=max_drop,
    )
    print(f"next: {first}")
    for line in then:
        print(f"then: {line}")
    return chosen


def _no_point_message(
    points: "list[vitral.autotune.Point]", max_drop: float | None, max_ms: float | None
) -> str:
    bounds = []
    if max_drop is not None:
        bounds.append(f"loses at most {max_drop:g} points")
    if max_ms is not None:
        bounds.append(f"takes at most {max_ms:g} ms an image")
    fastest = min(point.ms for point in points)
    return (
        f"None of {len(points)} ways {' and '.join(bounds)}; the fastest takes "
        f"{fastest:.2f} ms. The table is written: loosen the bound, or allow smaller "
        "images, more merging or int8."
    )
