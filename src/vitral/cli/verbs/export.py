"""`vitral export RUN OUT --to TARGET`: a model as a file for another runtime."""

import argparse
import difflib
from typing import Any

from vitral.cli.flags import add_merge, require_merge
from vitral.cli.parser import Parser
from vitral.errors import ConfigError
from vitral.export import GateReport

TARGETS = ("onnx", "openvino")


def run(words: list[str]) -> None:
    """Export, measure, and say what was measured."""
    parser = Parser(
        "export",
        "Write a model as an ONNX file or an OpenVINO folder. The file is compared "
        "with the model on real images before it gets its name.",
    )
    parser.add_argument("run", metavar="RUN", help="a run, or weights of any layout")
    parser.add_argument("out", metavar="OUT", help="a new .onnx file, or a new folder")
    parser.add_argument(
        "--to", default="onnx", metavar="TARGET", help=" or ".join(TARGETS)
    )
    parser.add_argument(
        "--int8", action="store_true", help="openvino: quantise to int8"
    )
    parser.add_argument("--bf16", action="store_true", help="openvino: in bfloat16")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        help="points of accuracy that int8 or bfloat16 may lose",
    )
    parser.add_argument(
        "--with-preprocess",
        action="store_true",
        help="take uint8 pixels [batch, height, width, 3] of any size",
    )
    parser.add_argument("--static", action="store_true", help="one image size alone")
    add_merge(parser)
    parser.add_argument(
        "--data", default="", help="images to compare on; default: the run's own"
    )
    known = parser.read(words)
    report = _export(known)
    print(f"{known.out}: {known.to} in {report.precision}, {report.megabytes:.1f} MB")
    for line in report.lines():
        print(line)
    print(f"next: vitral predict {known.out} IMAGES...")


def _export(known: argparse.Namespace) -> GateReport:
    if known.to not in TARGETS:
        near = difflib.get_close_matches(known.to.lower(), TARGETS, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"`--to {known.to}` is no target of an export; there are "
            f"{' and '.join(TARGETS)}.{hint}"
        )
    require_merge(known.merge, known.merge_schedule)
    settings: dict[str, Any] = {
        "data": known.data,
        "with_preprocess": known.with_preprocess,
        "static": known.static,
        "merge": known.merge,
        "merge_schedule": known.merge_schedule,
    }
    import vitral.export

    if known.to == "onnx":
        if known.int8 or known.bf16:
            raise ConfigError(
                "`--int8` and `--bf16` are for OpenVINO: add `--to openvino`."
            )
        return vitral.export.onnx(known.run, known.out, **settings)
    if known.int8 and known.bf16:
        raise ConfigError("`--int8` and `--bf16` exclude each other: give one.")
    settings["precision"] = "int8" if known.int8 else "bf16" if known.bf16 else "fp32"
    return vitral.export.openvino(
        known.run, known.out, max_drop=known.max_drop, say=print, **settings
    )
