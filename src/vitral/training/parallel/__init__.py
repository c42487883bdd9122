"""One model on many ranks: DDP and FSDP2."""

from vitral.training.parallel.ddp import wrap_ddp
from vitral.training.parallel.fsdp import ShardedTrainState, plain_copy, shard_objective

__all__ = ["ShardedTrainState", "plain_copy", "shard_objective", "wrap_ddp"]
