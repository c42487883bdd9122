"""Loaders of a run; each rank builds only its own rows of each global batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vitral.data import (
    Dataset,
    Loader,
    Preprocess,
    Transform,
    TransformSchedule,
    split_loader,
    training_transform,
)
from vitral.data.audit import accepted_bad
from vitral.models import VisionModel
from vitral.training.distributed import (
    RankSlice,
    get_rank,
    get_world_size,
    local_row_range,
)
from vitral.workflows.config import TrainConfig
from vitral.workflows.runtime import rank_zero_first
from vitral.workflows.session import Session
from vitral.workflows.train.frozen_cache import CachedLoader, cache_frozen_outputs
from vitral.workflows.train.plan import TrainPlan

AnyLoader = Loader | CachedLoader


@dataclass(frozen=True, kw_only=True)
class RankLoader:
    """The batches of a Loader as one of several ranks gives them to `fit`."""

    loader: Loader
    rank: int
    world: int
    accumulate: int

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """Yield a RankSlice of each batch of one epoch, from batch `start` on."""
        slices = self.loader.slices(number, start, self._local_rows)
        for size, rows, build_global_batch in slices:
            yield RankSlice(
                rows=rows,
                first=self._local_rows(size).start,
                size=size,
                build_global_batch=build_global_batch,
            )

    def _local_rows(self, size: int) -> range:
        if size < self.world * self.accumulate:
            return range(size)  # too few for a part each: all ranks build them all
        return range(*local_row_range(size, self.rank, self.world, self.accumulate))


def make_rank_loader(loader: Any, accumulate: int) -> Any:
    """Return the loader itself in one process, else this rank's part of it.

    Cached outputs need no building: every rank reads whole batches.
    """
    if get_world_size() == 1 or not isinstance(loader, Loader):
        return loader
    return RankLoader(
        loader=loader, rank=get_rank(), world=get_world_size(), accumulate=accumulate
    )


def train_loader(
    config: TrainConfig,
    dataset: Dataset,
    preprocess: Preprocess,
    workers: int,
    transform: Transform | TransformSchedule | None = None,
) -> Loader:
    """Return the loader of shuffled, augmented batches of the training split.

    Args:
        transform: of `build_transform`; None for images of one size.
    """
    examples = dataset.select("train")
    accepted = accepted_bad(config.max_bad, len(examples)) / max(len(examples), 1)
    return Loader(
        dataset=dataset,
        examples=examples,
        transform=transform
        or training_transform(config.augment, preprocess, config.seed),
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=True,
        repeats=config.augment.repeats,
        workers=workers,
        # Of several ranks each sees a part.
        max_bad=min(accepted / get_world_size(), 1.0),
        mix=config.mix if config.mix.mixup or config.mix.cutmix else None,
    )


def make_loaders(
    plan: TrainPlan,
    session: Session,
    model: VisionModel,
    preprocess: Preprocess,
    transform: Transform | TransformSchedule,
) -> tuple[AnyLoader, AnyLoader | None]:
    """Return the loaders of train and of val, which may be missing."""
    config, dataset = plan.config, plan.audit.dataset
    workers = session.runtime.workers
    train = train_loader(config, dataset, preprocess, workers, transform)
    val = None
    if dataset.select("val"):
        val = split_loader(
            dataset,
            "val",
            preprocess.with_single_view() if config.cache else preprocess,
            batch_size=config.batch_size,
            workers=workers,
        )
    if not config.cache:
        return train, val

    def cache(loader: Loader, split: str, views: int) -> CachedLoader:
        return rank_zero_first(
            lambda: cache_frozen_outputs(
                loader,
                model,
                session.out / "cache" / split,
                key=" ".join([*plan.spec.identity.values(), plan.contents.key]),
                views=views,
                device=session.device,
                bf16=plan.spec.loop.precision == "bf16",
            )
        )

    cached_val = None if val is None else cache(val, "val", 1)
    return cache(train, "train", config.augment.views), cached_val
