"""`vitral convert IN OUT --to LAYOUT`: weights from one layout to another."""

from vitral.cli.parser import Parser
from vitral.errors import ConfigError, WeightsError
from vitral.weights import available_layouts, convert, explain


def run(argv: list[str]) -> None:
    """Convert with a line per tensor, or say what a file is."""
    parser = Parser(
        "convert",
        "Write weights in another layout, with a line per tensor; the file is read "
        "again and compared bit by bit. Layouts: "
        + ", ".join(
            f"{name} ({layout.title})" for name, layout in available_layouts().items()
        ),
    )
    parser.add_argument("source", metavar="IN", help="a file, a folder or a hub id")
    parser.add_argument("out", metavar="OUT", nargs="?", default="", help="to make")
    parser.add_argument("--to", default="", metavar="LAYOUT", help="its layout")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="say what IN is, whether it would load and what is missing",
    )
    parser.add_argument(
        "--grid",
        nargs=2,
        type=int,
        metavar=("ROWS", "COLUMNS"),
        help="of the position table, where the file cannot tell",
    )
    parser.add_argument("--num-heads", type=int, help="where the file cannot tell")
    known = parser.parse(argv)
    grid = None if known.grid is None else (known.grid[0], known.grid[1])
    if known.explain:
        _explain(known.source, grid, known.num_heads)
        return
    if not known.out or not known.to:
        raise ConfigError(
            "A conversion needs OUT and `--to LAYOUT`; `--explain` says what IN is."
        )
    made = convert(
        known.source, known.out, known.to, grid=grid, num_heads=known.num_heads
    )
    print(made.ledger)
    print(made.ledger.summary().splitlines()[0])
    print(f"files: {made.path}, read again and found bit-equal")
    print(f"next: vitral convert {made.path} --explain")


def _explain(source: str, grid: tuple[int, int] | None, num_heads: int | None) -> None:
    found = explain(source, grid=grid, num_heads=num_heads)
    print(found)
    if found.problem:
        raise WeightsError(f"{source} would not load: {found.problem}")
    print(f"next: vitral train DATA --weights {source} --out RUN")
