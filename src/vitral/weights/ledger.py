"""What became of every tensor of a weights file: one line each."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Action = Literal["copied", "resized", "new", "ignored"]


class Line(NamedTuple):
    """One tensor: its name, what was done, and how or why."""

    name: str
    action: Action
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.action:8} {self.name}{'  ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True)
class Ledger:
    """The lines of one load, in the model's order, and what was assumed."""

    source: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """How many tensors were copied, resized, new and ignored."""
        found = Counter(line.action for line in self.lines)
        return {action: found[action] for action in get_args(Action)}

    def summary(self) -> str:
        """Counts by action; resized tensors, new ones and notes are spelled out."""
        parts = [f"{count} {action}" for action, count in self.counts().items()]
        text = [f"{self.source}: {', '.join(parts)}"]
        text += [f"  {line}" for line in self.lines if line.action != "copied"]
        text += [f"  note     {note}" for note in self.notes]
        return "\n".join(text)

    def __str__(self) -> str:
        lines = [self.source, *(f"  {line}" for line in self.lines)]
        return "\n".join([*lines, *(f"  note     {note}" for note in self.notes)])
