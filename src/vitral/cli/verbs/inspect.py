"""`vitral inspect RUN_OR_WEIGHTS FILES... --out DIR`: what a model looks at."""

import sys
from pathlib import Path

import vitral.weights
from vitral.cli.flags import add_merge_flags, validate_merge
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, DataError
from vitral.workflows.inspect import FIGURES, inspect
from vitral.workflows.predict import find_files


def run(argv: list[str]) -> None:
    """Write figures and arrays, and say what could not be shown and why."""
    parser = Parser("inspect", "What a model looks at: figures, and the arrays behind.")
    parser.add_argument("weights", help="a run, a model folder, or weights")
    parser.add_argument(
        "files", nargs="+", help="images or clips, folders, or patterns"
    )
    parser.add_argument("--out", required=True, help="folder for figures and arrays")
    parser.add_argument("--what", choices=(*FIGURES, "all"), default="all")
    parser.add_argument("--format", choices=("png", "pdf"), default="png")
    parser.add_argument("--image-size", "--img-size", type=int, nargs="+", default=None)
    parser.add_argument("--layer", type=int, default=-1, help="for attention: -1 last")
    parser.add_argument("--class", dest="target", default="", help="name or number")
    add_merge_flags(parser)
    parser.add_argument("--device", default="auto")
    known = parser.parse(argv)
    validate_merge(known.merge, known.merge_schedule)
    out = Path(known.out)
    if out.is_file():
        raise ConfigError(f"{out} is a file: `--out` names a folder.")
    source = vitral.weights.read(known.weights)
    of_clips = bool(source.config.num_frames)
    made = inspect(
        source,
        list(find_files(known.files, "clips" if of_clips else "images")),
        out,
        what=known.what,
        image_size=_parse_image_size(known.image_size),
        layer=known.layer,
        target=known.target,
        kind=known.format,
        device=known.device,
        merge=known.merge,
        merge_schedule=known.merge_schedule,
    )
    for name, reason in made.skipped.items():
        print(f"{name}: {reason}")
    print(f"files: {', '.join(str(file) for file in made.files)}")
    more = "CLIPS --what relevance" if of_clips else "IMAGES --what faithfulness"
    print(f"next: vitral inspect {known.weights} {more} --out DIR")
    for name, reason in made.unreadable.items():
        print(f"unreadable: {name}: {reason}", file=sys.stderr)
    if made.unreadable:
        raise DataError(
            f"{len(made.unreadable)} files could not be read; the rest was looked at."
        )


def _parse_image_size(numbers: list[int] | None) -> int | tuple[int, int] | None:
    if numbers is None:
        return None
    if len(numbers) > 2:
        raise ConfigError(
            f"`--image-size` is one number or HEIGHT WIDTH: got {len(numbers)} numbers."
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
