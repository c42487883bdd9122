"""What the ranks of test_ranks.py do: small runs of `fit` on photos."""

import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import vitral.data
from helpers import TINY, randomise, run_fit
from terms_batch import PixelsAndBoxes, batch_of_places, step_of
from vitral.data import AugmentConfig, Loader, MixConfig, Preprocess, training_transform
from vitral.errors import DataError, VitralError
from vitral.models import ViT, ViTConfig
from vitral.tasks.classification import Supervised, SupervisedConfig
from vitral.tasks.representation.mae import MAE, MAEConfig
from vitral.training import LoopConfig, OptimConfig, create_optimizer, parameter_groups
from vitral.training.distributed import RankGroup, full_tensor
from vitral.training.distributed.failures import is_reported_elsewhere
from vitral.training.distributed.process_group import (
    get_rank,
    get_world_size,
    process_group,
)
from vitral.training.parallel import shard_objective, wrap_ddp
from vitral.workflows.train.loaders import make_rank_loader

CPU = torch.device("cpu")


def objective_of(case: dict[str, Any]) -> torch.nn.Module:
    changes = {"num_classes": 3, "qkv_bias": False, **case.get("model", {})}
    model = ViT(ViTConfig(**{**TINY, **changes}))
    randomise(model)
    if case.get("mae"):
        torch.manual_seed(5)
        return MAE(model, MAEConfig(decoder_dim=12, decoder_depth=1, decoder_heads=3))
    return Supervised(model, SupervisedConfig(**case.get("objective", {})))


def loader_of(photos: Path, case: dict[str, Any]) -> Loader:
    data = vitral.data.open(photos)
    preprocess = Preprocess(image_size=(48, 80))
    return Loader(
        dataset=data,
        examples=data.select("train"),
        transform=training_transform(AugmentConfig(shift=0.1), preprocess, 3),
        batch_size=case.get("batch_size", 8),
        seed=4,
        shuffle=True,
        mix=MixConfig(**case["mix"]) if "mix" in case else None,
        workers=case.get("workers", 0),
    )


class Disturbed:
    """The batches of a rank, one of which goes wrong."""

    def __init__(self, batches: Any, case: dict[str, Any]) -> None:
        self.batches, self.case = batches, case
        self.given = 0

    def epoch(self, number: int, start: int) -> Iterator[Any]:
        for offer in self.batches.epoch(number, start):
            self.given += 1
            for trouble in ("raise", "bug", "hang", "nan"):
                if self.case.get(trouble) == [get_rank(), self.given]:
                    offer = getattr(self, trouble)(offer)
            yield offer

    def __getattr__(self, trouble: str) -> Any:
        if trouble == "raise":
            raise DataError("The shelf of photos fell over.")
        if trouble == "bug":
            raise KeyError("no such shelf")
        if trouble == "hang":
            time.sleep(1000)
        return lambda offer: replace(
            offer, rows=offer.rows._replace(image=offer.rows.image * float("nan"))
        )


def train(out: str, photos: str, case: dict[str, Any]) -> int:
    """One run into `out`; every rank leaves the weights that it ends with.

    An error's sentence goes to error-RANK.txt, with a mark where it is quiet.
    """
    try:
        _train(out, photos, case)
    except VitralError as error:
        mark = "quiet: " if is_reported_elsewhere(error) else ""
        file = Path(out) / f"error-{os.environ.get('RANK', 0)}.txt"
        file.write_text(mark + str(error))
        return error.exit_code
    return 0


def _train(out: str, photos: str, case: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if case.get("compiled"):
        torch.compile = functools.partial(torch.compile, backend="aot_eager")
    folder = Path(out)
    with process_group(CPU, timeout=case.get("timeout", 60)):
        config = LoopConfig(**{"steps": 20, "log_every": 1, **case.get("loop", {})})
        loader = loader_of(Path(photos), case)
        batches = Disturbed(make_rank_loader(loader, config.accumulate), case)
        objective = objective_of(case)
        optim = OptimConfig(lr=0.01, weight_decay=0.05, **case.get("optim", {}))
        optimizer = create_optimizer(
            parameter_groups(objective, optim, lambda name: 0, 0), optim
        )
        folder.mkdir(parents=True, exist_ok=True)

        def lr(step: int) -> float:
            stop = case.get("kill")
            if stop and stop[:2] == [get_rank(), step]:
                os.kill(os.getpid(), stop[2])
            return 0.01

        kept = {}
        result = run_fit(
            objective,
            optimizer,
            config=config,
            batches=batches.epoch,
            batches_per_epoch=len(loader),
            lr=lr,
            evaluate=evaluation if case.get("evaluate") else None,
            folder=folder,
            seed=11,
            device=CPU,
            clip_norm=case.get("clip", 1.0),
            resume=case.get("resume", False),
            on_best=lambda model, step: kept.update(
                {name: t.clone() for name, t in model.state_dict().items()}
            ),
            shard=case.get("shard", "none"),
            recompute=case.get("recompute", False),
        )
        assert get_rank() == 0 or not kept  # handed out once
        save_file(
            dict(result.model.state_dict()), folder / f"rank-{get_rank()}.safetensors"
        )
        (folder / f"notes-{get_rank()}.json").write_text(json.dumps(result.notes))
        assert get_world_size() == case.get("world", get_world_size())


def evaluation(model: torch.nn.Module) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(5, 3, 48, 80, generator=generator)
    return {"accuracy": float(model(image).softmax(1)[:, 0].mean())}


def update_terms(out: str, accumulate: int, shard: str) -> None:
    """One update of a loss of two terms; every rank leaves metrics and gradient."""
    torch.set_num_threads(1)
    with process_group(CPU, timeout=60):
        ranks = RankGroup.from_process_group(CPU)
        objective = PixelsAndBoxes()
        optimizer = torch.optim.SGD(objective.parameters(), 0.1)
        if shard == "fsdp":
            parallel = shard_objective(objective, optimizer, ranks, False)
        else:
            parallel = wrap_ddp(objective, ranks, False)
        step = step_of(
            objective,
            accumulate,
            forward=parallel.forward,
            no_sync=parallel.no_sync,
            optimizer=optimizer,
            ranks=ranks,
        )
        metrics = step.update(batch_of_places(), 0).metrics
        gradient = {
            name: full_tensor(parameter.grad).contiguous()
            for name, parameter in objective.named_parameters()
        }
        folder, rank = Path(out), get_rank()
        (folder / f"metrics-{rank}.json").write_text(json.dumps(metrics))
        save_file(gradient, folder / f"gradient-{rank}.safetensors")
