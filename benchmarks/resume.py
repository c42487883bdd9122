"""Kill runs of many kinds with SIGKILL, resume them, compare every bit.

    python benchmarks/resume.py --kills 200

One kill a run, at a random moment of the start, of a step, of a save or of the end; the
kinds of run take turns (mixup, EMA, accumulation and drop-path in one process and with
one and two workers; frozen blocks with a cache; MAE; masked patches). Prints where the
kills hit and how many runs ended as the unbroken one, and exits with 6 if one did not.
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

from forking import KINDS, STEPS, Server  # noqa: E402
from photos import make_photos  # noqa: E402
from vitral.workflows.resume_check.verify import run_reference, run_with_kills  # noqa: E402

STEP = re.compile(r" (of )?step \d+")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--a-run", type=int, default=1, help="kills in one run")
    parser.add_argument("--seed", type=int, default=0)
    known = parser.parse_args()
    began = time.monotonic()
    places: collections.Counter[str] = collections.Counter()
    unequal = 0
    with tempfile.TemporaryDirectory(prefix="vitral-resume-") as folder:
        here = Path(folder)
        server = Server(make_photos(here / "photos", per_class=9))
        paces = {}
        for kind in KINDS:
            paces[kind] = run_reference(server.starter(kind), here / kind, STEPS)
        runs = known.kills // known.a_run
        for number in range(runs):
            kind = KINDS[number % len(KINDS)]
            result = run_with_kills(
                server.starter(kind),
                here / "killed",
                here / kind,
                paces[kind],
                steps=STEPS,
                kills=known.a_run,
                seed=1_000_000 * known.seed + number,
            )
            for kill in result.kills:
                where = STEP.sub("", kill.where)
                places[f"{kind}: {where}"] += 1
            if result.diff.differences or result.missed:
                unequal += 1
                print(f"run {number}, {kind}:", *result.lines(), sep="\n")
                print(*result.diff.differences, sep="\n", flush=True)
            shutil.rmtree(here / "killed")
            if number % 20 == 19:
                done = number + 1
                print(f"{done - unequal} of {done} equal so far", flush=True)
        server.close()
    for place, count in sorted(places.items()):
        print(f"{count:4}  {place}")
    print(
        f"{runs - unequal} of {runs} runs equal bit for bit after "
        f"{places.total()} kills, in {time.monotonic() - began:.0f} s"
    )
    return 6 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
