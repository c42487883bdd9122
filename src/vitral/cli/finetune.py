"""The protocol `finetune` for `eval` and `transfer`: its plan and its output."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from vitral.atomic_io import write_json
from vitral.cli.logs import warn
from vitral.errors import ConfigError, InterruptedRun
from vitral.models import Size2d
from vitral.recipes import plan_finetuning
from vitral.workflows.features import as_run
from vitral.workflows.runtime import Runtime
from vitral.workflows.transfer import FinetunePlan, finetune


def make_planner(args: argparse.Namespace) -> Callable[[str, str], FinetunePlan]:
    """Return a function that plans the fine-tuning of (weights, data) by the flags.

    Raises:
        ConfigError: a flag is out of range.
    """
    if len(args.image_size) > 2:
        raise ConfigError(
            "`--image-size` must be one number or height and width: got "
            f"{' '.join(map(str, args.image_size))}."
        )
    for name in ("steps", "batch_size"):
        if getattr(args, name) < 0:
            raise ConfigError(
                f"`--{name.replace('_', '-')}` must be above 0, or 0 for the paper's: "
                f"got {getattr(args, name)}."
            )
    first, *rest = args.image_size
    image_size: Size2d = (first, rest[0]) if rest else first

    def plan(weights: str, data: str) -> FinetunePlan:
        return plan_finetuning(
            weights,
            data,
            lrs=tuple(args.lrs),
            steps=args.steps,
            image_size=image_size,
            batch_size=args.batch_size,
            seeds=args.seeds,
            seed=args.seed,
        )

    return plan


def run_finetune(args: argparse.Namespace) -> None:
    """Fine-tune and measure: `vitral eval WEIGHTS DATA --protocol finetune`."""
    data = args.data
    if not data:
        run = as_run(args.run)
        if run is None:
            raise ConfigError(
                f"{args.run} is not a run and has no data of its own: name the data "
                "set to fine-tune on."
            )
        data = run.config.data
    plan = make_planner(args)(args.run, data)
    stems = (Path(args.run).stem, Path(data).stem)
    out = Path(args.out or Path("runs") / f"finetune-{'-'.join(stems)}")
    warn(f"finetune: runs go to {out}")
    try:
        result = finetune(
            plan, out, runtime=Runtime(device=args.device, workers=args.workers)
        )
    except InterruptedRun as error:
        raise InterruptedRun(
            f"Stopped; what was trained is in {out}. The same command goes on.",
            error.exit_code,
        ) from error
    write_json(out / "finetune.json", result.to_dict())
    if args.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    for line in result.lines():
        print(line)
    print(f"files: {out / 'finetune.json'}")
    print(f"next: vitral predict {out / result.finals[0].folder} IMAGES...")
