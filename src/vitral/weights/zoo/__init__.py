"""Weights by name: a table of what is published, and its download.

`resolve` is the way from a name to a file. The files stay in a cache, one folder for
each name, with their origin and SHA-256 beside them.
"""

from vitral.weights.zoo.apply import apply_record
from vitral.weights.zoo.cache import (
    cache_folder,
    find_cached,
    list_cached,
    read_pin,
    remove_folder,
    verify_folder,
)
from vitral.weights.zoo.choice import Choice, choose_default, refusal
from vitral.weights.zoo.fetch_weights import fetch, resolve
from vitral.weights.zoo.record import Record
from vitral.weights.zoo.sources import SETTINGS, TENSORS
from vitral.weights.zoo.table import find_default, find_record, nearest, records

__all__ = [
    "SETTINGS",
    "TENSORS",
    "Choice",
    "Record",
    "apply_record",
    "cache_folder",
    "choose_default",
    "fetch",
    "find_cached",
    "find_default",
    "find_record",
    "list_cached",
    "nearest",
    "read_pin",
    "records",
    "refusal",
    "remove_folder",
    "resolve",
    "verify_folder",
]
