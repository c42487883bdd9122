"""`vitral data check DIR` and `vitral data split DIR`: look before you train."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.cli.parser import Parser
from vitral.cli.task_flags import read_objective
from vitral.errors import ConfigError, DataError
from vitral.validation import not_negative

if TYPE_CHECKING:
    import vitral.data


def make_parser() -> Parser:
    parser = Parser(
        "data",
        "Audit a data set, or write its split to a file.",
        usage="{check,split} DATA",
        examples=(
            "check photos",
            "check clips --clips",
            "split photos --val 0.1 --test 0.2 --out split.csv",
        ),
    )
    parser.add(
        "action", str, "decode everything, or write a split", choices=("check", "split")
    )
    parser.add("data", str, "a folder, a table, shards or a name")
    parser.add("--out", "split.csv", "file of `split`", modes="split")
    parser.add("--val", 0.1, "share that chooses the best step")
    parser.add("--test", 0.2, "share that is only measured")
    parser.add(
        "--group-by",
        "",
        "what must not part across splits: folder, a regular expression on the "
        "path, or a column of the table",
    )
    parser.add("--seed", 0, "of the split")
    parser.add("--task NAME", "", "what is learned; empty: what the data says")
    parser.add("--target COLUMN", [str], "columns of numbers to learn")
    parser.add(
        "--max-bad SHARE",
        1.0,
        "share of unreadable files above which it exits with 3; above 1 their number",
        modes="check",
    )
    parser.add("--clips", False, "a folder of frames is one clip")
    return parser


def run(argv: list[str]) -> None:
    """Audit a data set, or write its split to a file."""
    parser = make_parser()
    args = parser.parse(argv)
    parser.require_read("vitral data", args.action)
    parser.require_read("", args.action)
    not_negative(max_bad=args.max_bad)
    from vitral.data.split import save
    from vitral.workflows.dataset import SplitRequest, describe_labels, open_for_task
    from vitral.workflows.resolve_task import fitting_objective

    source = SplitRequest(
        data=args.data,
        seed=args.seed,
        val=args.val,
        test=args.test,
        group_by=args.group_by,
    )
    objective = read_objective(args.task, args.target) or fitting_objective(args.data)
    dataset = open_for_task(source, objective, "clips" if args.clips else "auto")
    print(f"task: {describe_labels(dataset, objective, args.data)}")
    described = dataset.describe_splits()
    for split, counts in dataset.counts().items():
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        classes = f" ({shown})" if dataset.classes else ""
        print(f"{split}: {described[split]}{classes}")
    left_out = dataset.left_out_line()
    if left_out:
        print(left_out)
    if args.action == "split":
        out = Path(args.out)
        if out.exists():
            raise ConfigError(f"{out} exists: give another `--out`, or remove it.")
        save(dataset, out)
        for note in dataset.notes:
            print(f"note: {note}")
        print(f"split: {out}")
        return
    flags = f" --task {args.task}" if args.task else ""
    if args.target:
        flags += f" --target {' '.join(args.target)}"
    _check(dataset, args.data + flags, args.max_bad)


def _check(dataset: "vitral.data.Dataset", name: str, max_bad: float) -> None:
    import vitral.data
    from vitral.data.audit import MAX_BAD, accepted_bad

    audit = vitral.data.check(dataset, workers=2, max_bad=1.0)
    for left in dataset.ignored:
        print(f"ignored: {left.path} ({left.reason})")
    for note in audit.dataset.notes:
        print(f"note: {note}")
    for copies in audit.leaks:
        print(f"leak: the same picture in {', '.join(copies.splits)}: {copies.ids}")
    for copies in audit.conflicts:
        print(f"conflict: the same picture with different labels: {copies.ids}")
    for file in audit.bad:
        print(f"unreadable: {file.path}: {file.reason}")
    size = audit.median_size
    print(
        f"{audit.decoded} {dataset.kind} decoded, {len(audit.bad)} unreadable, median "
        f"{size.height} x {size.width} pixels"
    )
    model = " --model timesformer_ti16" if dataset.kind == "clips" else ""
    share = len(audit.bad) / audit.decoded
    accepted = f" --max-bad {math.ceil(share * 100) / 100}" if share > MAX_BAD else ""
    print(f"next: vitral train {name}{model}{accepted} --out runs/NAME")
    if len(audit.bad) > accepted_bad(max_bad, audit.decoded):
        raise DataError(
            f"{len(audit.bad)} of {audit.decoded} {dataset.kind} are unreadable, more "
            f"than `--max-bad {max_bad:g}` accepts: repair or remove them."
        )
