"""Transfer protocols: fine-tune with a search on a dev split, and tables of probes."""

from vitral.workflows.transfer.finetune import FinetunePlan, finetune
from vitral.workflows.transfer.transfer import PROTOCOLS, SHOTS, transfer

__all__ = ["PROTOCOLS", "SHOTS", "FinetunePlan", "finetune", "transfer"]
