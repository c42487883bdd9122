"""`vitral report RUN...`: (re)write the report; several runs side by side."""

from pathlib import Path

from vitral.cli.parser import Parser
from vitral.errors import ConfigError
from vitral.workflows.inspect import write_report


def run(argv: list[str]) -> None:
    """Write report.html into the first run's folder."""
    parser = Parser("report", "(Re)write the report; several runs side by side.")
    parser.add_argument("runs", nargs="+", help="run folders; the first gets the file")
    known = parser.parse(argv)
    folders = [Path(run) for run in known.runs]
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} is not a run: give the folder that `vitral train --out` "
                "made."
            )
    print(f"report: {write_report(folders[0], others=folders[1:])}")
