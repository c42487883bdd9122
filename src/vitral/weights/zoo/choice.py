"""The weights that a training starts from where none are named."""

import importlib.util
from dataclasses import dataclass

from vitral.errors import WeightsError
from vitral.weights.zoo import hub, local_copies
from vitral.weights.zoo.cache import find_cached
from vitral.weights.zoo.connection import connect, is_offline
from vitral.weights.zoo.installed import find_carrier
from vitral.weights.zoo.record import Record
from vitral.weights.zoo.sources import Origin
from vitral.weights.zoo.table import records

ON_CPU, ON_GPU = "dinov2_s14", "dinov2_b14"
"""Best frozen features of their size in the table (arXiv 2304.07193, table 8)."""
LARGEST = 400.0
"""MB that are fetched without being asked for."""
PATIENCE = 3.0
"""Seconds in which the hub must answer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights to start from, and a sentence that says why."""

    name: str
    """Empty: none can be had, train from zero."""
    origin: Origin
    """Kind of the place that has them, which `fetch` takes."""
    sentence: str


def choose_default(device: str, *, may_fetch: bool = True) -> Choice:
    """Choose the weights for this machine, if they are here or can be fetched.

    Nothing is fetched. Weights that are gated, not for commercial use, a pickle or
    above 400 MB are never chosen.

    Args:
        device: `cpu`, or that of a GPU.
        may_fetch: False: only weights that are on this machine.
    """
    record = records()[ON_CPU if device == "cpu" else ON_GPU]
    assert not record.needs_consent
    assert not record.is_pickle
    assert record.size_mb <= LARGEST
    facts = f"{record.size_mb:.0f} MB, {record.licence}"
    place, origin = _find_here(record)
    if place:
        sentence = f"weights: {record.name} from {place} ({facts})"
        return Choice(record.name, origin, sentence)
    if is_offline():
        missing = "the network is forbidden"
    elif not may_fetch:
        missing = "a dry run fetches nothing"
    else:
        missing = _why_unreachable(record)
        if not missing:
            sentence = f"weights: {record.name}, to be fetched from the hub ({facts})"
            return Choice(record.name, "hub", sentence)
    return Choice("", "any", refusal(record, missing))


def refusal(record: Record, missing: str) -> str:
    """Return the sentence of a training that cannot have its weights."""
    return (
        f"no pre-trained weights: {record.name} is not on this machine, and {missing}; "
        f"`vitral weights fetch {record.name}` fetches it ({record.size_mb:.0f} MB, "
        f"{record.licence}). Training from zero."
    )


def _find_here(record: Record) -> tuple[str, Origin]:
    """Return the place on this machine that has the weights; empty if none has."""
    if find_cached(record.name) is not None:
        return "the cache", "any"
    files = (record.hub_file,)
    if local_copies.find_hub_snapshot(record.hub, record.revision, files):
        return "Hugging Face's cache", "hub"
    found = find_carrier(record.name)
    if found is not None and importlib.util.find_spec("onnx") is not None:
        return f"the package {found[0].package}", "package"
    return "", "any"


def _why_unreachable(record: Record) -> str:
    """Return why the hub does not give the weights now; empty if it does."""
    try:
        with connect(PATIENCE) as client:
            if hub.is_reachable(client, record.hub, PATIENCE):
                return ""
    except WeightsError as error:
        return f"a setting of the network cannot be used ({error})"
    return f"{hub.endpoint()} gave no answer within {PATIENCE:.0f} s"
