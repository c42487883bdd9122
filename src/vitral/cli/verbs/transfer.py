"""`vitral transfer WEIGHTS... --data D...`: how well models transfer."""

import json
import os
from pathlib import Path

from vitral.cli.flags import add_finetune_flags, make_planner
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, InterruptedRun, VitralError
from vitral.workflows.features import PROTOCOLS as PROBES
from vitral.workflows.transfer import PROTOCOLS, SHOTS, transfer


def run(argv: list[str]) -> None:
    """Fill the table, print it, and say what is missing."""
    parser = Parser("transfer", "A table of weights x data x protocol.")
    parser.add_argument("weights", nargs="+", help="runs, or weights of any layout")
    parser.add_argument(
        "--data", nargs="+", required=True, help="data sets, or groups such as vtab"
    )
    parser.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=list(PROBES)
    )
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS))
    parser.add_argument("--k", type=int, default=20, help="neighbours, for knn")
    parser.add_argument("--seed", type=int, default=0)
    add_finetune_flags(parser)
    parser.add_argument("--cache-dir", default="", help="where features are kept")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="runs/transfer", help="folder of the table")
    parser.add_argument("--json", action="store_true", help="print the whole table")
    known = parser.parse(argv)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "`vitral transfer` runs in one process: start it without torchrun."
        )
    out = Path(known.out)
    try:
        table = transfer(
            known.weights,
            known.data,
            protocols=known.protocol,
            shots=known.shots,
            k=known.k,
            seed=known.seed,
            plan=make_planner(known),
            out=out,
            cache=known.cache_dir or None,
            workers=known.workers,
            device=known.device,
        )
    except InterruptedRun as error:
        raise InterruptedRun(
            f"Stopped; the finished cells are in {out}. The same command goes on.",
            error.exit_code,
        ) from error
    if known.json:
        print(json.dumps(table.to_dict(), indent=2))
    else:
        print(table.markdown())
        print(f"files: {out / 'table.md'}, {out / 'table.json'}")
    if table.failures:
        first = table.failures[0]
        missing = VitralError(
            f"{len(table.failures)} of {len(table.entries)} cells have no number, "
            "first "
            f"{first.weights}, {first.data}, {first.protocol}: {first.error} The same "
            "command computes only what is missing."
        )
        missing.exit_code = first.exit_code
        raise missing
