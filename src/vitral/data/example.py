"""One example of a data set: what is known of it before its file is read."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One image or clip with what the source says of it."""

    id: str
    """Stable name: the POSIX path relative to the root, or such as "digits/00012"."""
    label: tuple[int, ...] = ()
    """Indices of the names that the source gives the example."""
    target: Any = None
    """Value that a task reads from the source beside the names, such as `ClassShares`.
    Numbers, texts and tuples of them: it is hashed, and sent to workers."""
    split: str = ""
    """"train", "val", "test", or "" while undecided."""
    group: str = ""
    """Examples of one group stay in one split. "": no group."""
    span: tuple[float, float] | None = None
    """(start, end) of a clip in seconds, end exclusive; the id ends in "#t=START,END".
    None: the full clip."""
    location: tuple[int, ...] = ()
    """Position in the shards: index of the shard, then offset and size, or row group
    and row. In a table the line, if columns are kept. Not part of the identity."""
    columns: tuple[Any, ...] = ()
    """Values of the columns that `open` was asked for, as the table has them."""

    def with_split(self, split: str) -> "Example":
        """Return the example in another split."""
        # `dataclasses.replace` takes four times as long: felt with 100,000 examples.
        return Example(
            id=self.id,
            label=self.label,
            target=self.target,
            split=split,
            group=self.group,
            span=self.span,
            location=self.location,
            columns=self.columns,
        )

    @property
    def file(self) -> str:
        """Return the path in the id of an example that is a file or a folder."""
        return self.id if self.span is None else self.id.rpartition("#t=")[0]
