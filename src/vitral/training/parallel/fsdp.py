"""FSDP2: every rank keeps a part of each parameter, gradient and optimizer state.

torch's `fully_shard` gathers a block when it is computed and lets it go after. What is
evaluated and kept is a plain copy of the model, filled from all ranks when it is asked
for: nobody outside this file meets a sharded tensor.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from vitral.training.activation_checkpoint import forward_names, units
from vitral.training.checkpointing import Checkpoint, Trained
from vitral.training.distributed import Parallel, Ranks
from vitral.training.ema import decay_at
from vitral.training.parallel.ddp import refuse_batch_norm


def shard(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    compiled: bool,
) -> Parallel:
    """Divide the parameters of `objective` among the ranks, rank 0's being the truth.

    The optimizer, which has no state yet, goes on with the parts.
    """
    refuse_batch_norm(objective)
    for tensor in [*objective.parameters(), *objective.buffers()]:
        dist.broadcast(tensor.detach(), 0)
    names = {parameter: name for name, parameter in objective.named_parameters()}
    groups = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for unit in units(objective):
        fully_shard(unit, mesh=mesh)
        for name in forward_names(unit):
            if name != "forward":
                register_fsdp_forward_method(unit, name)
    fully_shard(objective, mesh=mesh)
    parts = dict(objective.named_parameters())
    for group, held in zip(optimizer.param_groups, groups, strict=True):
        group["params"] = [parts[name] for name in held]
    assert isinstance(objective, FSDPModule)

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        objective.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            objective.set_requires_gradient_sync(True)

    return Parallel(torch.compile(objective) if compiled else objective, alone)


@dataclass(frozen=True, kw_only=True)
class Sharded(Trained):
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
    def over(
        cls, trained: Trained, plain: nn.Module, decay: float, warmup: bool
    ) -> "Sharded":
        """From what was gathered before sharding, whose `average` is None."""
        shadow = {}
        if decay:
            shadow = {
                name: tensor.detach().clone()
                for name, tensor in trained.model.named_parameters()
            }
        return cls(
            objective=trained.objective,
            model=trained.model,
            average=None,
            optimizer=trained.optimizer,
            parameters=trained.parameters,
            plain=plain,
            decay=decay,
            warmup=warmup,
            shadow=shadow,
            updates=[0],
        )

    def model_in_use(self) -> nn.Module:
        """The plain copy, with the averaged weights where there are some."""
        model = self.plain.model
        assert isinstance(model, nn.Module)
        fill(model, self.model.state_dict() | self.shadow)
        return model.to(next(self.model.parameters()).device)

    def whole_objective(self) -> nn.Module:
        """A copy of the plain one with the weights of now."""
        objective = copy.deepcopy(self.plain)
        fill(objective, self.objective.state_dict())
        return objective.to(next(self.model.parameters()).device)

    @torch.no_grad()
    def update_average(self) -> None:
        """Take the current weights into the average."""
        if next(self.plain.parameters()).device.type != "cpu":
            self.plain.cpu()  # an evaluation is over: its memory is needed again
        if not self.shadow:
            return
        factor = decay_at(self.updates[0], self.decay, self.warmup)
        current = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            [part_of(tensor) for tensor in self.shadow.values()],
            [part_of(current[name]) for name in self.shadow],
            1 - factor,
        )
        self.updates[0] += 1

    @property
    def divided(self) -> bool:
        return True

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        groups = super().tensors()
        if self.shadow:
            groups["ema"] = self.model.state_dict() | self.shadow
        return groups

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        groups = {
            name: self._divided(name, group)
            for name, group in checkpoint.tensors.items()
        }
        averaged = groups.pop("ema", {})
        super().restore(
            Checkpoint(step=checkpoint.step, tensors=groups, state=checkpoint.state)
        )
        for name, tensor in self.shadow.items():
            part_of(tensor).copy_(part_of(averaged[name]))
        self.updates[0] = checkpoint.step

    def _divided(self, group: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors cut as the parameters are; parts stay as they are."""
        like = self.like(group)
        return {
            name: cut_like(tensor, like.get(name)) for name, tensor in tensors.items()
        }

    def like(self, group: str) -> Mapping[str, Tensor]:
        """A parameter or buffer of the kind of each tensor of a group."""
        if group in ("model", "ema"):
            return dict(self.model.state_dict())
        if group == "objective":
            return dict(self.objective.state_dict())
        return _States(self.parameters)


class _States(dict[str, Tensor]):
    """The parameter of an optimizer's tensor, "blocks.0.attn.qkv.weight/exp_avg"."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.rpartition("/")[0], default)


def cut_like(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This rank's part of a whole tensor, if `like` is divided and of its shape."""
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor):
        return tensor
    if tensor.shape != like.shape:
        return tensor
    on = tensor.to(like.device)
    # Every rank has read the whole: nothing has to be sent.
    return distribute_tensor(on, like.device_mesh, like.placements, src_data_rank=None)


def whole_of(tensor: Tensor) -> Tensor:
    """The tensor of all ranks together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor) -> Tensor:
    """This rank's part, or the tensor itself where it is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a module; every rank calls it."""
    for name, target in module.state_dict().items():
        target.copy_(whole_of(tensors[name]))


def plain_copy(objective: nn.Module) -> nn.Module:
    """What is filled with whole parameters; made before they are divided."""
    copied = copy.deepcopy(objective)
    return copied.requires_grad_(False).eval().cpu()
