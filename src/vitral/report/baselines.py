"""Baselines: what the simplest ways would have given on the same pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path

from vitral.atomic_io import write_json
from vitral.errors import ConfigError
from vitral.json_file import check_schema, read_object
from vitral.tasks.result import Headline, Result

BASELINES_FILE = "baselines.json"
_SCHEMA = {
    "split": str,
    "rows": [
        {
            "name": str,
            "field": str,
            "value": float,
            "n": int,
            "train_images": int,
            "is_sample": bool,
            "is_share": bool,
            "higher_is_better": bool,
        }
    ],
}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A simple model of the same training images, and its number on the same split."""

    name: str
    """Such as `20 neighbours of the pixels`."""
    field: str
    """Name of the number, as that of the result's `Headline`."""
    value: float
    n: int
    """Measured images."""
    train_images: int
    """Training images that it learned from."""
    is_sample: bool = False
    """True if those were a part of the training images, to save time."""
    is_share: bool = True
    higher_is_better: bool = True

    def describe(self) -> str:
        """Return name and number."""
        return f"{self.name} {self.number}"

    @property
    def number(self) -> str:
        """The value as people read it."""
        return f"{100 * self.value:.1f} %" if self.is_share else f"{self.value:.3f}"


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """All baselines of a run."""

    split: str
    rows: tuple[Baseline, ...]

    def write(self, folder: Path) -> None:
        """Write them into a run folder."""
        document = {"split": self.split, "rows": [asdict(row) for row in self.rows]}
        write_json(folder / BASELINES_FILE, document)

    @classmethod
    def read(cls, folder: Path) -> "Baselines | None":
        """Read those of a run folder; None if it has none.

        Raises:
            ConfigError: the file was edited.
        """
        file = folder / BASELINES_FILE
        if not file.is_file():
            return None
        document = read_object(file)
        check_schema(file, document, _SCHEMA, ConfigError)
        try:
            rows = tuple(Baseline(**row) for row in document["rows"])
            return cls(split=document["split"], rows=rows)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} lacks a field, or has one that is not known: {error}. It was "
                "edited: remove it, and `vitral train --resume` measures again."
            ) from error

    def __str__(self) -> str:
        parts = [
            row.describe()
            + (f" (from {row.train_images:,} images)" if row.is_sample else "")
            for row in self.rows
        ]
        return f"baselines on {self.split}: {', '.join(parts)}"

    def ahead(self, results: dict[str, Result]) -> str:
        """Return a sentence where a baseline is better than the model; empty if not."""
        result = results.get(self.split)
        headline = None if result is None else result.headline()
        if headline is None or headline.value is None:
            return ""
        better = [row for row in self.rows if _is_better(row, headline)]
        if not better:
            return ""
        sign = 1 if headline.higher_is_better else -1
        best = max(better, key=lambda row: sign * row.value)
        own = (
            f"{100 * headline.value:.1f} %"
            if headline.is_share
            else (f"{headline.value:.3f}")
        )
        return (
            f"a baseline is ahead on {self.split}: {best.describe()}, the model {own}"
        )


def _is_better(row: Baseline, headline: Headline) -> bool:
    assert headline.value is not None
    if row.field != headline.field:
        return False
    sign = 1 if headline.higher_is_better else -1
    return sign * row.value > sign * headline.value
