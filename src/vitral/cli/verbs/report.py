"""`vitral report RUN...`: (re)write the report; several runs side by side."""

from pathlib import Path

from vitral.cli.parser import Parser
from vitral.errors import ConfigError


def make_parser() -> Parser:
    parser = Parser(
        "report",
        "(Re)write the report; several runs side by side.",
        usage="RUN...",
        examples=("runs/photos", "runs/photos runs/tuned", "runs/*"),
    )
    parser.add("runs", [str], "run folders; the first gets the file")
    return parser


def run(argv: list[str]) -> None:
    """Write report.html into the first run's folder."""
    args = make_parser().parse(argv)
    from vitral.workflows.inspect import write_report

    folders = [Path(run) for run in args.runs]
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} is not a run: give the folder that `vitral train --out` "
                "made."
            )
    print(f"report: {write_report(folders[0], others=folders[1:])}")
