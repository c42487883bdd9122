"""Start processes that lock the same run folder: exactly one may succeed.

    python benchmarks/one_winner.py --rounds 50 --processes 8

Each round kills the winner; the folder must be free afterwards.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from vitral.errors import ConfigError
from vitral.workflows.run_lock import LOCK_FILE, lock_file, require_unlocked


def contend(folder: Path, ready: Path) -> None:
    """Lock the folder, and keep it until killed."""
    while not ready.exists():
        time.sleep(0.0005)
    try:
        with lock_file(folder / LOCK_FILE):
            (folder / f"won-{os.getpid()}").touch()
            time.sleep(60)
    except ConfigError as error:
        (folder / f"lost-{os.getpid()}").write_text(str(error))


def run_round(folder: Path, processes: int) -> int:
    """Return the number of winners."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            contend(folder, folder / "go")
            os._exit(0)
        children.append(child)
    (folder / "go").touch()
    while len([*folder.glob("won-*"), *folder.glob("lost-*")]) < processes:
        time.sleep(0.01)
    won = len(list(folder.glob("won-*")))
    for lost in folder.glob("lost-*"):
        assert "is in use by process " in lost.read_text()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    require_unlocked(folder / LOCK_FILE)
    return won


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=8)
    args = parser.parse_args()
    good = 0
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as temporary:
            good += run_round(Path(temporary), args.processes) == 1
    print(f"{good} of {args.rounds} rounds of {args.processes} had one winner")
    return 0 if good == args.rounds else 1


if __name__ == "__main__":
    raise SystemExit(main())
