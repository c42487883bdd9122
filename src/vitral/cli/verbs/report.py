"""`vitral report RUN...`: (re)write the report, or compare several runs."""

from pathlib import Path

from vitral.cli.parser import Parser
from vitral.errors import ConfigError


def make_parser() -> Parser:
    parser = Parser(
        "report",
        "(Re)write a run's report; several runs are compared in a file of its own.",
        usage="RUN...",
        examples=("runs/photos", "runs/photos runs/tuned", "runs/*"),
    )
    parser.add("runs", [str], "run folders; several are tested in pairs")
    parser.add(
        "--out",
        "",
        "file of a comparison; else RUN/comparison-with-OTHERS.html of the first",
    )
    return parser


def run(argv: list[str]) -> None:
    """Write report.html of one run, or the comparison of several."""
    args = make_parser().parse(argv)
    from vitral.workflows.inspect import write_comparison, write_report

    folders = [Path(run) for run in args.runs]
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} is not a run: give the folder that `vitral train --out` "
                "made."
            )
    if len(folders) > 1:
        out = Path(args.out) if args.out else None
        print(f"comparison: {write_comparison(folders, out)}")
        return
    if args.out:
        raise ConfigError(
            "`--out` is the file of a comparison, and one run was given: its report is "
            f"{folders[0] / 'report.html'}."
        )
    print(f"report: {write_report(folders[0])}")
