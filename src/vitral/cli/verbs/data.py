"""`vitral data check DIR` and `vitral data split DIR`: look before you train."""

from pathlib import Path

import vitral.data
from vitral.cli.parser import Parser
from vitral.data.split import save
from vitral.errors import ConfigError


def run(argv: list[str]) -> None:
    """Audit a data set, or write its split to a file."""
    parser = Parser("data", "Audit a data set, or write its split to a file.")
    parser.add_argument("action", choices=("check", "split"))
    parser.add_argument("data", help="a folder, a table, shards or a name")
    parser.add_argument("--out", default="split.csv", help="file of `split`")
    parser.add_argument("--val", type=float, default=0.1)
    parser.add_argument("--test", type=float, default=0.2)
    parser.add_argument("--group-by", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clips", action="store_true", help="a folder of frames is one clip"
    )
    known = parser.parse(argv)
    dataset = vitral.data.open(
        known.data,
        seed=known.seed,
        val=known.val,
        test=known.test,
        group_by=known.group_by,
        kind="clips" if known.clips else "auto",
    )
    for split, counts in dataset.counts().items():
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{split}: {sum(counts.values())} {dataset.kind} ({shown})")
    if known.action == "split":
        out = Path(known.out)
        if out.exists():
            raise ConfigError(f"{out} exists: give another `--out`, or remove it.")
        save(dataset, out)
        print(f"split: {out}")
        return
    _check(dataset, known.data)


def _check(dataset: vitral.data.Dataset, name: str) -> None:
    found = vitral.data.check(dataset, workers=2, max_bad=1.0)
    for left in dataset.ignored:
        print(f"ignored: {left.path} ({left.reason})")
    for note in found.dataset.notes:
        print(f"note: {note}")
    for copies in found.leaks:
        print(f"leak: the same picture in {', '.join(copies.splits)}: {copies.ids}")
    for copies in found.conflicts:
        print(f"conflict: the same picture with different labels: {copies.ids}")
    for file in found.bad:
        print(f"unreadable: {file.path}: {file.reason}")
    size = found.median_size
    print(
        f"{found.decoded} {dataset.kind} decoded, {len(found.bad)} unreadable, median "
        f"{size.height} x {size.width} pixels"
    )
    model = " --model timesformer_ti16" if dataset.kind == "clips" else ""
    print(f"next: vitral train {name}{model} --out runs/NAME")
