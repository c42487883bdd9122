"""`vitral transfer WEIGHTS... --data D...`: how well models transfer."""

import json
import os
from pathlib import Path

from vitral.cli.flags import PROBES, add_device_flag, add_protocol_flags
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, InterruptedRun, VitralError

PROTOCOLS = (*PROBES, "finetune")
"""Those of `vitral.workflows.transfer.PROTOCOLS`."""
SHOTS = (5,)
"""Those of `vitral.workflows.transfer.SHOTS`."""


def make_parser() -> Parser:
    parser = Parser(
        "transfer",
        "A table of weights x data x protocol.",
        usage="WEIGHTS... --data D...",
        common="--data --protocol --shots --k --seed --lrs --steps --cache-dir "
        "--device --out --json",
        examples=(
            "A.safetensors B.npz --data photos other",
            "runs/encoder --data vtab --protocol fewshot --shots 1 5",
            "W.npz --data photos --protocol finetune --out runs/table",
        ),
    )
    parser.add("weights", [str], "runs, or weights of any layout")
    parser.add("--data", [str], "data sets, or groups such as vtab", required=True)
    parser.add(
        "--protocol",
        list(PROBES),
        "probes of frozen features, and training the whole model",
        choices=PROTOCOLS,
    )
    parser.add("--shots", list(SHOTS), "for fewshot", modes="fewshot")
    add_protocol_flags(parser, probes_resize=False)
    add_device_flag(parser)
    parser.add("--out", "runs/transfer", "folder of the table")
    parser.add("--json", False, "print the whole table")
    return parser


def run(argv: list[str]) -> None:
    """Fill the table, print it, and report what is missing."""
    parser = make_parser()
    args = parser.parse(argv)
    parser.require_read("--protocol", args.protocol)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "`vitral transfer` runs in one process: start it without torchrun."
        )
    from vitral.cli.finetune import make_planner
    from vitral.workflows.features import ProbeSettings
    from vitral.workflows.runtime import Runtime
    from vitral.workflows.transfer import transfer

    out = Path(args.out)
    try:
        table = transfer(
            args.weights,
            args.data,
            protocols=args.protocol,
            probes=ProbeSettings(shots=tuple(args.shots), k=args.k, seed=args.seed),
            plan=make_planner(args),
            out=out,
            cache=args.cache_dir or None,
            runtime=Runtime(device=args.device, workers=args.workers),
        )
    except InterruptedRun as error:
        raise InterruptedRun(
            f"Stopped; the finished cells are in {out}. The same command goes on.",
            error.exit_code,
        ) from error
    if args.json:
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
