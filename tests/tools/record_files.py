"""Reads the files that a job leaves as plain pairs of a key and a text.

Two files with the same content give the same pairs, whatever the order of metadata, the
packing and the time. Tensors, arrays and pictures are hashed by value. What no two runs
share, such as seconds, keeps its key and loses its value.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

Pairs = dict[str, str]
Names = dict[str, str]
"""Old names of keys and columns, with the new ones."""

PLACEHOLDER = "(not compared)"

UNSTABLE = {
    "commit",
    "data_wait",
    "date",
    "elapsed",
    "environment",
    "host",
    "images_per_second",
    "latency",
    "listing",
    "megabytes",
    "memory",
    "metrics_bytes",
    "request_id",
    "seconds",
    "started",
    "time",
    "timing",
    "torch",
    "version",
    "vitral_version",
}
"""Keys of times, machines, versions and places."""

UNSTABLE_PLACES = {
    "environment.json": re.compile(""),
    "precisions.md": re.compile(""),
    "manifest.json": re.compile("^files/.*/(bytes|sha256)$"),
    "plan.json": re.compile("^settings/(model|vitral)$"),
    "answer.json": re.compile("/hash$"),
}
"""More of them by the end of the file's name: hashes and sizes of files, whose
metadata has no order."""

STAMP = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?")


def read_files(folder: Path, names: Names) -> dict[str, Pairs]:
    """The pairs of every file below `folder`, by its relative path.

    The place of the folder is left out of every text.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            pairs = {"file": "is there", **read_file(path, names)}
            files[path.relative_to(folder).as_posix()] = {
                key: text.replace(str(folder.parent), ".")
                for key, text in pairs.items()
            }
    return files


def read_file(path: Path, names: Names) -> Pairs:
    """The pairs of one file; one that is not what its name says has its reason."""
    try:
        return READERS.get(path.suffix, read_nothing)(path, names)
    except (ValueError, KeyError, OSError) as error:
        return {"(unreadable)": str(error)}


def count_pairs(files: dict[str, Pairs]) -> dict[str, int]:
    """How many tensors, rows, keys, lines and pictures there are."""
    counts = dict.fromkeys(("tensors", "rows", "keys", "lines", "pictures"), 0)
    for name, pairs in files.items():
        kind = KINDS.get(Path(name).suffix)
        if kind:
            counts[kind] += len(pairs) - 1
    return counts


# by kind of file


def read_nothing(path: Path, names: Names) -> Pairs:
    return {}


def read_safetensors(path: Path, names: Names) -> Pairs:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    pairs = {
        f"metadata {key}": value
        for key, value in header.pop("__metadata__", {}).items()
    }
    for name, about in header.items():
        first, last = (start + offset for offset in about["data_offsets"])
        words = (about["dtype"], about["shape"], content[first:last])
        pairs[name] = hash_values(*words)
    return pairs


def read_npz(path: Path, names: Names) -> Pairs:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: hash_array(arrays[name]) for name in sorted(arrays)}


def read_onnx(path: Path, names: Names) -> Pairs:
    """Weights by name, how many nodes of each kind, and the metadata."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    pairs = {
        tensor.name: hash_array(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
    }
    kinds = [node.op_type for node in model.graph.node]
    pairs |= {f"nodes {kind}": str(kinds.count(kind)) for kind in sorted(set(kinds))}
    for entry in model.metadata_props:
        if entry.key == "vitral":
            flat = flatten(json.loads(entry.value), names, "plan.json")
            pairs |= {f"metadata {key}": value for key, value in flat.items()}
    return pairs


def read_json(path: Path, names: Names) -> Pairs:
    return flatten(json.loads(path.read_text()), names, path.name)


def read_json_lines(path: Path, names: Names) -> Pairs:
    pairs: Pairs = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        flat = flatten(json.loads(line), names, path.name)
        pairs |= {f"line {number}/{key}": value for key, value in flat.items()}
    return pairs


def read_csv(path: Path, names: Names) -> Pairs:
    with path.open(newline="", encoding="utf-8") as lines:
        return number_rows(list(csv.reader(lines)), names)


def read_parquet(path: Path, names: Names) -> Pairs:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = table.to_pydict()
    header = [f"{field.name} {field.type}" for field in table.schema]
    rows = zip(*columns.values(), strict=True)
    return number_rows([header, *([repr(cell) for cell in row] for row in rows)], names)


def read_text(path: Path, names: Names) -> Pairs:
    if not is_stable("", path.name):
        return {}
    lines = rename(STAMP.sub("TIME", path.read_text()), names).splitlines()
    return {f"line {number}": line for number, line in enumerate(lines, start=1)}


def read_page(path: Path, names: Names) -> Pairs:
    """Each number of a report by the place that it says it is from."""
    parser = NumbersParser()
    parser.feed(path.read_text())
    pairs: Pairs = {}
    for source, how, value in parser.numbers:
        file, _, pointer = source.partition("#/")
        place = "/".join(names.get(part, part) for part in pointer.split("/"))
        stable = is_stable(pointer, Path(file).name)
        key = count_up(f"{file}#/{place} {how}".strip(), pairs)
        pairs[key] = value if stable else PLACEHOLDER
    return pairs


def read_picture(path: Path, names: Names) -> Pairs:
    with Image.open(path) as picture:
        frames = [
            hash_array(np.asarray(frame.convert("RGBA")))
            for frame in ImageSequence.Iterator(picture)
        ]
    return {f"pixels {number}": frame for number, frame in enumerate(frames, start=1)}


class NumbersParser(HTMLParser):
    """Collects source, way and value of every `data` element of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words = {name: value or "" for name, value in attrs}
        if tag == "data" and "data-source" in words:
            how, value = words.get("data-how", ""), words.get("value", "")
            self.numbers.append((words["data-source"], how, value))


# helpers


def flatten(value: Any, names: Names, file: str) -> Pairs:
    """JSON as pairs of a path and a value; empty objects and lists count as values."""
    pairs: Pairs = {}
    for key, leaf in walk(value, names, ""):
        stable = is_stable(key, file)
        pairs[key] = json.dumps(leaf, ensure_ascii=False) if stable else PLACEHOLDER
    return pairs


def walk(value: Any, names: Names, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from walk(part, names, f"{place}/{names.get(key, key)}".lstrip("/"))
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from walk(part, names, f"{place}/{index}".lstrip("/"))
    else:
        yield place, value


def is_stable(key: str, file: str) -> bool:
    """Whether two runs of the same source must agree on the value of a key."""
    for part in key.split("/"):
        if part in UNSTABLE or part.endswith(("_ms", "_seconds")):
            return False
    rules = (rule for end, rule in UNSTABLE_PLACES.items() if file.endswith(end))
    return not any(rule.search(key) for rule in rules)


def rename(text: str, names: Names) -> str:
    """A text whose commands have the new names: field=value and --some-flag."""
    for old, new in names.items():
        text = re.sub(rf"\b{re.escape(old)}=", f"{new}=", text)
        flag = re.escape("--" + old.replace("_", "-"))
        text = re.sub(rf"{flag}(?![\w-])", "--" + new.replace("_", "-"), text)
    return text


def number_rows(rows: list[list[str]], names: Names) -> Pairs:
    """The header, then each row by its number."""
    pairs: Pairs = {}
    for number, row in enumerate(rows):
        cells = row if number else [names.get(cell, cell) for cell in row]
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        pairs[f"row {number}" if number else "header"] = line.getvalue()
    return pairs


def count_up(key: str, pairs: Pairs) -> str:
    """`key`, with a number behind it where `pairs` has it already."""
    number, free = 1, key
    while free in pairs:
        number += 1
        free = f"{key} ({number})"
    return free


def hash_array(array: np.ndarray) -> str:
    return hash_values(array.dtype.str, list(array.shape), array.tobytes())


def hash_values(dtype: str, shape: list[int], content: bytes) -> str:
    digest = hashlib.sha256(f"{dtype} {shape} ".encode() + content).hexdigest()[:16]
    return f"{dtype} {shape} {digest}"


READERS: dict[str, Callable[[Path, Names], Pairs]] = {
    ".csv": read_csv,
    ".gif": read_picture,
    ".html": read_page,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".md": read_text,
    ".npz": read_npz,
    ".onnx": read_onnx,
    ".parquet": read_parquet,
    ".png": read_picture,
    ".safetensors": read_safetensors,
    ".txt": read_text,
}

KINDS = {
    ".csv": "rows",
    ".gif": "pictures",
    ".html": "keys",
    ".json": "keys",
    ".jsonl": "keys",
    ".md": "lines",
    ".npz": "tensors",
    ".onnx": "tensors",
    ".parquet": "rows",
    ".png": "pictures",
    ".safetensors": "tensors",
    ".txt": "lines",
}
