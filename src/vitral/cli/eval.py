"""`vitral eval RUN [DATA]`: every number of a model on a data set."""

import json
from pathlib import Path

from vitral.cli.parser import Parser
from vitral.cli.results import headline
from vitral.run import open_run
from vitral.run.evaluating import evaluate


def run(words: list[str]) -> None:
    """Measure, print a table per class, and keep the result in the run."""
    parser = Parser("eval", "Measure a trained model on a split.")
    parser.add_argument("run", help="a run folder, or its model folder")
    parser.add_argument("data", nargs="?", default="", help="default: the run's own")
    parser.add_argument("--split", default="", help="default: test, else val, else all")
    parser.add_argument("--bad-files", choices=("wrong", "refuse"), default="wrong")
    parser.add_argument("--protocol", choices=("classify",), default="classify")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="", help="folder for the result's files")
    parser.add_argument("--json", action="store_true", help="print the whole result")
    known = parser.read(words)
    opened = open_run(known.run)
    measured = evaluate(
        opened,
        data=known.data,
        split=known.split,
        bad_files=known.bad_files,
        device=known.device,
        out=Path(known.out) if known.out else None,
    )
    if known.json:
        print(json.dumps(measured.result.to_dict(), indent=2))
        return
    print(headline(measured.split, measured.result.to_dict()))
    for line in measured.table():
        print(line)
    if measured.bad:
        print(f"{len(measured.bad)} files could not be read and count as wrong:")
        for file in measured.bad[:5]:
            print(f"  {file.path}: {file.reason}")
    print(f"files: {measured.folder}")
    print(f"next: vitral predict {known.run} IMAGES...")
