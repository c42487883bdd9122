"""Attention among the tokens of a clip, stored as the groups that it is computed in.

An attention step is a matrix over all tokens: a group's weights at its members, zero
elsewhere. The row of a token with several copies is the mean of their rows. The matrix
would be that of joint attention (1,569 x 1,569 for 8 frames of 14 x 14), so only one
row is multiplied through the groups, from the last step to the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.inspection.capture import eval_mode, get_places, require_batch
from vitral.inspection.maps import normalize_by_max
from vitral.models import VisionModel
from vitral.models.timesformer import TokenIndices


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """Matrix of one attention step over all tokens, in groups."""

    weights: Float[Tensor, "batch groups line line"]
    """Rows are queries; entries that several groups share add up."""
    members: Int[Tensor, "groups line"]
    """Index of each token of each group."""

    def left_multiply(
        self, rows: Float[Tensor, "batch rows tokens"]
    ) -> Float[Tensor, "batch rows tokens"]:
        """Return `rows` times the matrix."""
        members = self.members.to(rows.device)
        gathered = rows[:, :, members].transpose(1, 2)
        return self._scatter((gathered @ self.weights).transpose(1, 2), rows)

    def row_sums(
        self, template: Float[Tensor, "batch rows tokens"]
    ) -> Float[Tensor, "batch 1 tokens"]:
        """Return the sum of each row of the matrix."""
        return self._scatter(self.weights.sum(dim=-1)[:, None], template)

    def _scatter(
        self, values: Float[Tensor, "batch rows groups line"], template: Tensor
    ) -> Float[Tensor, "batch rows tokens"]:
        out = template.new_zeros(*values.shape[:2], template.shape[-1])
        members = self.members.flatten().to(template.device)
        return out.index_add_(2, members, values.flatten(2))


def average_copies(step: AttentionStep) -> AttentionStep:
    """Divide each row of the step by the number of groups that have its token."""
    copies = torch.bincount(step.members.flatten())[step.members]
    weights = step.weights / copies[..., None].to(step.weights)
    return replace(step, weights=weights)


def propagate_rollout(
    rows: Float[Tensor, "batch rows tokens"], steps: Sequence[AttentionStep]
) -> Float[Tensor, "batch rows tokens"]:
    """Return `rows` of the rollout of these steps, first step first.

    As in `rollout_step`, every matrix gets the skip and rows that sum to one.
    """
    for step in reversed(steps):
        rows = rows / (1 + step.row_sums(rows))
        rows = rows + step.left_multiply(rows)
    return rows


def propagate_relevance(
    rows: Float[Tensor, "batch rows tokens"], steps: Sequence[AttentionStep]
) -> Float[Tensor, "batch rows tokens"]:
    """Return `rows` of the product of (1 + A) of these steps, first step first."""
    for step in reversed(steps):
        rows = rows + step.left_multiply(rows)
    return rows


def initial_row(
    places: TokenIndices, template: Float[Tensor, "batch *any"], by_class_token: bool
) -> Float[Tensor, "batch 1 tokens"]:
    """Return the first row to propagate: the mean of the tokens that the head reads.

    Args:
        template: a tensor with the batch size, dtype and device of the row.
        by_class_token: the class token, or those of all frames; else the patches.
    """
    indices = places.class_tokens if by_class_token else places.patches.flatten()
    row = template.new_zeros(template.shape[0], 1, places.num_tokens)
    row[:, :, indices] = 1 / len(indices)
    return row


def clip_map(
    places: TokenIndices,
    steps: Sequence[AttentionStep],
    by_class_token: bool,
    propagate: Callable[[Tensor, Sequence[AttentionStep]], Tensor],
) -> Float[Tensor, "batch frames rows columns"]:
    """Return the map of the row that `propagate` gives, scaled, on the CPU."""
    row = initial_row(places, steps[0].weights, by_class_token)
    return normalize_by_max(propagate(row, steps)[:, 0, places.patches]).cpu()


def clip_places(
    model: VisionModel, clips: Float[Tensor, "batch *clip"]
) -> TokenIndices:
    """Return the indices of the tokens of these clips, for a model of clips."""
    with torch.no_grad(), eval_mode(model.modules()):
        places = get_places(model, model.embed(require_batch(model, clips)[:1]))
    assert places is not None
    return places
