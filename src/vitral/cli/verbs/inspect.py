"""`vitral inspect RUN_OR_WEIGHTS FILES... --out DIR`: figures of a model."""

import sys
from pathlib import Path

from vitral.cli.flags import (
    add_device_flag,
    add_merge_flags,
    read_image_size,
    validate_merge,
)
from vitral.cli.parser import Parser
from vitral.errors import ConfigError, DataError

FIGURES = (
    *("attention", "words", "rollout", "relevance", "gradcam", "distance"),
    *("positions", "filters", "features", "rank", "faithfulness"),
)
"""Those of `vitral.workflows.inspect.FIGURES`."""

EXPLANATIONS = "relevance gradcam faithfulness all"
"""Figures that explain a class."""
OF_PIXELS = " ".join(name for name in FIGURES if name not in ("filters", "positions"))
"""Figures that a picture goes through the model for."""


def make_parser() -> Parser:
    parser = Parser(
        "inspect",
        "What a model looks at: figures, and the arrays behind.",
        usage="RUN_OR_WEIGHTS FILES... --out DIR",
        examples=(
            "runs/photos new/*.jpg --out looked",
            "W.safetensors cat.jpg --what rollout --out looked",
            "runs/photos a.jpg --what gradcam --class cat --out looked",
        ),
    )
    parser.add("weights", str, "a run, a model folder, or weights")
    parser.add("files", [str], "images or clips, folders, or patterns")
    parser.add("--out", str, "folder for figures and arrays", required=True)
    parser.add(
        "--what FIGURE", "all", ", ".join((*FIGURES, "all")), choices=(*FIGURES, "all")
    )
    parser.add("--format", "png", "of the figures", choices=("png", "pdf"))
    parser.add(
        "--image-size --img-size",
        [int],
        "pixels, one number or height and width; default: the model's own",
        modes=f"{OF_PIXELS} positions all",
    )
    parser.add(
        "--layer",
        int,
        "of attention: its layer; of gradcam: the block whose input is the map; -1: "
        "the last. Default: the last that says something",
        modes="attention gradcam all",
    )
    parser.add("--class CLASS", "", "name or number", dest="target", modes=EXPLANATIONS)
    add_merge_flags(parser, modes=f"{OF_PIXELS} all")
    add_device_flag(parser)
    return parser


def run(argv: list[str]) -> None:
    """Write figures and arrays, and print what could not be shown and why."""
    parser = make_parser()
    args = parser.parse(argv)
    parser.require_read("--what", args.what)
    validate_merge(args.merge, args.merge_schedule)
    out = Path(args.out)
    if out.is_file():
        raise ConfigError(f"{out} is a file: `--out` names a folder.")
    import vitral.weights
    from vitral.data import input_kind
    from vitral.workflows.inspect import NEXT_FIGURE, InspectionOptions, inspect
    from vitral.workflows.predict import find_files

    source = vitral.weights.read(args.weights)
    kind = input_kind(source.config.input_shape)
    made = inspect(
        source,
        list(find_files(args.files, kind)),
        out,
        what=args.what,
        kind=args.format,
        options=InspectionOptions(
            image_size=read_image_size(args.image_size),
            layer=args.layer,
            target=args.target,
            merge=args.merge,
            merge_schedule=args.merge_schedule,
            device=args.device,
        ),
    )
    for name, reason in made.skipped.items():
        print(f"{name}: {reason}")
    print(f"files: {', '.join(str(file) for file in made.files)}")
    more = f"{kind.upper()} --what {NEXT_FIGURE[kind]}"
    print(f"next: vitral inspect {args.weights} {more} --out DIR")
    for name, reason in made.unreadable.items():
        print(f"unreadable: {name}: {reason}", file=sys.stderr)
    if made.unreadable:
        raise DataError(
            f"{len(made.unreadable)} files could not be read; the rest was looked at."
        )
