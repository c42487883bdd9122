"""Where answers, their parts and what is known of them lie."""

from pathlib import Path
from typing import NamedTuple

from vitral.atomic_io import make_folder
from vitral.errors import ConfigError
from vitral.run.answer_files import FORMS, is_file_name
from vitral.run.claim import LOCK


class Place(NamedTuple):
    """Where answers and what is known of them lie."""

    out: Path
    """One file, or a folder of parts."""
    work: Path
    """Parts, listing and lock."""
    plan: Path

    @classmethod
    def of(cls, out: Path) -> "Place":
        if not is_file_name(out):
            return cls(out, out, out / "plan.json")
        return cls(
            out,
            out.with_name(f"{out.name}.parts"),
            out.with_name(f"{out.name}.plan.json"),
        )

    @property
    def whole(self) -> bool:
        """Whether the parts become one file."""
        return self.out != self.work

    @property
    def listing(self) -> Path:
        return self.work / "files.jsonl"

    @property
    def lock(self) -> Path:
        return self.work / LOCK

    def part(self, number: int, form: str) -> Path:
        return self.work / f"part-{number:05d}{FORMS[form].suffix}"


def make_place(place: Place) -> None:
    """Make the folder that holds the parts.

    Raises:
        ConfigError: a file is in its way, or it cannot be made.
    """
    if place.work.is_file() or (place.whole and place.out.is_dir()):
        kind = "file" if place.work.is_file() else "folder"
        name = place.work if place.work.is_file() else place.out
        raise ConfigError(
            f"{name} is a {kind}: `--out` names a file that ends in .jsonl, .csv or "
            ".parquet, or a folder for the parts."
        )
    make_folder(place.work)


def clear_up(place: Place) -> None:
    """Remove the folder of parts, if nobody uses it."""
    if place.whole and place.work.is_dir() and not any(place.work.iterdir()):
        place.work.rmdir()
