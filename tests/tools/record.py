"""Shows that the working tree behaves as a commit did.

    python tests/tools/record.py BASE_COMMIT

runs the same small jobs (`JOBS` below) with the source of BASE_COMMIT and with the
working tree, at the same time, and prints a line for each difference of a weight, a
metric, a row, a JSON key, a line of text or a picture:

    scratch: model/model.safetensors: head.bias: F32 [3] 0c9f4e.. -> F32 [3] 77ab12..

Exit code 0 if there is none, 1 if there is one or a job failed. Nothing is kept from
one day to the next: processors differ, so both sides run here and now. It takes about
ten minutes on two cores.

Names that were changed on purpose are given as `--ignore OLD=NEW`, for JSON keys and
columns; where a job's command has such a name, each side gets its own. The jobs use the
command line and files only, so this file runs on both sides of a rename. What no two
runs share (times, machines, places, hashes of whole files) is in record_files.py; of
those the keys are compared, the values not.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import record_training
import record_verbs
from record_data import draw_data
from record_files import Names, Pairs, count_pairs, read_files
from record_side import PACKAGE, JobError, Side

ROOT = Path(__file__).resolve().parents[2]
Files = dict[str, Pairs]
Record = dict[str, Files | str]
"""The files of each job, or the words of its failure."""


class Job(NamedTuple):
    run: Callable[[Side], None]
    needs: tuple[str, ...] = ()


JOBS = {
    "scratch": Job(record_training.train_scratch),
    "finetune": Job(record_training.train_finetune, ("scratch",)),
    "frozen": Job(record_training.train_frozen, ("scratch",)),
    "labels": Job(record_training.train_labels),
    "mae": Job(record_training.train_mae),
    "masked": Job(record_training.train_masked),
    "distill": Job(record_training.train_distill, ("scratch",)),
    "students": Job(record_training.train_students, ("scratch",)),
    "clips": Job(record_training.train_clips),
    "tnt": Job(record_training.train_tnt),
    "hybrid": Job(record_training.train_hybrid),
    "resnet": Job(record_training.train_resnet),
    "ranks": Job(record_training.train_ranks),
    "resume": Job(record_training.train_again),
    "eval": Job(record_verbs.measure, ("scratch", "labels", "clips", "mae", "distill")),
    "predict": Job(record_verbs.predict, ("scratch", "labels", "clips")),
    "inspect": Job(record_verbs.inspect, ("scratch", "tnt", "clips")),
    "report": Job(record_verbs.report, ("scratch", "finetune", "distill")),
    "export": Job(record_verbs.export, ("scratch", "finetune")),
    "convert": Job(record_verbs.convert, ("scratch", "tnt", "clips")),
    "serve": Job(record_verbs.serve, ("scratch",)),
    "tables": Job(record_verbs.list_tables),
}
"""In an order in which each comes after those that it needs."""

print_lock = threading.Lock()
stop = threading.Event()
"""Set when one side cannot go on, or somebody interrupts."""


def main() -> int:
    options = parse_options()
    jobs = choose_jobs(options.jobs)
    with tempfile.TemporaryDirectory(prefix="record-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        after = Side("after", ROOT / "src", folder / "after", options.ignore)
        if options.only_here:
            record = make_record(after, jobs, {})
            print(json.dumps(record, indent=1, ensure_ascii=False))
            return int(any(isinstance(files, str) for files in record.values()))
        source = check_out(options.commit, folder / "source")
        old = {new: name for name, new in options.ignore.items()}
        before = Side("before", source, folder / "before", old)
        start = time.monotonic()
        one, two = make_both(before, after, jobs, options.ignore)
        return tell_differences(one, two, time.monotonic() - start)


def make_both(
    before: Side, after: Side, jobs: list[str], names: Names
) -> tuple[Record, Record]:
    """The records of both sides, made at the same time."""
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(make_record, before, jobs, names)
        two = pool.submit(make_record, after, jobs, names)
        try:
            wait((one, two), return_when=FIRST_EXCEPTION)
            return one.result(), two.result()
        finally:
            stop.set()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run small jobs with a commit and with the working tree, and list "
        "every difference.",
        epilog=f"jobs: {', '.join(JOBS)}",
    )
    parser.add_argument("commit", nargs="?", help="what to compare with")
    parser.add_argument("--jobs", default="", help="some alone, with commas between")
    parser.add_argument("--keep", type=Path, help="a new folder that stays")
    parser.add_argument("--only-here", action="store_true", help="print as JSON")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="a key, column or setting with a new name",
    )
    options = parser.parse_args()
    if not options.only_here and not options.commit:
        parser.error("name the commit to compare with, or give --only-here")
    if options.keep and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty")
    unknown = set(filter(None, options.jobs.split(","))) - set(JOBS)
    if unknown:
        parser.error(f"no such job: {', '.join(sorted(unknown))}")
    if any("=" not in pair for pair in options.ignore):
        parser.error("--ignore takes OLD=NEW")
    options.ignore = dict(pair.split("=", 1) for pair in options.ignore)
    return options


def choose_jobs(words: str) -> list[str]:
    """The jobs asked for and those that they need, in order."""
    names = set(filter(None, words.split(","))) or set(JOBS)
    for name in reversed(JOBS):
        if name in names:
            names |= set(JOBS[name].needs)
    return [name for name in JOBS if name in names]


def check_out(commit: str, folder: Path) -> Path:
    """Write the source of a commit into `folder`; returns where packages lie in it."""
    words = ["git", "-C", str(ROOT), "archive", commit, "src"]
    archive = subprocess.run(words, stdout=subprocess.PIPE)
    if archive.returncode:
        sys.exit(2)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


def make_record(side: Side, jobs: list[str], names: Names) -> Record:
    """Run the jobs on one side and read what they leave."""
    side.folder.mkdir(parents=True)
    draw_data(side.folder / "data")
    check_source(side)
    record: Record = {}
    for name in jobs:
        if stop.is_set():
            break
        start = time.monotonic()
        failures = [need for need in JOBS[name].needs if isinstance(record[need], str)]
        try:
            if failures:
                raise JobError(f"not run, since {', '.join(failures)} failed")
            JOBS[name].run(side)
            record[name] = read_files(side.folder / name, names)
        except (JobError, OSError, ValueError, KeyError) as error:
            record[name] = f"{error}".replace(str(side.folder), ".")
        say(f"{side.name} {name}: {time.monotonic() - start:.0f} s")
        if isinstance(record[name], str):
            say(f"{side.name} {name}: {record[name]}")
    return record


def check_source(side: Side) -> None:
    """Make sure that the commands of a side run its own source."""
    ask = f"import importlib.util as u; print(u.find_spec({PACKAGE!r}).origin)"
    words, environment = [sys.executable, "-c", ask], side.environment()
    answer = subprocess.check_output(words, env=environment, cwd=side.folder, text=True)
    if not Path(answer.strip()).is_relative_to(side.source):
        sys.exit(f"{side.name}: {answer.strip()} would run instead of {side.source}")


def say(line: str) -> None:
    with print_lock:
        print(line, file=sys.stderr, flush=True)


def tell_differences(before: Record, after: Record, seconds: float) -> int:
    """Print every difference and a last line; returns the exit code."""
    lines: list[str] = []
    counts: dict[str, int] = {}
    for job, files in before.items():
        lines += [f"{job}: {line}" for line in compare_job(files, after[job])]
        if not isinstance(files, str):
            for kind, count in count_pairs(files).items():
                counts[kind] = counts.get(kind, 0) + count
    for line in lines:
        print(line)
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    answer = f"differences: {len(lines)}" if lines else "no difference"
    print(f"{answer}; {len(before)} jobs, {total} in {seconds:.0f} s")
    return int(bool(lines))


def compare_job(before: Files | str, after: Files | str) -> Iterator[str]:
    """A line for each difference between what a job left on both sides."""
    if isinstance(before, str) or isinstance(after, str):
        for side, words in (("before", before), ("after", after)):
            if isinstance(words, str):
                yield f"failed {side}: {words}"
        return
    for file in sorted(before.keys() | after.keys()):
        if file not in before or file not in after:
            yield f"{file}: the file is only {'after' if file in after else 'before'}"
            continue
        yield from (f"{file}: {line}" for line in compare(before[file], after[file]))


def compare(before: Pairs, after: Pairs) -> Iterator[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        one, two = before.get(key, "(missing)"), after.get(key, "(missing)")
        if one != two:
            yield f"{key}: {one} -> {two}"


if __name__ == "__main__":
    sys.exit(main())
