"""Kill runs with SIGKILL, resume them, and compare every bit.

    python benchmarks/resume.py --kills 200

One kill per run, at a random moment of the start, a step, a save or the end,
round-robin over kinds of run (mixup, EMA, accumulation and drop-path in one process and
with one and two workers; frozen blocks with a cache; MAE; masked patches). Prints where
the kills hit and how many runs equal the uninterrupted one; exits with 6 if one
differs.
"""

import argparse
import collections
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from photos import make_photos  # noqa: E402
from training_server import KINDS, STEPS, Server  # noqa: E402
from vitral.workflows.resume_check.verify import run_reference, run_with_kills  # noqa: E402

STEP = re.compile(r" (of )?step \d+")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--a-run", type=int, default=1, help="kills in one run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    hits: collections.Counter[str] = collections.Counter()
    unequal = 0
    with tempfile.TemporaryDirectory(prefix="vitral-resume-") as folder:
        root = Path(folder)
        server = Server(make_photos(root / "photos", per_class=9))
        paces = {}
        for kind in KINDS:
            paces[kind] = run_reference(server.starter(kind), root / kind, STEPS)
        runs = args.kills // args.a_run
        for index in range(runs):
            kind = KINDS[index % len(KINDS)]
            result = run_with_kills(
                server.starter(kind),
                root / "killed",
                root / kind,
                paces[kind],
                steps=STEPS,
                kills=args.a_run,
                seed=1_000_000 * args.seed + index,
            )
            for kill in result.kills:
                location = STEP.sub("", kill.where)
                hits[f"{kind}: {location}"] += 1
            if result.diff.differences or result.missed:
                unequal += 1
                print(f"run {index}, {kind}:", *result.lines(), sep="\n")
                print(*result.diff.differences, sep="\n", flush=True)
            shutil.rmtree(root / "killed")
            if index % 20 == 19:
                done = index + 1
                print(f"{done - unequal} of {done} equal so far", flush=True)
        server.close()
    for location, count in sorted(hits.items()):
        print(f"{count:4}  {location}")
    print(
        f"{runs - unequal} of {runs} runs equal bit for bit after "
        f"{hits.total()} kills, in {time.monotonic() - started:.0f} s"
    )
    return 6 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
