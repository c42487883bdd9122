"""train: from a config to a run folder with a trained, measured, reported model.

Every file of the folder is described in docs/run-folder.md. The loop itself is in
vitral.training and knows neither models nor data.
"""

from pathlib import Path

from torch import nn

import vitral.weights
from vitral.models import get_model_name
from vitral.training.fit import fit
from vitral.workflows.config import TrainConfig
from vitral.workflows.run import Run
from vitral.workflows.runtime import Runtime
from vitral.workflows.session import run_session
from vitral.workflows.train.finalize import finalize
from vitral.workflows.train.frozen_cache import TrainableHead
from vitral.workflows.train.parts import RunParts, build
from vitral.workflows.train.plan import TrainPlan, make_plan


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    resume: bool = False,
) -> Run:
    """Train, evaluate and report; everything is left in the folder `out`.

    Started by torchrun, all ranks train one model on the batches of one process, and
    rank 0 writes; a rank that torchrun starts again resumes. The logger
    `vitral.workflows.train` gets what is decided before the first step.

    Args:
        runtime: device, workers and sharding; by default this process on the best
            device.
        resume: resume from the newest checkpoint in `out`; starts when there is none.

    Returns:
        the run, with the best model.

    Raises:
        ConfigError: `out` is in use, or is resumed with other settings.
        DataError: the data cannot be used.
        WeightsError: the weights cannot be used, or a checkpoint cannot be written.
        DivergedError: the loss or a gradient is not finite.
        InterruptedRun: a signal arrived; a checkpoint was written.
        PeerError: another rank stopped, died or does not answer.
    """
    with run_session(config, Path(out), runtime or Runtime(), resume) as session:
        plan = make_plan(config, session)
        parts = build(plan, session)
        fitted = fit(
            parts.objective,
            parts.optimizer,
            parts.batches,
            parts.spec,
            device=session.device,
            evaluate=parts.evaluate,
            on_best=lambda module, step: _save_best(module, step, plan, parts),
        )
        finalize(plan, session, fitted.objective, parts.monitor)
        return Run(session.out)


def _save_best(module: nn.Module, step: int, plan: TrainPlan, parts: RunParts) -> None:
    config, bundle = plan.config, parts.bundle
    model = module.model if isinstance(module, TrainableHead) else module
    # A model whose sizes were changed has no name of its own.
    changed = f"{config.model}, changed" if config.model else ""
    vitral.weights.save(
        parts.spec.folder / "model",
        model,  # type: ignore[arg-type]
        bundle.preprocess,
        classes=plan.classes,
        extra={
            "model": get_model_name(bundle.model.config) or changed,
            "weights": config.weights,
            **bundle.origin,
            "step": step,
            "eval_views": config.eval_views,
            "multi_label": plan.audit.dataset.multi_label,
            "precision": config.loop.precision,
            "objective": config.objective.NAME,
        },
    )
