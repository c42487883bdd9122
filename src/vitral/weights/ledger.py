"""Ledger of a load: one line for every tensor of a weights file."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

Action = Literal[
    "copied", "joined", "split", "transposed", "reshaped", "resized", "new", "dropped"
]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One tensor: its name, what was done with it, and the details."""

    name: str
    action: Action
    detail: str = ""

    def __str__(self) -> str:
        gap = "  " if self.detail else ""
        return f"{self.action:10} {self.name}{gap}{self.detail}"


@dataclass(frozen=True)
class Ledger:
    """Lines of one load in the model's order, with the assumptions made."""

    source: str
    lines: tuple[LedgerLine, ...]
    notes: tuple[str, ...] = ()
    layout: str = ""
    """Title of the file's layout."""

    def counts(self) -> dict[str, int]:
        """Return the number of tensors by action, without actions that have none."""
        counts = Counter(line.action for line in self.lines)
        return {action: counts[action] for action in get_args(Action) if counts[action]}

    def summary(self) -> str:
        """Format the counts, and the resized, new and dropped tensors and the notes."""
        parts = [f"{count} {action}" for action, count in self.counts().items()]
        text = [f"{self._title()}: {', '.join(parts)}"]
        text += [
            f"  {line}"
            for line in self.lines
            if line.action in ("resized", "new", "dropped")
        ]
        return "\n".join([*text, *self._notes()])

    def __str__(self) -> str:
        lines = [self._title(), *(f"  {line}" for line in self.lines)]
        return "\n".join([*lines, *self._notes()])

    def _title(self) -> str:
        return f"{self.source} ({self.layout})" if self.layout else self.source

    def _notes(self) -> list[str]:
        return [f"  note       {note}" for note in self.notes]
