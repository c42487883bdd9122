"""Data parallel training: all weights on every rank (DDP), or a part of each (FSDP2).

Of a sharded run, what is evaluated and kept is a plain copy of the model, filled from
all ranks when it is asked for: no other file meets a sharded tensor.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vitral.errors import ConfigError
from vitral.training.activation_checkpoint import find_blocks, forward_method_names
from vitral.training.checkpointing import Checkpoint, TrainState
from vitral.training.distributed import (
    ParallelForward,
    RankGroup,
    full_tensor,
    local_tensor,
)
from vitral.training.ema import decay_at


class _DDPForward(nn.Module):
    """Module that DistributedDataParallel wraps.

    It sums gradients in the order of the first backward pass, so a resumed run of more
    than two ranks would not end bit-equal. It keeps one order if it looks for unused
    parameters, and warns where it finds none: `unused` is the one to find.
    """

    def __init__(self, called: Callable[..., Any]) -> None:
        super().__init__()
        self.called = called
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.called(batch)


def wrap_ddp(objective: nn.Module, ranks: RankGroup, compiled: bool) -> ParallelForward:
    """Start from rank 0's weights, and average gradients from then on."""
    require_no_batch_norm(objective)
    called = _DDPForward(torch.compile(objective) if compiled else objective)
    called.to(ranks.device)
    for parameter in objective.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(_make_contiguous)
    wrapped = DistributedDataParallel(
        called, find_unused_parameters=True, gradient_as_bucket_view=True
    )

    @contextlib.contextmanager
    def no_sync() -> Iterator[None]:
        with wrapped.no_sync():
            yield

    return ParallelForward(wrapped, no_sync)


def _make_contiguous(gradient: Tensor) -> Tensor:
    """Return it in plain strides: else torch warns of an axis of length 1."""
    return gradient.clone(memory_format=torch.contiguous_format)


def require_no_batch_norm(objective: nn.Module) -> None:
    """Refuse batch norms: a rank's statistics would be those of its part of a batch."""
    for name, module in objective.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise ConfigError(
                f"`{name}` normalises over the batch, which several ranks do not see: "
                "train in one process, or use a model with group or layer norms."
            )


def shard_objective(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    ranks: RankGroup,
    compiled: bool,
) -> ParallelForward:
    """Divide the parameters of `objective` among the ranks, rank 0's being the truth.

    The optimizer, which has no state yet, gets the shards.
    """
    require_no_batch_norm(objective)
    for tensor in [*objective.parameters(), *objective.buffers()]:
        dist.broadcast(tensor.detach(), 0)
    names = {parameter: name for name, parameter in objective.named_parameters()}
    groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for unit in find_blocks(objective):
        fully_shard(unit, mesh=mesh)
        for name in forward_method_names(unit):
            if name != "forward":
                register_fsdp_forward_method(unit, name)
    fully_shard(objective, mesh=mesh)
    parts = dict(objective.named_parameters())
    for group, members in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [parts[name] for name in members]
    assert isinstance(objective, FSDPModule)

    @contextlib.contextmanager
    def no_sync() -> Iterator[None]:
        objective.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            objective.set_requires_gradient_sync(True)

    return ParallelForward(torch.compile(objective) if compiled else objective, no_sync)


@dataclass(frozen=True, kw_only=True)
class ShardedTrainState(TrainState):
    """The modules and the optimizer of a run whose parameters are divided.

    Every method is called by all ranks at the same time.
    """

    plain: nn.Module
    """A copy of the objective with whole parameters, in which results are handed out.
    Its model is the averaged one where there is an average."""
    decay: float
    """Of the running average; 0 for none."""
    warmup: bool
    shadow: dict[str, Tensor]
    """The averaged parts of this rank, by the model's names."""
    updates: list[int]
    """[how many the average has seen]."""

    @classmethod
    def from_train_state(
        cls, train_state: TrainState, plain: nn.Module, decay: float, warmup: bool
    ) -> "ShardedTrainState":
        """Build it from the state before sharding, whose `average` is None."""
        shadow = {}
        if decay:
            shadow = {
                name: tensor.detach().clone()
                for name, tensor in train_state.model.named_parameters()
            }
        return cls(
            **vars(train_state),
            plain=plain,
            decay=decay,
            warmup=warmup,
            shadow=shadow,
            updates=[0],
        )

    def eval_model(self) -> nn.Module:
        model = self.plain.model
        assert isinstance(model, nn.Module)
        load_full_tensors(model, self.model.state_dict() | self.shadow)
        return model.to(next(self.model.parameters()).device)

    def full_objective(self) -> nn.Module:
        objective = copy.deepcopy(self.plain)
        load_full_tensors(objective, self.objective.state_dict())
        return objective.to(next(self.model.parameters()).device)

    @torch.no_grad()
    def update_average(self) -> None:
        if next(self.plain.parameters()).device.type != "cpu":
            self.plain.cpu()  # an evaluation is over: its memory is needed again
        if not self.shadow:
            return
        factor = decay_at(self.updates[0], self.decay, self.warmup)
        current = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            [local_tensor(tensor) for tensor in self.shadow.values()],
            [local_tensor(current[name]) for name in self.shadow],
            1 - factor,
        )
        self.updates[0] += 1

    @property
    def is_sharded(self) -> bool:
        return True

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        groups = super().tensors()
        if self.shadow:
            groups["ema"] = self.model.state_dict() | self.shadow
        return groups

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        groups = {
            name: self._shard_tensors(name, group)
            for name, group in checkpoint.tensors.items()
        }
        averaged = groups.pop("ema", {})
        super().restore(
            Checkpoint(step=checkpoint.step, tensors=groups, state=checkpoint.state)
        )
        for name, tensor in self.shadow.items():
            local_tensor(tensor).copy_(local_tensor(averaged[name]))
        self.updates[0] = checkpoint.step

    def _shard_tensors(
        self, group: str, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Divide whole tensors as the parameters are; parts stay as they are."""
        like = self.sharding_templates(group)
        return {
            name: shard_like(tensor, like.get(name)) for name, tensor in tensors.items()
        }

    def sharding_templates(self, group: str) -> Mapping[str, Tensor]:
        if group in ("model", "ema"):
            return dict(self.model.state_dict())
        if group == "objective":
            return dict(self.objective.state_dict())
        return _StateTemplates(self.parameters)


class _StateTemplates(dict[str, Tensor]):
    """The parameter of an optimizer's tensor, "blocks.0.attn.qkv.weight/exp_avg"."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.rpartition("/")[0], default)


def shard_like(tensor: Tensor, template: Tensor | None) -> Tensor:
    """Return this rank's part of a tensor if `template` is divided, of its shape."""
    if isinstance(tensor, DTensor) or not isinstance(template, DTensor):
        return tensor
    if tensor.shape != template.shape:
        return tensor
    on = tensor.to(template.device)
    # Every rank has read the whole: nothing has to be sent.
    return distribute_tensor(
        on, template.device_mesh, template.placements, src_data_rank=None
    )


@torch.no_grad()
def load_full_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a module; every rank calls it."""
    for name, target in module.state_dict().items():
        target.copy_(full_tensor(tensors[name]))


def plain_copy(objective: nn.Module) -> nn.Module:
    """Return a copy for whole parameters; make it before they are sharded."""
    copied = copy.deepcopy(objective)
    return copied.requires_grad_(False).eval().cpu()
