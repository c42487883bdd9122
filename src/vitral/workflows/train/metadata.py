"""Record the start of a run: its files of facts, and the lines that are logged."""

import logging

from vitral import config_io
from vitral.atomic_io import write_atomic, write_json
from vitral.training.distributed import get_rank
from vitral.workflows.dataset import describe_data
from vitral.workflows.runtime import command_line, describe_environment
from vitral.workflows.session import Session
from vitral.workflows.train.build import ModelBundle
from vitral.workflows.train.plan import TrainPlan
from vitral.workflows.train.progressive_resizing import describe_sizes, image_sizes

logger = logging.getLogger(__name__)


def write_metadata(plan: TrainPlan, session: Session) -> None:
    """Write config.json, data.json, environment.json and command.txt."""
    out = session.out
    write_json(out / "config.json", config_io.to_dict(plan.config))
    write_json(out / "data.json", describe_data(plan.audit))
    write_json(out / "environment.json", describe_environment(session.device))
    write_atomic(out / "command.txt", command_line() + "\n")


def log_summary(plan: TrainPlan, bundle: ModelBundle) -> None:
    """Log the facts of data and model on rank 0, line by line."""
    if get_rank() != 0:
        return
    dataset = plan.audit.dataset
    for split, counts in dataset.counts().items():
        logger.info("data: %s %s %s", split, sum(counts.values()), dataset.kind)
    for file in plan.audit.bad:
        logger.info("unreadable: %s (%s): %s", file.path, file.split, file.reason)
    for note in dataset.notes:
        logger.info("note: %s", note)
    logger.info("model: %s", describe_model(bundle))
    if bundle.ledger is not None:
        for line in str(bundle.ledger).splitlines():
            logger.info("%s", line)
        logger.info("%s", bundle.ledger.summary().splitlines()[0])
    if plan.config.resolutions:
        sizes = image_sizes(plan.config, bundle.model.config, bundle.preprocess)
        logger.info("images: %s", describe_sizes(sizes, plan.steps))


def describe_model(bundle: ModelBundle) -> str:
    """Return parameters, trainable parameters and input size in one line."""
    model = bundle.model
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config
    frames = f"{config.num_frames} frames of " if config.num_frames else ""
    return (
        f"{total:,} parameters, {trainable:,} learn, "
        f"{frames}{config.image_hw[0]} x {config.image_hw[1]} pixels in "
        f"{config.grid.rows} x {config.grid.columns} patches"
    )
