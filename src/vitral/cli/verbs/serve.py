"""`vitral serve RUN`: the model's answers over HTTP."""

import os
from dataclasses import fields

from vitral.cli.config_flags import field_docs
from vitral.cli.flags import add_merge_flags, validate_merge
from vitral.cli.parser import Parser
from vitral.serve import Settings, serve


def make_parser() -> Parser:
    """Declare the word and flags of the verb: every limit is one."""
    parser = Parser(
        "serve",
        "The model's answers over HTTP, and a page to try it.",
        usage="RUN",
        common="--host --port --max-batch --max-wait-ms --queue --max-bytes --timeout "
        "--token --threads --merge",
        examples=(
            "runs/photos",
            "runs/photos --host 0.0.0.0 --port 8080",
            "photos.onnx --max-batch 16 --timeout 5",
        ),
    )
    parser.add("run", str, "a run, a model folder, or an exported model")
    docs = field_docs(Settings)
    for field in fields(Settings):
        if field.name in ("run", "merge", "merge_schedule"):
            continue
        flag = "--" + field.name.replace("_", "-")
        parser.add(flag, field.default, docs[field.name])
    add_merge_flags(parser)
    return parser


def run(argv: list[str]) -> None:
    """Listen until a signal."""
    settings = vars(make_parser().parse(argv))
    settings.pop("offline")  # `main` has taken it
    settings["token"] = settings["token"] or os.environ.get("VITRAL_TOKEN", "")
    validate_merge(settings["merge"], settings["merge_schedule"])
    serve(Settings(**settings))
