"""What became of every tensor of a weights file: one line each."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Action = Literal[
    "copied", "joined", "split", "transposed", "reshaped", "resized", "new", "dropped"
]


class LedgerLine(NamedTuple):
    """One tensor: its name, what was done, and how or why."""

    name: str
    action: Action
    detail: str = ""

    def __str__(self) -> str:
        gap = "  " if self.detail else ""
        return f"{self.action:10} {self.name}{gap}{self.detail}"


@dataclass(frozen=True)
class Ledger:
    """The lines of one load, in the model's order, and what was assumed."""

    source: str
    lines: tuple[LedgerLine, ...]
    notes: tuple[str, ...] = ()
    layout: str = ""
    """Whose layout the file has."""

    def counts(self) -> dict[str, int]:
        """How many tensors had each thing done to them, where any had."""
        found = Counter(line.action for line in self.lines)
        return {action: found[action] for action in get_args(Action) if found[action]}

    def summary(self) -> str:
        """Counts by action; resized, new and dropped tensors and notes spelled out."""
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
