"""`vitral tune-speed RUN`: the fastest way to run a model that is good enough."""

from pathlib import Path

from vitral.cli.parser import Parser
from vitral.errors import ConfigError, GateError


def run(words: list[str]) -> None:
    """Sweep, write table and figure, and name the point with the command for it."""
    parser = Parser(
        "tune-speed",
        "Time and score ways to run a model: runtime, precision, merged tokens, image "
        "size, batch. Names the fastest within a bound on accuracy, or the most "
        "accurate within a bound on time.",
    )
    parser.add_argument("run", metavar="RUN", help="a trained run, with its data")
    parser.add_argument("--max-drop", type=float, default=None, metavar="POINTS")
    parser.add_argument("--max-ms", type=float, default=None, help="an image")
    parser.add_argument("--ways", nargs="+", default=None, help="runtimes to try")
    parser.add_argument("--merge", type=int, nargs="+", default=None, metavar="R")
    parser.add_argument("--image-size", "--img-size", type=int, nargs="+", default=None)
    parser.add_argument("--batch-size", "-b", type=int, nargs="+", default=None)
    parser.add_argument("--split", default="val", help="whose images are scored")
    parser.add_argument("--images", type=int, default=500, help="of the split, at most")
    parser.add_argument("--rounds", type=int, default=9, help="timed passes")
    parser.add_argument("--minutes", type=float, default=10.0, help="0 for no limit")
    parser.add_argument("--views", choices=("one", "own"), default="own")
    parser.add_argument("--quick", action="store_true", help="few ways, 100 images")
    parser.add_argument("--out", default="", help="default: tune-speed/ in the run")
    known = parser.read(words)
    for name in ("images", "rounds"):
        if getattr(known, name) < 1:
            raise ConfigError(f"`--{name}` must be at least 1.")
    import vitral.tuning as tuning

    max_drop = known.max_drop
    if max_drop is None and known.max_ms is None:
        max_drop = 0.5
    plan = tuning.Plan(
        ways=known.ways or tuple(tuning.WAYS),
        merges=known.merge or ((0, 8) if known.quick else (0, 4, 8, 13)),
        image_sizes=[(side, side) for side in known.image_size or ()],
        batches=known.batch_size or ((8,) if known.quick else (1, 8)),
        split=known.split,
        images=min(known.images, 100) if known.quick else known.images,
        rounds=min(known.rounds, 5) if known.quick else known.rounds,
        minutes=known.minutes,
        views="one" if known.views == "one" else None,
    )
    swept = tuning.sweep(known.run, plan)
    chosen = tuning.choose(swept.points, max_drop, known.max_ms)
    out = Path(known.out) if known.out else Path(known.run) / "tune-speed"
    files = tuning.write(out, swept, chosen, plan)
    for name, reason in swept.left_out.items():
        print(f"left out: {name}: {reason}")
    print(tuning.as_markdown(swept.points, chosen), end="")
    for line in tuning.caution(swept, plan):
        print(line)
    print(f"files: {', '.join(str(file) for file in files)}")
    if chosen is None:
        raise GateError(_nothing(swept.points, max_drop, known.max_ms))
    print(f"chosen: {chosen.candidate}")
    print(f"next: {tuning.command(chosen.candidate, known.run, swept.own_size)}")


def _nothing(points: list, max_drop: float | None, max_ms: float | None) -> str:
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
