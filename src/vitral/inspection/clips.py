"""Attention among the tokens of a clip, kept as the groups that it is computed in.

Each attention step of a block is a matrix over all tokens of the clip: the weights of
every group at the places of its members, zero elsewhere. A token with a copy in each
of n groups moves by the mean of what the copies get, so its row is the mean of theirs.
Rows then sum to one; those of tokens that a step leaves out are zero.

The whole matrix is as large as that of joint attention (1,569 x 1,569 for 8 frames of
14 x 14), so no product of such matrices is made: a map needs one row of the product,
and a row goes through the groups from the last step back to the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitral.inspection.capture import eval_mode, get_places, require_batch
from vitral.models import VisionModel
from vitral.models.timesformer import TokenIndices


class AttentionStep(NamedTuple):
    """What one attention step takes from where: a matrix over all tokens, in groups."""

    weights: Float[Tensor, "batch groups line line"]
    """Rows are queries; what several groups have in common adds up."""
    members: Int[Tensor, "groups line"]
    """The number of each token of each group."""

    def left_multiply(
        self, rows: Float[Tensor, "batch rows tokens"]
    ) -> Float[Tensor, "batch rows tokens"]:
        """`rows` times the matrix."""
        members = self.members.to(rows.device)
        gathered = rows[:, :, members].transpose(1, 2)
        return self._scatter((gathered @ self.weights).transpose(1, 2), rows)

    def row_sums(
        self, template: Float[Tensor, "batch rows tokens"]
    ) -> Float[Tensor, "batch 1 tokens"]:
        """The sum of each row of the matrix."""
        return self._scatter(self.weights.sum(dim=-1)[:, None], template)

    def _scatter(
        self, values: Float[Tensor, "batch rows groups line"], template: Tensor
    ) -> Float[Tensor, "batch rows tokens"]:
        out = template.new_zeros(*values.shape[:2], template.shape[-1])
        members = self.members.flatten().to(template.device)
        return out.index_add_(2, members, values.flatten(2))


def average_copies(step: AttentionStep) -> AttentionStep:
    """The step with each row divided by the number of groups that have its token."""
    copies = torch.bincount(step.members.flatten())[step.members]
    return step._replace(weights=step.weights / copies[..., None].to(step.weights))


def propagate_rollout(
    rows: Float[Tensor, "batch rows tokens"], steps: Sequence[AttentionStep]
) -> Float[Tensor, "batch rows tokens"]:
    """`rows` of the rollout of these steps, first step first: as in rollout.step, every
    matrix gets the skip and rows that sum to one."""
    for step in reversed(steps):
        rows = rows / (1 + step.row_sums(rows))
        rows = rows + step.left_multiply(rows)
    return rows


def propagate_relevance(
    rows: Float[Tensor, "batch rows tokens"], steps: Sequence[AttentionStep]
) -> Float[Tensor, "batch rows tokens"]:
    """`rows` of the product of (1 + A) of these steps, first step first."""
    for step in reversed(steps):
        rows = rows + step.left_multiply(rows)
    return rows


def initial_row(
    places: TokenIndices, template: Float[Tensor, "batch *any"], by_class_token: bool
) -> Float[Tensor, "batch 1 tokens"]:
    """The row to begin with: the mean of the tokens that the head reads.

    Args:
        template: anything of the batch, in its precision and on its device.
        by_class_token: the class token, or those of all frames; else the patches.
    """
    chosen = places.class_tokens if by_class_token else places.patches.flatten()
    row = template.new_zeros(template.shape[0], 1, places.num_tokens)
    row[:, :, chosen] = 1 / len(chosen)
    return row


def clip_places(
    model: VisionModel, clips: Float[Tensor, "batch *clip"]
) -> TokenIndices:
    """Where the tokens of such clips are, for a model that takes clips."""
    with torch.no_grad(), eval_mode(model.modules()):
        found = get_places(model, model.embed(require_batch(model, clips)[:1]))
    assert found is not None
    return found
