"""Token merging in a Vision Transformer (arXiv 2210.09461): set the rate, run blocks.

In evaluation only: a model in training mode merges nothing. Merging itself is in
layers/merging.py, the rates in `ViTConfig.merge_rates`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

from torch import Tensor, nn

from vitral.errors import ConfigError
from vitral.layers import (
    Block,
    attention_mask,
    initial_merge_state,
    merge_matrix,
    num_merged,
)
from vitral.models.base import VisionModel
from vitral.models.features import Tokens
from vitral.models.vit import MergeSchedule, ViTConfig


def set_merge(
    model: nn.Module, rate: int, schedule: MergeSchedule = "constant"
) -> None:
    """Merge `rate` tokens in each block from now on, in evaluation; 0 for none.

    Changes `model.config` and no weight.

    Raises:
        ConfigError: the rate is negative, the schedule unknown, or the model has no
            tokens to merge.
    """
    if schedule not in get_args(MergeSchedule):
        raise ConfigError(
            f"`merge_schedule` must be one of {', '.join(get_args(MergeSchedule))}: "
            f"got {schedule}."
        )
    config = getattr(model, "config", None)
    if isinstance(config, ViTConfig) and isinstance(model, VisionModel):
        if not model.fixed:
            model.config = replace(config, merge_rate=rate, merge_schedule=schedule)
        elif _merge_key(rate, schedule) != _merge_key(
            config.merge_rate, config.merge_schedule
        ):
            raise ConfigError(
                "What an exported model merges is fixed in its file: it merges "
                f"{_describe_merge(config)}. Leave `merge` out, or export the run "
                f"again with `vitral export RUN OUT --merge {rate}`."
            )
    elif rate:
        raise ConfigError(
            f"A {type(model).__name__} cannot merge tokens: give merge 0, or take a "
            f"Vision Transformer; got {rate}."
        )


def set_merge_if_given(
    model: nn.Module, rate: int | None, schedule: MergeSchedule | None = None
) -> None:
    """Call `set_merge` if a rate is given; None leaves the model unchanged.

    Args:
        schedule: None for `constant`; only together with a rate.

    Raises:
        ConfigError: as `set_merge`, or a schedule without a rate.
    """
    if rate is not None:
        set_merge(model, rate, schedule or "constant")
    elif schedule is not None:
        raise ConfigError(
            f"`merge_schedule` says how merged tokens are spread over the blocks, and "
            f"not how many: give `merge` as well, or leave out {schedule}."
        )


def _merge_key(rate: int, schedule: MergeSchedule) -> tuple[int, str]:
    return (rate, schedule if rate else "")


def _describe_merge(config: ViTConfig) -> str:
    if not config.merge_rate:
        return "nothing"
    return f"{config.merge_rate} tokens a block, spread by {config.merge_schedule}"


@contextmanager
def without_merging(model: VisionModel) -> Iterator[None]:
    """Disable merging inside, and restore it afterwards."""
    before = model.config
    set_merge(model, 0)
    try:
        yield
    finally:
        model.config = before


def forward_blocks_merging(
    tokens: Tokens,
    blocks: Sequence[nn.Module],
    rates: Sequence[int],
    tables: Sequence[Tensor],
) -> Tokens:
    """Apply blocks with token merging.

    Args:
        rates: tokens to merge in each.
        tables: positions to add before each block, in the geometry of the image; empty
            for a model that adds them at its stem alone.
    """
    x, merged = tokens.x, tokens.merged
    if merged is None:
        prefix = x.shape[1] - tokens.rows * tokens.columns
        merged = initial_merge_state(x, prefix, tokens.mask)
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        if tables:
            shares = merge_matrix(merged).to(x.dtype)
            x = x + (tables[index] if merged.is_identity else shares @ tables[index])
        mask = None
        if merged.takes_part is not None:
            mask = attention_mask(merged.size > 0, x)
        count = num_merged(x.shape[1] - merged.num_prefix_tokens, rates[index])
        x, merged = block.forward_merging(x, tokens.grid, mask, merged, count=count)
    takes_part = None if merged.takes_part is None else merged.size > 0
    return tokens._replace(x=x, mask=takes_part, merged=merged)
