"""Start a program on several ranks, as a user does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def start_ranks(ranks: int, words: list[str], folder: Path) -> subprocess.Popen[str]:
    """`words` in so many processes; stdout and stderr are of all of them."""
    paths = os.pathsep.join((str(TESTS.parent / "src"), str(TESTS)))
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
            *words,
        ],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code and what it printed; nothing of it is left running."""
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err
