"""`vitral serve RUN`: the model's answers over HTTP."""

import os
from dataclasses import fields

from vitral.cli.flags import add_merge_flags, validate_merge
from vitral.cli.parser import Parser
from vitral.serve import Settings, serve

_HELP = {
    "host": "address to listen on; 0.0.0.0 for every interface",
    "port": "0 for any that is free",
    "max_batch": "images in one pass of the model",
    "max_wait_ms": "how long the first image of a batch waits for others",
    "queue": "images that may wait; 0 for 8 times --max-batch",
    "queue_seconds": "seconds that an image may expect to wait; one batch always may",
    "max_bytes": "bytes of one request",
    "max_pixels": "width times height of one image",
    "max_buffered": "bytes of all requests together",
    "timeout": "seconds from the last byte of a request to its answer",
    "body_timeout": "seconds that a body may take to arrive",
    "head_timeout": "seconds that the headers may take to arrive",
    "keep_alive": "seconds that a connection may stay idle",
    "max_connections": "connections open at a time",
    "worker_timeout": "seconds for one batch, after which the model is started again",
    "grace": "seconds that a stop waits for answers",
    "token": "bearer token to ask for; better in VITRAL_TOKEN, which nobody sees",
    "threads": "threads of the model; 0 for one a core",
}


def make_parser() -> Parser:
    """Declare the word and flags of the verb: every limit is one."""
    parser = Parser(
        "serve",
        "The model's answers over HTTP, and a page to try it.",
        usage="RUN",
        common=(
            *("--host", "--port", "--max-batch", "--max-wait-ms", "--queue"),
            *("--max-bytes", "--timeout", "--token", "--threads", "--merge"),
        ),
        examples=(
            "vitral serve runs/photos",
            "vitral serve runs/photos --host 0.0.0.0 --port 8080",
            "vitral serve photos.onnx --max-batch 16 --timeout 5",
        ),
    )
    parser.add("run", str, "a run, a model folder, or an exported model")
    for field in fields(Settings):
        if field.name in ("run", "merge", "merge_schedule"):
            continue
        flag = "--" + field.name.replace("_", "-")
        parser.add(flag, field.default, _HELP[field.name])
    add_merge_flags(parser)
    return parser


def run(argv: list[str]) -> None:
    """Listen until a signal."""
    settings = vars(make_parser().parse(argv))
    settings["token"] = settings["token"] or os.environ.get("VITRAL_TOKEN", "")
    validate_merge(settings["merge"], settings["merge_schedule"])
    serve(Settings(**settings))
