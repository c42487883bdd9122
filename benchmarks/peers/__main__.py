"""Compare speed and memory with timm, transformers and others: `make bench`."""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.figure import bars
from benchmarks.peers.page import PICTURE, insert_into_page, markdown
from benchmarks.peers.running import PARTS, BenchConfig, run_benchmark
from vitral.atomic_io import make_folder, write_atomic, write_json
from vitral.cli.logs import say
from vitral.errors import VitralError
from vitral.plots.style import to_png

QUICK: dict[str, Any] = {
    "models": ("vit_mu8",),
    "batches": (1, 2),
    "memory_batch": 2,
    "rounds": 3,
    "image_size": (32, 32),
    "classes": 7,
    "images": 8,
}


def run(argv: list[str]) -> None:
    """Measure, print the bounds, write bench.json, bench.md and bench.png."""
    args = _parser().parse_args(argv)
    given = {
        "what": PARTS if "all" in args.what else tuple(dict.fromkeys(args.what)),
        "models": tuple(args.model),
        "batches": tuple(sorted(set(args.batch))),
        "memory_batch": args.memory_batch,
        "rounds": args.rounds,
        "threads": args.threads,
        "exact": not args.eager,
    }
    if args.quick:
        given |= QUICK
    config = BenchConfig(**given)
    out = Path(args.out)
    make_folder(out)
    started = time.monotonic()
    result = run_benchmark(
        config, lambda text: say(f"[{time.monotonic() - started:4.0f} s] {text}")
    )
    if args.quick:
        result["targets"] = []  # no bound is about a tiny model
    command = shlex.join(["python", "-m", "benchmarks.peers", *argv])
    write_json(out / "bench.json", {**result, "command": command})
    write_atomic(out / "bench.md", markdown(result, command))
    picture = out / PICTURE
    drawn = bool(result.get("inference") or result.get("training"))
    if drawn:
        write_atomic(picture, to_png(bars(result).figure))
    for name, reason in result["absent"].items():
        print(f"not measured: {name} ({reason})")
    for target in result["targets"]:
        met = "met" if target["met"] else "NOT MET"
        print(f"{target['value']:8.3f} {target['bound']:7} {met:8} {target['text']}")
    if args.page:
        page = Path(args.page)
        copy = page.parent / "images" / PICTURE
        if drawn:
            make_folder(copy.parent)
            write_atomic(copy, picture.read_bytes())
        insert_into_page(page, markdown(result, command, f"images/{PICTURE}"))
        print(f"files: {page}")
    print(f"files: {out}/bench.json, bench.md" + (f", {PICTURE}" if drawn else ""))


def main() -> None:
    """Run the command; exit codes are those of `vitral`."""
    try:
        run(sys.argv[1:])
    except VitralError as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure speed and memory of vitral, timm, transformers, "
        "torchvision and vit-pytorch: the same function with the same weights, "
        "interleaved in one process.",
        allow_abbrev=False,
    )
    defaults = BenchConfig()
    parser.add_argument("--what", nargs="+", choices=(*PARTS, "all"), default=["all"])
    parser.add_argument(
        "--model",
        nargs="+",
        default=list(defaults.models),
        help="plain Vision Transformers; steps and memory are those of the first",
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=int,
        default=list(defaults.batches),
        help="images of a forward pass; steps are measured with the largest",
    )
    parser.add_argument(
        "--memory-batch", type=int, default=defaults.memory_batch, help="images"
    )
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument(
        "--threads", type=int, default=0, help="of torch and the others; 0: its own"
    )
    parser.add_argument(
        "--eager", action="store_true", help="without compilers and runtimes"
    )
    parser.add_argument("--out", default="bench", help="folder of the result")
    parser.add_argument(
        "--page", default="", help="Markdown file whose marked part is replaced"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, to see that it works"
    )
    return parser


if __name__ == "__main__":
    main()
