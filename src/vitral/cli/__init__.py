"""The command `vitral`: its verbs and exit codes.

Each verb is a module, imported when it is called.
"""

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from vitral.cli.streams import (
    complain,
    discard_output,
    is_output_full,
    open_closed_streams,
)
from vitral.cli.terminal import escape_controls, protect_terminal
from vitral.errors import VitralError
from vitral.version import __version__

HELP_FLAGS = ("-h", "--help")
OFFLINE_FLAG, OFFLINE = "--offline", "VITRAL_OFFLINE"
VERBS = {
    "demo": "the main job end to end on data that comes with the install",
    "train": "train, fine-tune or probe: DATA --out RUN [--weights FILE]",
    "self-train": "a teacher labels images, students learn: DATA UNLABELLED --out DIR",
    "eval": "accuracy with intervals, per class and calibration: RUN [DATA]",
    "transfer": "a table of weights x data x protocol: WEIGHTS... --data D...",
    "serve": "answers over HTTP, and a page to try it: RUN",
    "compare": "which of two models is better, on the same images: A B",
    "verify-resume": "kill a run, resume it, compare it bit for bit: RECIPE [DATA]",
    "predict": "one JSON line or CSV row per image: RUN FILES...",
    "inspect": "what a model looks at: RUN_OR_WEIGHTS IMAGES... --out DIR",
    "study": "an experiment of the paper at a reachable size: NAME",
    "report": "(re)write the one-file HTML report: RUN...",
    "data": "audit a data set, or write its split: check DIR, split DIR",
    "convert": "weights between layouts: IN OUT --to LAYOUT, or IN --explain",
    "export": "an ONNX file or OpenVINO folder, measured: RUN OUT --to TARGET",
    "tune-speed": "the fastest way to run a model that is good enough: RUN",
    "weights": "pre-trained weights by name: list, show NAME, fetch NAME",
    "models": "names, parameters and multiply-accumulates",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; docs/cli.md lists the codes."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    open_closed_streams()
    try:
        with _offline_if_asked(argv) as words:
            code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `vitral models | head`
        discard_output()
        return 0
    except OSError as error:
        discard_output()
        complain(_full_output_sentence("vitral", error))
        return 4
    return code


@contextlib.contextmanager
def _offline_if_asked(argv: list[str]) -> Iterator[list[str]]:
    """Take `--offline` out of a command, and forbid the network for its time.

    A variable of the environment says it also to the processes that a verb starts.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    if OFFLINE_FLAG not in argv[:end]:
        yield argv
        return
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    try:
        yield [word for word in argv[:end] if word != OFFLINE_FLAG] + argv[end:]
    finally:
        os.environ.pop(OFFLINE)
        if before is not None:
            os.environ[OFFLINE] = before


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in (*HELP_FLAGS, "help"):
        print(_help_text())
        return 0 if argv else 2
    if argv[0] in ("--version", "version"):
        print(f"vitral {__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        from vitral.validation import suggestion

        hint = suggestion(verb, VERBS, cutoff=0.3)
        complain(f"vitral: unknown verb `{verb}`.{hint} `vitral --help` lists all.")
        return 2
    return _run_verb(verb, argv[1:])


def _run_verb(verb: str, argv: list[str]) -> int:
    from vitral.cli.logs import TRAINING, install_handler, set_verb, warn

    set_verb(verb)
    install_handler(warn, without=TRAINING)
    try:
        name = verb.replace("-", "_")
        with protect_terminal():
            importlib.import_module(f"vitral.cli.verbs.{name}").run(argv)
    except VitralError as error:
        from vitral.cli.error_text import name_flags

        text = name_flags(str(error), verb)
        complain(f"vitral {verb}: {escape_controls(text)}")
        return error.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:
        complain(f"vitral {verb}: stopped by the keyboard.")
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _report_unexpected(verb, error)
        if error.filename is None and is_output_full():
            discard_output()
            complain(_full_output_sentence(f"vitral {verb}", error))
            return 4
        complain(
            f"vitral {verb}: the disk is full ({error.filename or 'unknown file'}). "
            "Free some space and run the same command again; what was complete "
            "before is intact."
        )
        return 4
    except Exception as error:
        return _report_unexpected(verb, error)
    return 0


def _full_output_sentence(program: str, error: OSError) -> str:
    return (
        f"{program}: the standard output cannot be written ({error.strerror}). Send it "
        "to another file or disk; files that were complete are intact."
    )


def _report_unexpected(verb: str, error: Exception) -> int:
    from vitral.cli.logs import append_text, log_file

    file = log_file()
    trace = traceback.format_exc()
    where = "set VITRAL_TRACEBACK=1 to see where"
    if file is not None and append_text(file, trace):
        where = f"the traceback is in {file}"
    if os.environ.get("VITRAL_TRACEBACK"):
        complain(trace)
    first = escape_controls(" ".join(str(error).split()))
    complain(f"vitral {verb}: unexpected {type(error).__name__}: {first} ({where}).")
    return 1


def _help_text() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items())
    return (
        "vitral: Vision Transformers, from a folder of images to a measured model\n\n"
        f"usage: vitral VERB ...\n\n{verbs}\n\n"
        "`vitral VERB --help` says more, `vitral VERB --help-all` lists every flag.\n"
        "`--offline` with any verb: weights from this machine alone, no network.\n"
        "Exit codes: 0 done, 1 unexpected, 2 usage, 3 data, 4 weights, 5 diverged,\n"
        "6 gate, 7 missing extra or device, 8 server, 130/143 stopped by a signal."
    )
