"""Turn warnings raised inside Pillow into notes, in one thread only."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def one_line(error: BaseException | str) -> str:
    """Return the text of an error in one line, or the name of its type."""
    return " ".join(str(error).split()) or type(error).__name__


class _ThreadNotes(threading.local):
    notes: list[str] | None = None


_listener = _ThreadNotes()
_lock = threading.Lock()
_decoding: "list[warnings.catch_warnings[None]]" = []
"""The state that the first decode of those in progress entered, once for each."""


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Turn warnings raised inside Pillow into notes, in this thread only.

    `warnings.catch_warnings` swaps process-wide state, which threads must not nest
    independently: the first decode enters it, the last one exits. Filters for other
    modules than Pillow's are unchanged.
    """
    notes: list[str] = []
    with _lock:
        if _decoding:
            _decoding.append(_decoding[0])
        else:
            _decoding.append(warnings.catch_warnings())
            _decoding[0].__enter__()
            previous = warnings.showwarning

            def route(message, category, filename, lineno, file=None, line=None):  # type: ignore[no-untyped-def]  # signature fixed by warnings
                if _listener.notes is None:
                    previous(message, category, filename, lineno, file, line)
                else:
                    _listener.notes.append(f"Pillow warns: {one_line(message)}")

            warnings.filterwarnings("always", module=r"PIL\.")
            warnings.showwarning = route
    _listener.notes = notes
    try:
        yield notes
    finally:
        _listener.notes = None
        with _lock:
            catcher = _decoding.pop()
            if not _decoding:
                catcher.__exit__(None, None, None)
