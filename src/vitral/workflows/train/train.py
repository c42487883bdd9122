"""train: from a config to a run folder with a trained, measured, reported model.

Every file of the folder is described in docs/run-folder.md.
"""

from pathlib import Path

from vitral.training.distributed import get_rank
from vitral.training.fit import fit
from vitral.workflows.config import TrainConfig
from vitral.workflows.resolve_task import resolve_task, resume_settings
from vitral.workflows.run import Run
from vitral.workflows.runtime import Runtime
from vitral.workflows.session import run_session
from vitral.workflows.train.baselines import record_baselines
from vitral.workflows.train.build import build
from vitral.workflows.train.choose_head import choose_head
from vitral.workflows.train.finalize import finalize
from vitral.workflows.train.plan import make_plan
from vitral.workflows.train.progress import record_progress


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    resume: bool = False,
    data_changed: bool = False,
) -> Run:
    """Train, evaluate and report; everything is left in the folder `out`.

    Started by torchrun, all ranks train one model on the batches of one process, and
    rank 0 writes; a rank that torchrun starts again resumes. The logger
    `vitral.workflows.train` gets what is decided before the first step.

    Args:
        runtime: device, workers and sharding; by default this process on the best
            device.
        resume: resume from the newest checkpoint in `out`; starts when there is none.
        data_changed: go on although files changed since the run began.

    Returns:
        the run, with the best model.

    Raises:
        ConfigError: `out` is in use, or is resumed with other settings.
        DataError: the data cannot be used, or changed since the run began.
        WeightsError: the weights cannot be used, or a checkpoint cannot be written.
        DivergedError: the loss or a gradient is not finite.
        InterruptedRun: a signal arrived; a checkpoint was written.
        PeerError: another rank stopped, died or does not answer.
    """
    config = resolve_task(config)
    config = resume_settings(config, Path(out)) if resume else config
    with run_session(
        config, Path(out), runtime or Runtime(), resume, data_changed
    ) as session:
        plan = make_plan(config, session)
        parts = build(plan, session)
        record_baselines(plan, session, parts)
        with record_progress(session.out, plan.spec.loop.steps):
            fitted = fit(
                parts.objective,
                parts.optimizer,
                parts.batches,
                plan.spec,
                device=session.device,
                evaluate=parts.evaluate,
                on_best=parts.save_best,
            )
            if get_rank() == 0:
                choose_head(plan, session, parts, fitted.model, fitted.step)
            finalize(plan, session, fitted.objective, parts)
        return Run(session.out)
