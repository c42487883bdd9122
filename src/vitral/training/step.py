"""One update: micro-batches forward and backward, checks, clipping, optimizer step.

Every micro-batch seeds torch from (run seed, step, its number), so a resumed run is
bit-equal without any generator state on disk.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from vitral.errors import DivergedError, VitralError
from vitral.nested import to_device
from vitral.training.distributed import (
    Microbatch,
    RankGroup,
    RankSlice,
    all_gather,
    full_tensor,
    local_microbatches,
)
from vitral.training.loss import BatchMeans, BatchSums, take_loss
from vitral.training.optim import clip_gradients, gradient_norm


class Update(NamedTuple):
    """Result of one update: metrics with the loss, and the norm of the gradient."""

    metrics: dict[str, float]
    grad_norm: float
    images: int


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """Everything an update needs and no update changes."""

    forward: Callable[[Any], dict[str, Any]]
    """The objective's; see vitral.training.loss for what it returns."""
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    device: torch.device
    seed: int
    accumulate: int
    bf16: bool
    clip_norm: float
    ranks: RankGroup = field(default_factory=RankGroup)
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    """The context of a backward pass whose gradients stay on this rank."""
    term_weights: Callable[[Any], Mapping[str, float]] | None = None
    """The weights of the terms of a part, from its targets only: the gradient of a
    part needs the divisors of the whole batch."""

    def update(self, batch: Any, step: int) -> Update:
        """Change the parameters once, from all of `batch`; step 0 is the first.

        Args:
            batch: the global batch, or this rank's `RankSlice` of it.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            means, ids = self._backward(batch, step)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            # Of the global batch.
            size = batch.size if isinstance(batch, RankSlice) else len(batch.id)
            raise VitralError(
                f"Out of memory on {self.device} at step {step + 1} with {size} "
                "images in a batch: lower the batch size, or raise `accumulate`, which "
                "cuts a batch into parts and trains the same. Saved checkpoints are "
                "intact."
            ) from error
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self._is_split and gradients:
            # Over ranks they are a mean so far, not a sum.
            torch._foreach_div_(gradients, means.divisor / self.ranks.world)
        norm = float(full_tensor(gradient_norm(self.parameters.values())))
        self._require_finite(means.metrics["loss"], norm, step, ids)
        clip_gradients(self.parameters.values(), self.clip_norm, norm)
        self.optimizer.step()
        return Update(means.metrics, norm, means.images)

    @property
    def _is_split(self) -> bool:
        """Return whether the gradient is summed from parts of unequal weights."""
        return self.accumulate * self.ranks.world > 1

    def _backward(self, batch: Any, step: int) -> tuple[BatchMeans, tuple[str, ...]]:
        """Add up gradients over the parts of all ranks; return this rank's examples."""
        sums = BatchSums()
        ids: tuple[str, ...] = ()
        parts = list(
            local_microbatches(
                batch,
                rank=self.ranks.rank,
                world=self.ranks.world,
                accumulate=self.accumulate,
            )
        )
        divisors = self._sum_term_weights(parts)
        for part in parts:
            self.seed_torch(step, part.number)
            moved = to_device(part.batch, self.device)
            with nullcontext() if part is parts[-1] else self.no_sync():
                kind = self.device.type
                with torch.autocast(kind, torch.bfloat16, enabled=self.bf16):
                    result = dict(self.forward(moved))
                size = len(part.batch.id)
                taken = take_loss(result, size, divisors, is_split=self._is_split)
                if not part.counts:
                    size, taken = 0, taken.without_weight()
                loss = taken.loss
                (loss * taken.weight if self._is_split else loss).backward()
            sums.add(taken, result, size)
            ids += tuple(part.batch.id) if part.counts else ()
        return sums.reduce(self.ranks.all_reduce_sum, divisors), ids

    def _sum_term_weights(self, parts: Sequence[Microbatch]) -> dict[str, float] | None:
        """Return the weight of each term over all parts; None without such terms."""
        if self.term_weights is None or not self._is_split:
            return None
        sums: dict[str, float] = {}
        for part in parts:
            for name, weight in self.term_weights(part.batch).items():
                sums[name] = sums.get(name, 0.0) + float(weight) * part.counts
        return self.ranks.all_reduce_sum(sums)

    def seed_torch(self, step: int, part: int) -> None:
        """Seed the generators in use; torch.manual_seed reaches all and takes 2 ms."""
        seed = derive_seed(self.seed, step, part)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def _require_finite(
        self, loss: float, norm: float, step: int, ids: Sequence[str]
    ) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        if self.ranks.world > 1:
            ids = [name for names in all_gather(tuple(ids)) for name in names]
        first = next(
            (
                name
                for name, parameter in self.parameters.items()
                if parameter.grad is not None
                and not bool(full_tensor(torch.isfinite(parameter.grad).all()))
            ),
            None,
        )
        where = f", first in {first}" if first else ""
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" * (len(ids) > 8))
        raise DivergedError(
            f"Training diverged at step {step + 1}: loss {loss}, gradient norm {norm}"
            f"{where}. The update was not made and nothing was saved; earlier "
            f"checkpoints are intact. The batch: {shown}. Lower the learning rate, "
            "lengthen the warm-up, or look at these images."
        )


def derive_seed(seed: int, step: int, part: int) -> int:
    """Return a seed in 0..2^63-1 of a step's part."""
    digest = hashlib.sha256(f"{seed}/{step}/{part}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch raises a bare RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )
