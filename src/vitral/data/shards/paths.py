"""Find the shards of a data set, and infer splits from their names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from vitral.data.dataset import SPLIT_ALIASES, shorten_names
from vitral.data.order import natural_key
from vitral.errors import ConfigError, DataError

SUFFIXES = (".tar", ".parquet", ".arrow")
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_SHARDS = 100_000
"""Largest number of names that a pattern may expand to."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SHARD_FOLDERS = ("data", *SPLIT_ALIASES)
"""Sub-folders that are searched for shards, without their own sub-folders."""
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Shards of one file type."""

    root: Path
    paths: tuple[str, ...]
    """POSIX, relative to the root, in natural order."""
    suffix: str
    name: str
    display_name: str
    """The user's input, for messages."""


def find_shards(data: str | Path) -> ShardSet | None:
    """Return the shards in a folder, file or pattern; None if it is none of these.

    Raises:
        ConfigError: a pipe or a URL, or compressed shards.
        DataError: a pattern matches nothing, or the shards have several file types.
    """
    text = str(data)
    path = Path(data)
    if path.is_dir():
        return _find_in_folder(path)
    if not path.exists():
        refuse_commands(text)
    if text.endswith(COMPRESSED_SUFFIXES):
        raise ConfigError(
            f"{text} is compressed, which allows no access to single pictures. Unpack "
            f"it once, as with `gunzip {text}`, and give the .tar."
        )
    if path.suffix not in SUFFIXES:
        return None
    if path.is_file():
        return _make_shard_set(path.parent, [path.name], path.stem, text)
    if not any(char in text for char in "{*?["):
        if path.exists():
            raise DataError(f"{text} is not a regular file. Give a shard.")
        raise DataError(f"{text} is not there. Correct the path.")
    return _find_by_pattern(text)


def refuse_commands(text: str) -> None:
    """Refuse a text that other programs would run or download."""
    if text.strip().startswith("pipe:") or "|" in text:
        raise ConfigError(
            f"Commands are never run: got {text!r}. Write the output to a .tar file "
            "and give that."
        )
    # Braces could hide a URL.
    if _URL.match(text.strip()) or any(map(_URL.match, expand_braces(text))):
        raise ConfigError(
            f"Shards are not opened by URL: got {text!r}. Download them first, or give "
            "hf-stream:OWNER/NAME for Parquet files of the Hugging Face hub."
        )


def infer_split(path: str) -> str:
    """Infer the split from a shard's name, else from its folders; "" for none."""
    *folders, base = path.split("/")
    for part in (base.rpartition(".")[0], *reversed(folders)):
        parts = re.split(r"[^a-z]+", part.lower())
        named = {SPLIT_ALIASES[word] for word in parts if word in SPLIT_ALIASES}
        if len(named) == 1:
            return named.pop()
    return ""


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand braces: {000..009} to numbers, {a,b} to words."""
    names = [pattern]
    while names and _BRACE.search(names[0]):
        expanded = []
        for name in names:
            match = _BRACE.search(name)
            assert match is not None  # all have the same braces
            options = _alternatives(match.group(1), pattern)
            if len(names) * len(options) > MAX_SHARDS:
                raise ConfigError(
                    f"{pattern} stands for more than {MAX_SHARDS:,} shards. Use `*`."
                )
            head, tail = name[: match.start()], name[match.end() :]
            expanded += [f"{head}{option}{tail}" for option in options]
        names = expanded
    yield from names


def _alternatives(content: str, pattern: str) -> list[str]:
    match = _RANGE.fullmatch(content)
    if match is None:
        if "," in content:
            return content.split(",")
        raise ConfigError(
            f"{pattern}: {{{content}}} must be a range such as {{000..009}} or words "
            "such as {train,val}."
        )
    first, last = (int(digits) for digits in match.groups())
    if last < first or last - first >= MAX_SHARDS:
        raise ConfigError(
            f"{pattern}: {{{content}}} must go up, by at most {MAX_SHARDS:,} numbers."
        )
    # As in a shell: 008..012 keeps its zeros, 8..12 has none.
    width = len(match.group(1)) if match.group(1).startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def _find_by_pattern(text: str) -> ShardSet:
    paths: list[str] = []
    absent = []
    for name in expand_braces(text):
        if any(char in name for char in "*?["):
            matches = glob(name)
            if not matches:
                raise DataError(f"No file matches {name}. Correct the pattern.")
            paths += matches
        elif Path(name).exists():
            paths.append(name)
        else:
            absent.append(name)
    if absent:
        raise DataError(
            f"{text} stands for {len(absent)} shard(s) that are not there: "
            f"{shorten_names(absent, 3)}. Correct the pattern."
        )
    literal = []
    for part in Path(text).parent.parts:
        if any(char in part for char in "{*?["):
            break
        literal.append(part)
    root = Path(*literal)
    inside = [Path(path).relative_to(root).as_posix() for path in dict.fromkeys(paths)]
    return _make_shard_set(root, inside, root.resolve().name, text)


def _find_in_folder(root: Path) -> ShardSet | None:
    """Return the shards in a folder, its data/ and its folders named like a split."""
    shards: list[str] = []
    others: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.suffix in SUFFIXES:
            shards.append(entry.name)
        elif entry.is_dir():
            inside = _list_shards(entry) if entry.name.lower() in _SHARD_FOLDERS else []
            shards += [f"{entry.name}/{name}" for name in inside]
            others += [] if inside else [f"{entry.name}/"]
    # Class folders next to the tar file they came from are a folder of images.
    if not shards or others:
        return None
    return _make_shard_set(root, shards, root.resolve().name, str(root))


def _list_shards(folder: Path) -> list[str]:
    """List the shards of a sub-folder; none if it has folders too, as of classes."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() and entry.suffix not in SUFFIXES for entry in inside):
        return []
    return [entry.name for entry in inside if entry.suffix in SUFFIXES]


def _make_shard_set(
    root: Path, paths: list[str], name: str, display_name: str
) -> ShardSet:
    suffixes = sorted({Path(path).suffix for path in paths})
    if len(suffixes) > 1:
        examples = [
            next(path for path in paths if Path(path).suffix == suffix)
            for suffix in suffixes
        ]
        raise DataError(
            f"{display_name} mixes kinds of shards: {', '.join(examples)}. Choose one "
            f"kind by a pattern, such as {root}/*{suffixes[0]}."
        )
    return ShardSet(
        root=root,
        paths=tuple(sorted(paths, key=natural_key)),
        suffix=suffixes[0],
        name=name,
        display_name=display_name,
    )
