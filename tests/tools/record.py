"""Shows that the working tree behaves as a commit did.

    python tests/tools/record.py BASE_COMMIT

runs the same small jobs (see record_jobs.py) with the source of BASE_COMMIT and with
the working tree, at the same time, and prints a line for each difference of a weight, a
metric, a row, a JSON key, a line of text or a picture:

    scratch: model/model.safetensors: head.bias: F32 [3] 0c9f.. -> F32 [3] 77ab..

Exit code 0 if there is none, 1 if there is one or a job failed. Nothing is kept from
one day to the next: processors differ, so both sides run here and now. It takes about
ten minutes on two cores.

Names that were changed on purpose are given as `--ignore OLD=NEW`, for JSON keys and
columns; where a job's command has such a name, each side gets its own. The jobs use the
command line and files only, so this file runs on both sides of a rename.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from record_data import draw_data
from record_files import Names, Pairs, count_pairs, read_files
from record_jobs import JOBS, PACKAGE, JobError, Side

ROOT = Path(__file__).resolve().parents[2]
Record = dict[str, dict[str, Pairs] | str]
"""The files of each job, or the words of its failure."""

print_lock = threading.Lock()


def main() -> int:
    options = parse_options()
    chosen = choose_jobs(options.jobs)
    with tempfile.TemporaryDirectory(prefix="record-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        here = Side("after", ROOT / "src", folder / "after", options.ignore)
        if options.only_here:
            record = make_record(here, chosen, {})
            print(json.dumps(record, indent=1, ensure_ascii=False))
            return int(any(isinstance(found, str) for found in record.values()))
        source = check_out(options.commit, folder / "source")
        old = {new: name for name, new in options.ignore.items()}
        before = Side("before", source, folder / "before", old)
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            names = [options.ignore] * 2
            sides = pool.map(make_record, (before, here), [chosen] * 2, names)
            records = list(sides)
    return tell_differences(*records, time.monotonic() - began)


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
    wanted = set(filter(None, words.split(","))) or set(JOBS)
    for name in reversed(JOBS):
        if name in wanted:
            wanted |= set(JOBS[name].needs)
    return [name for name in JOBS if name in wanted]


def check_out(commit: str, folder: Path) -> Path:
    """Write the files of a commit into `folder`; returns its source."""
    folder.mkdir(parents=True)
    words = ["git", "-C", str(ROOT), "archive", commit, "src"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout)
    if archive.returncode:
        sys.exit(2)
    return folder / "src"


def make_record(side: Side, chosen: list[str], names: Names) -> Record:
    """Run the jobs on one side and read what they leave."""
    side.folder.mkdir(parents=True)
    draw_data(side.folder / "data")
    check_source(side)
    record: Record = {}
    for name in chosen:
        began = time.monotonic()
        missing = [need for need in JOBS[name].needs if isinstance(record[need], str)]
        try:
            if missing:
                raise JobError(f"not run, since {', '.join(missing)} failed")
            JOBS[name].run(side)
            record[name] = read_files(side.folder / name, names)
        except JobError as error:
            record[name] = str(error)
        say(f"{side.name} {name}: {time.monotonic() - began:.0f} s")
        if isinstance(record[name], str):
            say(f"{side.name} {name}: {record[name]}")
    return record


def check_source(side: Side) -> None:
    """Make sure that the commands of a side run its own source."""
    ask = f"import importlib.util as u; print(u.find_spec({PACKAGE!r}).origin)"
    words = [sys.executable, "-c", ask]
    environment = side.environment()
    found = subprocess.check_output(
        words, env=environment, cwd=side.folder, text=True
    ).strip()
    if not Path(found).is_relative_to(side.source):
        raise SystemExit(f"{side.name} would run {found} instead of {side.source}")


def say(line: str) -> None:
    with print_lock:
        print(line, file=sys.stderr, flush=True)


def tell_differences(before: Record, after: Record, seconds: float) -> int:
    """Print every difference and a last line; returns the exit code."""
    number = 0
    counts: dict[str, int] = {}
    for job, found in before.items():
        for line in compare_job(found, after[job]):
            number += 1
            print(f"{job}: {line}")
        if not isinstance(found, str):
            for kind, count in count_pairs(found).items():
                counts[kind] = counts.get(kind, 0) + count
    compared = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    said = f"{number} differences" if number else "no difference"
    print(f"{said}: {len(before)} jobs, {compared} compared in {seconds:.0f} s")
    return int(number > 0)


def compare_job(before: dict[str, Pairs] | str, after: dict[str, Pairs] | str):
    """A line for each difference between what a job left on both sides."""
    if isinstance(before, str) or isinstance(after, str):
        for side, found in (("before", before), ("after", after)):
            if isinstance(found, str):
                yield f"failed {side}: {found}"
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
