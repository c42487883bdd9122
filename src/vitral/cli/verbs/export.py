"""`vitral export RUN OUT --to TARGET`: a model as a file for another runtime."""

import argparse
from typing import TYPE_CHECKING

from vitral.cli.flags import add_merge_flags, validate_merge
from vitral.cli.parser import Parser
from vitral.errors import ConfigError
from vitral.validation import suggestion

if TYPE_CHECKING:
    from vitral.export import GateReport

TARGETS = ("onnx", "openvino")


def make_parser() -> Parser:
    parser = Parser(
        "export",
        "Write a model as an ONNX file or an OpenVINO folder. The file is compared "
        "with the model on real images before it gets its name.",
        usage="RUN OUT --to TARGET",
        examples=(
            "runs/photos photos.onnx",
            "runs/photos photos_int8 --to openvino --int8",
            "runs/photos photos.onnx --with-preprocess --data photos",
        ),
    )
    parser.add("run RUN", str, "a run, or weights of any layout")
    parser.add("out OUT", str, "a new .onnx file, or a new folder")
    parser.add("--to TARGET", "onnx", " or ".join(TARGETS))
    parser.add("--int8", False, "openvino: quantise to int8")
    parser.add("--bf16", False, "openvino: in bfloat16")
    parser.add(
        "--max-drop",
        0.5,
        "points of accuracy that int8 or bfloat16 may lose",
        modes="--int8 --bf16",
    )
    parser.add(
        "--with-preprocess",
        False,
        "take uint8 pixels [batch, height, width, 3] of any size",
    )
    parser.add("--static", False, "one image size alone")
    add_merge_flags(parser)
    parser.add("--data", "", "images to compare on; default: the run's own")
    return parser


def run(argv: list[str]) -> None:
    """Export, measure, and print what was measured."""
    parser = make_parser()
    args = parser.parse(argv)
    precisions = [f"--{name}" for name in ("int8", "bf16") if getattr(args, name)]
    parser.require_read("", precisions)
    report = _export(args)
    print(f"{args.out}: {args.to} in {report.precision}, {report.megabytes:.1f} MB")
    for line in report.lines():
        print(line)
    print(f"next: vitral predict {args.out} IMAGES...")


def _export(args: argparse.Namespace) -> "GateReport":
    if args.to not in TARGETS:
        hint = suggestion(args.to.lower(), TARGETS, cutoff=0.5)
        raise ConfigError(
            f"`--to {args.to}` is no target of an export; there are "
            f"{' and '.join(TARGETS)}.{hint}"
        )
    validate_merge(args.merge, args.merge_schedule)
    import vitral.export
    from vitral.cli.logs import install_handler

    install_handler(print)
    options = vitral.export.ExportOptions(
        data=args.data,
        with_preprocess=args.with_preprocess,
        static=args.static,
        merge=args.merge,
        merge_schedule=args.merge_schedule,
    )
    if args.to == "onnx":
        if args.int8 or args.bf16:
            raise ConfigError(
                "`--int8` and `--bf16` are for OpenVINO: add `--to openvino`."
            )
        return vitral.export.onnx(args.run, args.out, options)
    if args.int8 and args.bf16:
        raise ConfigError("`--int8` and `--bf16` exclude each other: give one.")
    return vitral.export.openvino(
        args.run,
        args.out,
        options,
        precision="int8" if args.int8 else "bf16" if args.bf16 else "fp32",
        max_drop=args.max_drop,
    )
