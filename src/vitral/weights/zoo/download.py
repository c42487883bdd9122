"""Download one file by HTTP: resumed, checked, and never half there.

The bytes go to a partial file beside the target, which stays after a failure. The next
attempt asks for the rest (`Range`), and only if the file is still the same
(`If-Range`). The target appears by a rename, after its size and checksum fit.
"""

import contextlib
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vitral.errors import WeightsError
from vitral.weights.zoo.causes import WrongContentError, failure_of
from vitral.weights.zoo.retry import retry

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)
CHUNK = 1 << 20
SPARE_BYTES = 50_000_000
"""Free space that a download leaves on the disk."""
VALIDATOR_SUFFIX = ".validator"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file to fetch, and what is known of it."""

    url: str
    label: str
    """Name of the file in messages."""
    size: int = 0
    """Bytes; 0: not known."""
    limit: int
    """Most bytes that are taken where the size is not known."""
    checksum: str = ""
    """Algorithm and hexadecimal digits, or the first of them, such as `sha256:b938`.
    `git:` is the hash of a blob. Empty: not known."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    terms: str = ""
    """Page where access is asked for; empty for files that all may have."""


Report = Callable[[RemoteFile, int, int], None]
"""Called with the file, the bytes that are here and those of the whole, 0: unknown."""


def download(
    file: RemoteFile,
    target: Path,
    client: "httpx2.Client",
    report: Report = lambda file, done, total: None,
) -> None:
    """Download a file to `target`, which appears when it is whole and checked.

    A second process that wants the same file waits for the first, and then takes its
    file.

    Raises:
        WeightsError: it cannot be had; the message has the cause and what to do.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    with lock(partial.with_suffix(".lock")):
        if target.is_file() and _fault(file, target) is None:
            return
        for last in (False, True):
            _fetch(file, partial, client, report)
            fault = _fault(file, partial)
            if fault is None:
                partial.replace(target)
                _validator_file(partial).unlink(missing_ok=True)
                return
            partial.unlink()
            _validator_file(partial).unlink(missing_ok=True)
            if last:
                raise WeightsError(
                    f"{file.label}: {fault} It was fetched twice from {file.url} and "
                    "is another file than the one that was published; it was removed. "
                    "Take another source, or tell who runs that address."
                )
            logger.warning("%s: %s It is fetched once more.", file.label, fault)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file; another process that wants it waits, and says so."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process fetches this: waiting for it (%s)", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(
    file: RemoteFile, partial: Path, client: "httpx2.Client", report: Report
) -> None:
    """Bring all bytes to `partial`, with as many retries as are allowed in a row."""
    most = _size(partial)

    def progressed() -> bool:
        # The most so far counts: a file that starts anew for ever is no progress.
        nonlocal most
        before, most = most, max(most, _size(partial))
        return most > before + CHUNK

    try:
        retry(
            lambda: _fetch_rest(file, partial, client, report), file.label, progressed
        )
    except Exception as error:
        raise failure_of(error, file.url, file.label, file.terms) from error


def _fetch_rest(
    file: RemoteFile, partial: Path, client: "httpx2.Client", report: Report
) -> None:
    """Ask for what is missing, in one request."""
    have = _size(partial)
    if file.size and have == file.size:
        return
    if file.size and have > file.size:
        partial.unlink()
        have = 0
    validator = _read_validator(partial)
    headers = {"Accept-Encoding": "identity", **file.headers}
    if have and (validator or file.checksum):
        headers["Range"] = f"bytes={have}-"
    if have and validator:
        headers["If-Range"] = validator
    with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code == 416:  # what is here is not of this file
            partial.unlink(missing_ok=True)
            raise WrongContentError("the partial file is of another one")
        response.raise_for_status()
        start = _start_of(response, have, validator)
        total = _total_of(response, start)
        _require_file(file, response, total)
        _require_space(file, partial, (total or file.size) - start)
        if start == 0:
            _validator_file(partial).write_text(_validator_of(response))
        with partial.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            stream.truncate()
            _copy(file, response, stream, start, total, report)
    done = _size(partial)
    if total and done < total:
        raise WrongContentError(
            f"the connection ended after {done:,} of {total:,} bytes"
        )


def _copy(
    file: RemoteFile,
    response: "httpx2.Response",
    stream: BinaryIO,
    start: int,
    total: int,
    report: Report,
) -> None:
    done, limit = start, file.size or total or file.limit
    for chunk in response.iter_raw():
        done += len(chunk)
        if limit and done > limit:
            raise WrongContentError(f"more than the {limit:,} bytes of the file came")
        stream.write(chunk)
        report(file, done, file.size or total)


def _start_of(response: "httpx2.Response", have: int, validator: str) -> int:
    """Return the first byte of an answer: 0 where the server sends all of it."""
    if response.status_code != 206:
        return 0
    first = response.headers.get("Content-Range", "").removeprefix("bytes ")
    same = validator in ("", _validator_of(response)) or not _validator_of(response)
    if not (have and same and first.split("-")[0] == str(have)):
        raise WrongContentError(f"an answer to another range came: {first or 'none'}")
    return have


def _total_of(response: "httpx2.Response", start: int) -> int:
    """Return the bytes of the whole file as the server states them; 0: not stated."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if whole.isdigit():
        return int(whole)
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else 0


def _require_file(file: RemoteFile, response: "httpx2.Response", total: int) -> None:
    """Refuse a web page, and a file of another size, before its bytes are taken."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if kind == "text/html":
        raise WrongContentError(
            f"a web page (Content-Type {kind}) came in place of the file", final=True
        )
    if not file.size and total > file.limit:
        raise WrongContentError(
            f"the server offers {total:,} bytes where at most {file.limit:,} are taken",
            final=True,
        )
    if file.size and total and total != file.size:
        raise WrongContentError(
            f"the server offers {total:,} bytes, the file has {file.size:,}"
        )


def _require_space(file: RemoteFile, partial: Path, missing: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if missing > 0 and missing + SPARE_BYTES > free:
        raise WeightsError(
            f"{file.label} needs {missing / 1e6:,.0f} MB in {partial.parent}, and "
            f"{free / 1e6:,.0f} MB are free on that disk. Free some space, or set "
            "VITRAL_CACHE to a folder on another disk; what is here is kept."
        )


def _fault(file: RemoteFile, path: Path) -> str | None:
    """Return what is wrong with the bytes of `path`; None if nothing is."""
    size = _size(path)
    if file.size and size != file.size:
        return f"{size:,} bytes came, {file.size:,} were expected."
    algorithm, _, expected = file.checksum.partition(":")
    if not expected:
        return None
    digest = hash_file(path, algorithm)
    if digest.startswith(expected):
        return None
    return f"the {algorithm} of its bytes is {digest}, {expected} was expected."


def hash_file(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file: `sha256`, `md5`, or a blob of `git`."""
    with path.open("rb") as file:
        if algorithm != "git":
            return hashlib.file_digest(file, algorithm).hexdigest()
        blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while chunk := file.read(CHUNK):
            blob.update(chunk)
        return blob.hexdigest()


def _validator_of(response: "httpx2.Response") -> str:
    """Return what says that two answers have the same bytes: an ETag, else a date."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _validator_file(partial: Path) -> Path:
    return partial.with_name(partial.name + VALIDATOR_SUFFIX)


def _read_validator(partial: Path) -> str:
    file = _validator_file(partial)
    return file.read_text() if file.is_file() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
