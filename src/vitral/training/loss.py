"""Loss of a batch that is cut into parts: one mean, or terms that weigh differently.

An objective returns `loss`, a mean, and `weight`, its divisor (by default the number of
examples). Where a loss has terms with divisors of their own, such as pixels with a
class and boxes, it returns `terms` instead: of each its sum and its weight. The loss is
the sum over the terms of sum / weight. A mean of the parts' means would be wrong as
soon as one part has fewer boxes than another: so sums and weights are added over parts
and ranks, term by term, before they are divided.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vitral.errors import ConfigError

Terms = Mapping[str, tuple[Tensor, Tensor | float | int]]
"""Of each term its sum, a scalar with a gradient, and its weight, 0 or more."""


def mean_loss(result: Mapping[str, Any]) -> Tensor:
    """Return the loss of what an objective returned for a whole batch."""
    if "terms" not in result:
        loss: Tensor = result["loss"]
        return loss
    return divide_terms(result["terms"], own_weights(result["terms"]))


class PartLoss(NamedTuple):
    """Loss of a part, to be differentiated, and what it counts in the batch's."""

    loss: Tensor
    weight: float
    """The loss of the batch is the sum of weight x loss, over the sum of weights."""
    terms: dict[str, tuple[float, float]]
    """Sum and weight of each term; their losses are divided already."""

    def without_weight(self) -> "PartLoss":
        """Return the loss of a part that does not count."""
        return PartLoss(self.loss, 0.0, dict.fromkeys(self.terms, (0.0, 0.0)))


def take_loss(
    result: dict[str, Any],
    size: int,
    divisors: Mapping[str, float] | None,
    *,
    is_split: bool,
) -> PartLoss:
    """Take the loss of a part out of what the objective returned, leaving its metrics.

    Args:
        size: examples of the part.
        divisors: the weight of each term in the whole batch; None where the objective
            does not announce them.
        is_split: whether there are other parts.

    Raises:
        ConfigError: terms of a part whose divisors are not known.
    """
    terms: Terms | None = result.pop("terms", None)
    if terms is None:
        return PartLoss(result.pop("loss"), float(result.pop("weight", size)), {})
    if is_split and divisors is None:
        raise ConfigError(
            "The loss has terms with weights of their own, and the gradient of a part "
            "needs those of the whole batch: give the objective a method "
            "`term_weights(batch)`, or train in one process with `accumulate` 1."
        )
    own = own_weights(terms)
    sums = {
        name: (float(total.detach()), own[name]) for name, (total, _) in terms.items()
    }
    return PartLoss(divide_terms(terms, divisors or own), 1.0, sums)


def divide_terms(terms: Terms, weights: Mapping[str, float]) -> Tensor:
    """Return the sum of sum / weight; a term of weight 0 has no examples and adds 0."""
    losses = [
        total / weights[name] if weights[name] else total * 0.0
        for name, (total, _) in terms.items()
    ]
    return sum(losses[1:], losses[0])


def own_weights(terms: Terms) -> dict[str, float]:
    """Return the weight of each term."""
    return {name: float(weight) for name, (_, weight) in terms.items()}


class BatchMeans(NamedTuple):
    """Metrics of a batch over all parts and ranks."""

    metrics: dict[str, float]
    """`loss`, the loss of each term, and the objective's own metrics."""
    divisor: float
    """Of the gradient that was summed over the parts."""
    images: int


class BatchSums:
    """Sums over the parts of a batch."""

    def __init__(self) -> None:
        self._sums = {"weight": 0.0, "images": 0.0, "loss": 0.0}
        self._metrics: dict[str, float] = {}
        self._terms: dict[str, tuple[float, float]] = {}

    def add(self, part: PartLoss, metrics: Mapping[str, Any], size: int) -> None:
        """Add a part of `size` examples that count, with means over them."""
        self._sums["weight"] += part.weight
        self._sums["images"] += size
        self._sums["loss"] += float(part.loss.detach()) * part.weight
        for name, value in metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value) * size
        for name, (total, weight) in part.terms.items():
            before = self._terms.get(name, (0.0, 0.0))
            self._terms[name] = (before[0] + total, before[1] + weight)

    def reduce(
        self,
        all_reduce_sum: Callable[[dict[str, float]], dict[str, float]],
        announced: Mapping[str, float] | None,
    ) -> BatchMeans:
        """Return the means over the parts of all ranks.

        Raises:
            ConfigError: the terms do not have the weights that were announced.
        """
        own = dict(self._sums)
        own |= {f"metric {name}": total for name, total in self._metrics.items()}
        for name, (total, weight) in self._terms.items():
            own |= {f"term {name}": total, f"weight {name}": weight}
        sums = all_reduce_sum(own)
        images = round(sums["images"])
        weights = {name: sums[f"weight {name}"] for name in self._terms}
        if announced is not None:
            _require_equal_weights(announced, weights)
        # The losses of parts with terms are divided already: their sum is the loss.
        divisor = 1.0 if weights else sums["weight"]
        losses = {
            name: sums[f"term {name}"] / weight if weight else 0.0
            for name, weight in weights.items()
        }
        metrics = {"loss": sums["loss"] / divisor, **losses}
        metrics |= {name: sums[f"metric {name}"] / images for name in self._metrics}
        return BatchMeans(metrics, divisor, images)


def _require_equal_weights(
    announced: Mapping[str, float], found: Mapping[str, float]
) -> None:
    """Refuse a gradient that was divided by other weights than the terms have.

    Raises:
        ConfigError: the objective's `term_weights` differ from its terms' weights.
    """
    for name, weight in found.items():
        if not math.isclose(announced[name], weight, rel_tol=1e-4, abs_tol=1e-6):
            raise ConfigError(
                f"`term_weights` of the objective gives {announced[name]:g} for "
                f"{name!r}, and its forward pass {weight:g} for the same batch: both "
                "must weigh the same targets."
            )
