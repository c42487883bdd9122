"""TNT and TimeSformer beside timm and transformers, in one process.

Plain Vision Transformers are measured by `python -m benchmarks.peers`.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --model tnt_s16 --batch 2
    OMP_NUM_THREADS=1 python benchmarks/speed.py --model timesformer_ti16 --batch 1

Prints, per model and mode, the median ratio theirs / vitral of the pairs: above 1,
vitral is faster. Both run the same function (exact GELU, same weights, same input), in
turns. With one thread the time is CPU time, which other work on the machine does not
stretch; with more it is the clock's. `--depth` takes fewer blocks.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import vitral as vt
from vitral.models import TimeSformerConfig, get_config

TIMM_NAMES = {
    "tnt_s16": "tnt_s_patch16_224",
    "tnt_b16": "tnt_b_patch16_224",
}


class Pair(NamedTuple):
    """The same function twice."""

    ours: nn.Module
    theirs: nn.Module
    library: str
    x: Tensor


def of_timm(name: str, batch: int, depth: int) -> Pair:
    theirs = timm.create_model(TIMM_NAMES[name], **({"depth": depth} if depth else {}))
    x = torch.randn(batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        state = {name: t.contiguous() for name, t in theirs.state_dict().items()}
        save_file(state, Path(folder) / "model.safetensors")
        # tnt's heads are in no tensor; the name tells them, and the exact GELU.
        ours = vt.load(Path(folder) / "model.safetensors").model
    return Pair(ours, theirs, "timm", x)


class Logits(nn.Module):
    """A model of transformers that answers with its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def of_transformers(name: str, batch: int, depth: int) -> Pair:
    wanted = get_config(name, {"depth": depth} if depth else {})
    assert isinstance(wanted, TimeSformerConfig)
    theirs = transformers.TimesformerForVideoClassification(
        transformers.TimesformerConfig(
            hidden_size=wanted.embed_dim,
            num_hidden_layers=wanted.depth,
            num_attention_heads=wanted.num_heads,
            intermediate_size=wanted.mlp_dim,
            image_size=wanted.image_hw[0],
            num_frames=wanted.num_frames,
            num_labels=400,
        )
    )
    x = torch.randn(batch, wanted.num_frames, 3, *wanted.image_hw)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = vt.load(folder).model
    return Pair(ours, Logits(theirs), "transformers", x)


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def train_step(model: nn.Module, x: Tensor) -> None:
    """Forward, softmax loss, backward, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    target = torch.arange(len(x)) % 7
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()
    optimizer.zero_grad()


def seconds(run: Callable[[], None]) -> float:
    alone = torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    started = clock()
    run()
    return clock() - started


def compare(name: str, batch: int, depth: int, rounds: int, bf16: bool) -> None:
    torch.manual_seed(0)
    kind = of_transformers if name.startswith("timesformer") else of_timm
    pair = kind(name, batch, depth)
    ours, theirs, x = pair.ours, pair.theirs, pair.x
    with torch.no_grad():
        apart = (ours.eval()(x) - theirs.eval()(x)).abs().max()
    assert apart < 1e-3, f"not the same function: {apart:.1e} apart"
    for mode, step in (("forward", forward), ("training step", train_step)):
        ours.train(step is train_step)
        theirs.train(step is train_step)
        pairs = []
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            step(ours, x), step(theirs, x)
            for turn in range(rounds):
                # Who goes first changes, so that neither always meets a warm cache.
                first, second = (ours, theirs) if turn % 2 else (theirs, ours)
                times = {
                    id(model): seconds(lambda m=model, run=step: run(m, x))
                    for model in (first, second)
                }
                pairs.append((times[id(theirs)], times[id(ours)]))
        ratio = statistics.median(t / o for t, o in pairs)
        spread = sorted(t / o for t, o in pairs)
        low, high = spread[len(spread) // 4], spread[-1 - len(spread) // 4]
        print(
            f"{name}{f' depth {depth}' if depth else ''} {mode:13} "
            f"{'bf16' if bf16 else 'fp32'} batch {batch}: "
            f"{pair.library}/vitral {ratio:.3f} (quartiles {low:.3f} to {high:.3f}), "
            f"vitral {batch / statistics.median(o for _, o in pairs):.2f} examples/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["tnt_s16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--depth", type=int, default=0, help="blocks; 0 for all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true")
    known = parser.parse_args()
    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers ", end="")
    print(
        f"{transformers.__version__}, {torch.get_num_threads()} threads, load ", end=""
    )
    print(f"{os.getloadavg()[0]:.1f}")
    for name in known.model:
        compare(name, known.batch, known.depth, known.rounds, known.bf16)


if __name__ == "__main__":
    main()
