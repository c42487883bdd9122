"""Index tar files by WebDataset's convention: `1.jpg` and `1.cls` are one example.

The key is the name up to the first dot of its last part. Hand-written: `webdataset`
streams, shuffles by buffer and does not resume bit-exactly; here each example is read
by offset, nothing is unpickled or extracted, and a damaged member costs one example.
"""

import json
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitral.data.images import IMAGE_EXTENSIONS
from vitral.data.names import canonical_class, split_names
from vitral.data.shards.index import ShardIndex
from vitral.data.shards.tar import TarMember, read_contents

LABELS = ("cls", "json", "txt")
"""Extensions of label members; a shard uses the first that any example has."""
CODE_EXTENSIONS = frozenset({"pyd", "pkl", "pickle", "pth", "pt"})
MAX_LABEL_BYTES = 65_536
MAX_IMAGE_BYTES = 1 << 28
MAX_LABEL_CHARS = 200
_GZIP = b"\x1f\x8b"


_Skipped = dict[tuple[str, str], list[str]]
"""Names of the members that belong to no example, by extension and reason."""


class _LabelError(Exception):
    """A member without a usable label; the text is the reason."""


@dataclass
class _Group:
    """The members of one key."""

    picture: TarMember | None = None
    labels: dict[str, TarMember] = field(default_factory=dict)
    fault: str = ""


def index_tar(path: Path) -> ShardIndex:
    """Index a tar file; of a damaged one the examples before the damage.

    If the file has no labels at all, its pictures are examples without one.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.pread(descriptor, 2, 0) == _GZIP:
            return ShardIndex(
                fault="it is compressed, which allows no access to single pictures; "
                "unpack it once with `gunzip`"
            )
        contents = read_contents(descriptor)
        index = ShardIndex(fault=contents.fault)
        skipped: _Skipped = defaultdict(list)
        for name, reason in contents.ignored:
            skipped["", reason].append(name)
        groups = _group_members(contents.members, skipped)
        _fill_index(index, groups, descriptor, skipped)
        for (_, reason), names in skipped.items():
            count = f"; {len(names)} so" if len(names) > 1 else ""
            index.ignored.append([names[0], f"{reason}{count}"])
    finally:
        os.close(descriptor)
    return index


def _group_members(members: list[TarMember], skipped: _Skipped) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for member in members:
        folder, base = posixpath.split(member.name)
        stem, dot, extension = base.partition(".")
        extension = extension.lower()
        reason = ""
        if not stem:
            reason = "hidden"
        elif not dot:
            reason = "without an extension"
        elif extension in CODE_EXTENSIONS:
            reason = f"a .{extension} member, which is never unpickled"
        elif f".{extension}" not in IMAGE_EXTENSIONS and extension not in LABELS:
            reason = f"a .{extension} member is neither a picture nor a label"
        if reason:
            skipped[extension, reason].append(member.name)
            continue
        key = f"{folder}/{stem}" if folder else stem
        group = groups.setdefault(key, _Group())
        if extension in LABELS:
            if extension in group.labels:
                skipped["", "a second member of this name"].append(member.name)
            else:
                group.labels[extension] = member
        elif group.picture is not None:
            group.fault = group.fault or (
                f"has two pictures, {group.picture.name} and {member.name}; members "
                "belong together by the name up to its first dot"
            )
        elif not member.size:
            group.fault = "an empty picture"
        else:
            group.picture = member
    return groups


def _fill_index(
    index: ShardIndex,
    groups: dict[str, _Group],
    descriptor: int,
    skipped: _Skipped,
) -> None:
    present = {extension for group in groups.values() for extension in group.labels}
    extension = next((name for name in LABELS if name in present), "")
    index.source = f".{extension}" if extension else ""
    for key, group in groups.items():
        label = group.labels.get(extension)
        if group.fault:
            skipped["", group.fault].append(key)
        elif group.picture is None:
            skipped["", "no picture: a label alone"].append(key)
        elif group.picture.size > MAX_IMAGE_BYTES:
            reason = f"a picture of more than {MAX_IMAGE_BYTES:,} bytes"
            skipped["", reason].append(key)
        elif not extension:
            index.add(key, group.picture.offset, group.picture.size, ())
        elif label is None:
            skipped["", f"no label: .{extension} is missing"].append(key)
        else:
            try:
                labels = _read_labels(descriptor, label, extension)
            except _LabelError as fault:
                skipped[extension, f"no label: {fault}"].append(key)
                continue
            index.add(key, group.picture.offset, group.picture.size, labels)


def _read_labels(descriptor: int, member: TarMember, extension: str) -> tuple[str, ...]:
    if member.size > MAX_LABEL_BYTES:
        raise _LabelError(f".{extension} has more than {MAX_LABEL_BYTES:,} bytes")
    content = os.pread(descriptor, member.size, member.offset)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise _LabelError(f".{extension} is not UTF-8") from None
    if extension == "json":
        labels = list(_labels_from_json(text))
    else:
        labels = [label.strip() for label in split_names(text.replace("\n", ";"))]
    labels = list(dict.fromkeys(canonical_class(label) for label in labels if label))
    if not labels:
        raise _LabelError(f".{extension} is empty")
    if extension == "cls" and not all(
        label.isascii() and label.isdigit() for label in labels
    ):
        raise _LabelError(".cls must be a whole number, or several joined by `;`")
    if any(len(label) > MAX_LABEL_CHARS for label in labels):
        raise _LabelError(
            f".{extension} holds a text of more than {MAX_LABEL_CHARS} characters"
        )
    if not all(map(str.isprintable, labels)):
        raise _LabelError(f".{extension} holds control characters")
    # 7 and 007 are one class.
    return tuple(str(int(label)) if extension == "cls" else label for label in labels)


def _labels_from_json(text: str) -> Iterator[str]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _LabelError(".json cannot be read as JSON") from None
    if isinstance(value, dict):
        keys = [key for key in ("label", "labels") if key in value]
        if not keys:
            raise _LabelError(".json has neither `label` nor `labels`")
        value = value[keys[0]]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise _LabelError(
                ".json must give a word, a whole number or a list of them"
            )
        yield str(item).strip()
