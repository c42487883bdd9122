"""One model on many ranks: DDP and FSDP2."""

from vitral.training.parallel.ddp import replicated
from vitral.training.parallel.fsdp import Sharded, plain_copy, shard

__all__ = ["Sharded", "plain_copy", "replicated", "shard"]
