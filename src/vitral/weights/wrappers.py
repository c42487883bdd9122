"""Find the model in a file that a training program wrote around it.

Dictionaries of a checkpoint (`state_dict/`), names of modules (`model.`, `module.`,
`_orig_mod.`), averages and teachers are one thing here: a prefix of the tensors' names
under which some layout knows its model.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from vitral.errors import WeightsError
from vitral.weights.checkpoint_facts import LayoutInput
from vitral.weights.files import with_names

MAX_DEPTH = 6
"""Most parts of a prefix: `state_dict/model.module._orig_mod.encoder.` has five."""
SHOWN = 6
PREFERRED = (
    (r"(.*_)?(ema|swa|averaged?)(_.*)?", "the average over training"),
    (r"(.*_)?teacher(_.*)?", "the teacher, the student's average"),
    (r"target_encoder", "the average of `encoder`"),
    (r"base_encoder|online(_.*)?", "the published one"),
)
"""Parts of a prefix by which it is chosen over others, the first before the next."""
LAST = re.compile(
    r"(.*_)?(student|momentum|target)(_.*)?|encoder_k|key_encoder|decoder"
)
"""Parts of a prefix that any other one is chosen over."""
COMMON = ("state_dict", "model_state", "model_state_dict", "model", "net", "module")
"""Names of dictionaries that may stand beside each other, the preferred first."""
INSIDE = re.compile(
    r"(^|(?<=[/.]))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""Parts that torch.compile, FSDP and activation checkpoints put anywhere in a name."""
COUNTERS = re.compile(r"n_averaged|num_updates|decay|initted|step")
"""Scalars that averages over training store beside their tensors."""


@dataclass(frozen=True, slots=True)
class _Root:
    """A prefix with a model, and the words of its choice."""

    prefix: str

    @property
    def parts(self) -> list[str]:
        return re.split(r"[/.]", self.prefix)[:-1]

    @property
    def rank(self) -> tuple[int, int]:
        """Return the order of preference: kind of model, then kind of dictionary."""
        kind = len(PREFERRED)
        for place, (pattern, _) in enumerate(PREFERRED):
            if any(re.fullmatch(pattern, part) for part in self.parts):
                kind = min(kind, place)
        if kind == len(PREFERRED) and any(map(LAST.fullmatch, self.parts)):
            kind += 1
        first = self.parts[0] if self.parts else ""
        return kind, COMMON.index(first) if first in COMMON else len(COMMON)

    @property
    def reason(self) -> str:
        kind = self.rank[0]
        return PREFERRED[kind][1] if kind < len(PREFERRED) else ""


def unwrap(opened: LayoutInput, detects: Callable[[LayoutInput], bool]) -> LayoutInput:
    """Return the input with the tensors of its model alone, under the model's names.

    Without a model that `detects` knows, the input is returned as it is.

    Raises:
        WeightsError: there are several models, and no reason to choose one.
    """
    opened = _without_inside(opened)
    opened = _without_counters(opened, opened.file.names())
    roots = _find_roots(opened, detects)
    if not roots or roots == [""]:
        return opened
    chosen = _choose(opened, [_Root(prefix) for prefix in roots])
    view = _view(opened, chosen.prefix)
    named = chosen.prefix.rstrip("/.")
    what = "of a training checkpoint" if "/" in chosen.prefix else "of the file"
    reason = f": {chosen.reason}" if chosen.reason and len(roots) > 1 else ""
    opened.notes.append(f"the tensors under `{named}` {what}{reason}")
    used = {f"{chosen.prefix}{name}" for name in view.file.names()}
    rest = [name for name in opened.file.names() if name not in used]
    if rest:
        opened.notes.append(f"left out: {_describe(rest, chosen.prefix)}")
    return _without_counters(view, view.file.names())


def _find_roots(
    opened: LayoutInput, detects: Callable[[LayoutInput], bool]
) -> list[str]:
    """Return the shortest prefixes under which there is a model."""
    if detects(opened):
        return [""]
    prefixes: dict[str, None] = {}
    for name in opened.file.names():
        for place in [it.end() for it in re.finditer(r"[/.]", name)][:MAX_DEPTH]:
            prefixes[name[:place]] = None
    roots: list[str] = []
    for prefix in sorted(prefixes, key=lambda it: len(re.findall(r"[/.]", it))):
        inside = any(prefix.startswith(root) for root in roots)
        # Blocks are numbered; a model is not.
        numbered = re.search(r"(^|[/.])\d+[/.]", prefix)
        if not inside and not numbered and detects(_view(opened, prefix)):
            roots.append(prefix)
    return roots


def _choose(opened: LayoutInput, roots: list[_Root]) -> _Root:
    first, *others = sorted(roots, key=lambda root: root.rank)
    if others and others[0].rank == first.rank:
        named = ", ".join(f"`{root.prefix.rstrip('/.')}`" for root in roots[:SHOWN])
        raise WeightsError(
            f"{opened.path} holds {len(roots)} models, under {named}, and nothing says "
            "which one is meant. Save the state dict of one of them, and give that "
            "file."
        )
    return first


def _view(opened: LayoutInput, prefix: str) -> LayoutInput:
    names = {
        name.removeprefix(prefix): name
        for name in opened.file.names()
        if name.startswith(prefix)
    }
    return replace(opened, file=with_names(opened.file, names), prefix=prefix)


def _without_inside(opened: LayoutInput) -> LayoutInput:
    """Leave the parts of torch's own wrappers off the names, where they stay unique."""
    names = opened.file.names()
    plain = {INSIDE.sub("", name): name for name in names}
    parts = sorted({match[2] for name in names for match in INSIDE.finditer(name)})
    if not parts or len(plain) < len(names):
        return opened
    opened.notes.append(f"names without {', '.join(parts)}, which torch put into them")
    return replace(opened, file=with_names(opened.file, plain))


def _without_counters(opened: LayoutInput, names: list[str]) -> LayoutInput:
    """Leave out the counters of an average over training, with a note."""
    counters = [
        name
        for name in names
        if COUNTERS.fullmatch(name) and opened.file.shape(name) in ((), (1,))
    ]
    if not counters or len(counters) == len(names):
        return opened
    opened.notes.append(f"left out: {', '.join(counters)}, of an average over training")
    kept = {name: name for name in names if name not in counters}
    return replace(opened, file=with_names(opened.file, kept))


def _describe(names: list[str], prefix: str) -> str:
    """Count tensors by the part of their names that first differs from `prefix`."""
    groups: Counter[str] = Counter()
    for name in names:
        ends = [0, *(it.end() for it in re.finditer(r"[/.]", prefix))]
        start = max(end for end in ends if name[:end] == prefix[:end])
        end = re.match(r"[^/.]*", name[start:])
        groups[name[: start + (end.end() if end else 0)]] += 1
    shown = [f"{name} ({count})" for name, count in groups.most_common(SHOWN)]
    more = len(groups) - len(shown)
    return ", ".join(shown) + (f" and {more} more parts" if more else "")
