"""Plan of a sweep, and its candidates in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vitral.autotune.candidate import WAYS, Candidate, Precision
from vitral.errors import ConfigError
from vitral.models import MergeSchedule, ViTConfig
from vitral.workflows.inference import Views
from vitral.workflows.run import Run


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Settings of a sweep."""

    ways: Sequence[str] = tuple(WAYS)
    """Runtimes with their precisions."""
    merges: Sequence[int] = (0, 16, 8)
    """Tokens merged in each block on average, in the order of the trials. In a graph,
    few save less than matching costs (docs/dev/experiments/speed.md)."""
    merge_schedules: Sequence[MergeSchedule] = ("every_fourth",)
    """Distribution over the blocks. With twelve blocks, `every_fourth` matches three
    times and `constant` twelve times."""
    image_sizes: Sequence[tuple[int, int]] = ()
    """(height, width) in pixels; empty for the run's."""
    batches: Sequence[int] = (1, 8)
    split: str = "val"
    """Split to measure accuracy on."""
    images: int = 500
    """Largest number of images of the split, drawn with `seed`."""
    rounds: int = 9
    """Timed passes of each candidate."""
    minutes: float = 10.0
    """Minutes after which no candidate is started or scored, except the first; 0 for no
    limit."""
    views: Views | None = None
    """Views of an image; None for the run's."""
    seed: int = 0

    def __post_init__(self) -> None:
        for way in self.ways:
            if way not in WAYS:
                raise ConfigError(
                    f"`ways` takes {', '.join(WAYS)}: got `{way}`, which is none."
                )
        sides = [side for size in self.image_sizes for side in size]
        for name, values, minimum in (
            ("merge", self.merges, 0),
            ("image-size", sides, 1),
            ("batch-size", self.batches, 1),
            ("images", [self.images], 1),
            ("rounds", [self.rounds], 1),
            ("minutes", [self.minutes], 0),
        ):
            for value in values:
                if value < minimum:
                    field = name.replace("-", "_")
                    raise ConfigError(
                        f"`{field}` must be at least {minimum}: got {value:g}."
                    )
        for name in ("ways", "merges", "merge_schedules", "batches"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` of a plan must name at least one.")


def make_candidates(plan: SweepPlan, run: Run) -> Iterator[Candidate]:
    """Yield the baseline, torch with the run's settings, then all combinations.

    Those of one traced graph follow each other.
    """
    run_precision: Precision = run.inference_spec.precision
    config, size = run.model.config, run.preprocess.image_size
    start = Candidate(precision=run_precision, image_size=size, batch=plan.batches[0])
    merging: list[tuple[int, MergeSchedule]] = [(0, "constant")]
    if isinstance(config, ViTConfig):
        start = replace(
            start, merge=config.merge_rate, merge_schedule=config.merge_schedule
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
                    runtime, precision = WAYS[way]
                    candidate = Candidate(
                        runtime=runtime,
                        precision=precision or run_precision,
                        merge=merge,
                        merge_schedule=schedule,
                        image_size=pixels,
                        batch=batch,
                    )
                    if candidate not in seen:
                        seen.append(candidate)
                        yield candidate
