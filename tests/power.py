"""Power cuts, simulated: what a disk may hold after any moment of a program.

A Recorder looks at a folder before every call that opens, renames, makes or removes
something and at every fsync, and writes down what changed. Of what was not flushed when
the power goes, any part may be lost: the content of a file (all of it, its end, or
zeros in its place) until its fsync, a name in a folder until the folder's.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
DAMAGES = ("lost", "cut", "zeros")
Tree = dict[str, bytes | None]
"""Content by relative path; None for a folder."""


class Op(NamedTuple):
    """One change, one flush, or one thing to remember."""

    kind: str
    """data, name, sync or mark."""
    inode: int
    """Whose content, or in which folder; 0 of a mark."""
    value: Any
    """Bytes; {name: inode or None}; or what is marked."""


class Damage(NamedTuple):
    """What became of a write that was not flushed."""

    how: str
    share: float
    """Of the new content, that is there."""


@dataclass
class Recorder:
    """The log of a folder; a context."""

    root: Path
    log: list[Op] = field(default_factory=list)

    def __enter__(self) -> "Recorder":
        self._folders: dict[int, dict[str, int]] = {}
        self._files: dict[int, bytes] = {}
        self._held: dict[int, int] = {}
        self._busy = False
        self.root_inode = self.root.stat().st_ino
        self._fsync = os.fsync
        os.fsync = self._synced
        self._on = True
        # A hook cannot be taken out again.
        sys.addaudithook(self._hook)
        return self

    def __exit__(self, *exception: object) -> None:
        self.look()
        self._on = False
        os.fsync = self._fsync
        for descriptor in self._held.values():
            os.close(descriptor)

    def mark(self, value: Any) -> None:
        """Remember that the program said something here."""
        self.look()
        self.log.append(Op("mark", 0, value))

    def look(self) -> None:
        """Write down what is another since the last look."""
        self._busy = True
        try:
            folders, files = self._scan()
        finally:
            self._busy = False
        for inode, names in folders.items():
            before = self._folders.get(inode, {})
            changed = {n: i for n, i in names.items() if before.get(n) != i}
            changed |= {n: None for n in before if n not in names}  # type: ignore[misc]
            if changed:
                self.log.append(Op("name", inode, changed))
        for inode, content in files.items():
            if self._files.get(inode) != content:
                self.log.append(Op("data", inode, content))
        self._folders |= folders
        self._files |= files

    def _scan(self) -> tuple[dict[int, dict[str, int]], dict[int, bytes]]:
        folders: dict[int, dict[str, int]] = {}
        files: dict[int, bytes] = {}
        todo = [self.root]
        while todo:
            folder = todo.pop()
            names = folders.setdefault(folder.stat().st_ino, {})
            for entry in os.scandir(folder):
                names[entry.name] = inode = entry.inode()
                self._hold(entry)
                if entry.is_dir():
                    todo.append(Path(entry.path))
                else:
                    files[inode] = Path(entry.path).read_bytes()
        return folders, files

    def _hold(self, entry: "os.DirEntry[str]") -> None:
        """Keep it open, or its number is given to another file when it is gone."""
        if entry.inode() not in self._held:
            self._held[entry.inode()] = os.open(entry.path, os.O_RDONLY)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._on and not self._busy and event in EVENTS:
            if event == "open" and not str(arguments[0]).startswith(str(self.root)):
                return
            self.look()

    def _synced(self, descriptor: int) -> None:
        self.look()
        self._fsync(descriptor)
        self.log.append(Op("sync", os.fstat(descriptor).st_ino, None))


class Crash(NamedTuple):
    """What a disk may hold, and what the program had said by then."""

    tree: Tree
    marks: tuple[Any, ...]


def crashes(recorder: Recorder, seed: int, draws: int) -> Iterator[Crash]:
    """Every prefix of the log with all, none, each one and each but one of its
    pending changes on the disk, and `draws` random choices of them with damage."""
    generator = random.Random(seed)
    disk = _Disk()
    marks: list[Any] = []
    for op in recorder.log:
        if op.kind == "mark":
            marks.append(op.value)
        elif op.kind == "sync":
            disk.sync(op.inode)
        else:
            disk.pending.append(op)
        number = len(disk.pending)
        choices = [[True] * number, [False] * number]
        choices += [[i == j for j in range(number)] for i in range(number)]
        choices += [[i != j for j in range(number)] for i in range(number)]
        choices += [
            [generator.random() < 0.5 for _ in range(number)] for _ in range(draws)
        ]
        for index, kept in enumerate(choices):
            damage = [
                Damage(
                    generator.choice(DAMAGES) if index > 1 else "lost",
                    generator.random(),
                )
                for _ in kept
            ]
            yield Crash(disk.tree(recorder.root_inode, kept, damage), tuple(marks))


def without_a_cut(recorder: Recorder) -> Tree:
    """What the record gives when all of it reaches the disk."""
    disk = _Disk()
    disk.pending = [op for op in recorder.log if op.kind in ("data", "name")]
    number = len(disk.pending)
    return disk.tree(recorder.root_inode, [True] * number, [Damage("lost", 0)] * number)


class _Disk:
    """What is safe, and what is on its way."""

    def __init__(self) -> None:
        self.folders: dict[int, dict[str, int]] = {}
        self.files: dict[int, bytes] = {}
        self.pending: list[Op] = []

    def sync(self, inode: int) -> None:
        for op in self.pending:
            if op.inode == inode:
                self._apply(op, self.folders, self.files)
        self.pending = [op for op in self.pending if op.inode != inode]

    @staticmethod
    def _apply(
        op: Op, folders: dict[int, dict[str, int]], files: dict[int, bytes]
    ) -> None:
        if op.kind == "data":
            files[op.inode] = op.value
            return
        names = dict(folders.get(op.inode, {}))
        for name, inode in op.value.items():
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        folders[op.inode] = names

    def tree(self, root: int, kept: list[bool], damage: list[Damage]) -> Tree:
        folders, files = dict(self.folders), dict(self.files)
        known = {op.inode for op in self.pending if op.kind == "data"} | set(files)
        for op, keep, fault in zip(self.pending, kept, damage, strict=True):
            if keep:
                self._apply(op, folders, files)
            elif op.kind == "data":
                before = files.get(op.inode, b"")
                files[op.inode] = _damaged(before, op.value, fault)
        found: Tree = {}
        todo = [("", root)]
        while todo:
            path, inode = todo.pop()
            for name, child in folders.get(inode, {}).items():
                inner = f"{path}{name}"
                if child in known:
                    found[inner] = files.get(child, b"")
                else:
                    found[inner] = None
                    todo.append((f"{inner}/", child))
        return found


def _damaged(before: bytes, after: bytes, damage: Damage) -> bytes:
    """A write that was cut off: nothing of it, its beginning, or zeros for its end."""
    if damage.how == "lost":
        return before
    # An append leaves what was there before.
    pairs = zip(before, after, strict=False)
    kept = next((i for i, (a, b) in enumerate(pairs) if a != b), len(before))
    kept += round(damage.share * (len(after) - kept))
    return after[:kept] + bytes(len(after) - kept if damage.how == "zeros" else 0)


def write_tree(tree: Tree, folder: Path) -> None:
    """Put a crash state there, in the place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(tree):
        content = tree[path]
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def read_tree(folder: Path) -> Tree:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }
