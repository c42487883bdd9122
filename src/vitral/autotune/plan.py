"""What a sweep tries: all combinations of a plan, in the order they are tried in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitral.autotune.candidate import WAYS, Candidate, Precision
from vitral.errors import ConfigError
from vitral.models import MergeSchedule, ViTConfig
from vitral.workflows.inference import Views
from vitral.workflows.run import Run


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What to sweep, and how long."""

    ways: Sequence[str] = tuple(WAYS)
    """Runtimes with their precisions."""
    merges: Sequence[int] = (0, 16, 8)
    """Tokens merged in each block on average, in the order they are tried in. Few of
    them save less in a graph than the search for matches costs
    (docs/dev/experiments/speed.md)."""
    merge_schedules: Sequence[MergeSchedule] = ("every_fourth",)
    """How they are spread over the blocks. A graph of twelve blocks searches for
    matches three times by `every_fourth`, and twelve times by `constant`."""
    image_sizes: Sequence[tuple[int, int]] = ()
    """(height, width); none for the run's own."""
    batches: Sequence[int] = (1, 8)
    split: str = "val"
    """Whose images accuracy is measured on."""
    images: int = 500
    """Of the split, at most; drawn with `seed`."""
    rounds: int = 9
    """Timed passes of each candidate."""
    minutes: float = 10.0
    """After which no candidate begins and none goes on being scored, but the first; 0
    for no limit."""
    views: Views | None = None
    """Views of an image; None for the run's own."""
    seed: int = 0

    def __post_init__(self) -> None:
        for way in self.ways:
            if way not in WAYS:
                raise ConfigError(
                    f"`--ways` takes {', '.join(WAYS)}: got `{way}`, which is none."
                )
        sides = [side for size in self.image_sizes for side in size]
        for name, values, least in (
            ("merge", self.merges, 0),
            ("image-size", sides, 1),
            ("batch-size", self.batches, 1),
            ("images", [self.images], 1),
            ("rounds", [self.rounds], 1),
            ("minutes", [self.minutes], 0),
        ):
            for value in values:
                if value < least:
                    raise ConfigError(
                        f"`--{name}` must be at least {least}: got {value:g}."
                    )
        for name in ("ways", "merges", "merge_schedules", "batches"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` of a plan must name at least one.")


def make_candidates(plan: SweepPlan, run: Run) -> Iterator[Candidate]:
    """All combinations, those of one traced graph together; first torch as the run is.

    Where the time is short, the later ones are left out.
    """
    own: Precision = "bf16" if run.extra.get("precision") == "bf16" else "fp32"
    config, size = run.model.config, run.preprocess.image_size
    start = Candidate(precision=own, image_size=size, batch=plan.batches[0])
    merging: list[tuple[int, MergeSchedule]] = [(0, "constant")]
    if isinstance(config, ViTConfig):
        start = Candidate(
            precision=own,
            image_size=size,
            batch=plan.batches[0],
            merge=config.merge_rate,
            merge_schedule=config.merge_schedule,
        )
        merging = [
            (rate, schedule if rate else "constant")
            for rate in plan.merges
            for schedule in plan.merge_schedules
        ]
    seen = [start]
    yield start
    for pixels in plan.image_sizes or (size,):
        for merge, schedule in merging:
            for way in plan.ways:
                for batch in plan.batches:
                    runtime, kind = WAYS[way]
                    found = Candidate(
                        runtime=runtime,
                        precision=kind or own,
                        merge=merge,
                        merge_schedule=schedule,
                        image_size=pixels,
                        batch=batch,
                    )
                    if found not in seen:
                        seen.append(found)
                        yield found
