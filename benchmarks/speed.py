"""Speed of TNT and TimeSformer against timm and transformers, in one process.

Plain Vision Transformers are measured by `python -m benchmarks.peers`.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --model tnt_s16 --batch 2
    OMP_NUM_THREADS=1 python benchmarks/speed.py --model timesformer_ti16 --batch 1

Prints, per model and mode, the median ratio theirs / vitral of the pairs: above 1,
vitral is faster. Both run the same function (exact GELU, same weights, same input),
interleaved. With one thread the time is CPU time, which is robust to other load; with
more it is wall-clock time. `--depth` takes fewer blocks.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Pair:
    """The same function in vitral and in another library."""

    ours: nn.Module
    peer: nn.Module
    library: str
    x: Tensor


def of_timm(name: str, batch: int, depth: int) -> Pair:
    peer = timm.create_model(TIMM_NAMES[name], **({"depth": depth} if depth else {}))
    x = torch.randn(batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        state = {name: t.contiguous() for name, t in peer.state_dict().items()}
        save_file(state, Path(folder) / "model.safetensors")
        # tnt's heads are in no tensor; the name tells them, and the exact GELU.
        ours = vt.load(Path(folder) / "model.safetensors").model
    return Pair(ours, peer, "timm", x)


class Logits(nn.Module):
    """A model of transformers that returns its logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def of_transformers(name: str, batch: int, depth: int) -> Pair:
    config = get_config(name, {"depth": depth} if depth else {})
    assert isinstance(config, TimeSformerConfig)
    peer = transformers.TimesformerForVideoClassification(
        transformers.TimesformerConfig(
            hidden_size=config.embed_dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=config.mlp_dim,
            image_size=config.image_hw[0],
            num_frames=config.num_frames,
            num_labels=400,
        )
    )
    x = torch.randn(batch, config.num_frames, 3, *config.image_hw)
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        ours = vt.load(folder).model
    return Pair(ours, Logits(peer), "transformers", x)


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def train_step(model: nn.Module, x: Tensor) -> None:
    """Run forward, softmax loss, backward and SGD."""
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
    ours, peer, x = pair.ours, pair.peer, pair.x
    with torch.no_grad():
        difference = (ours.eval()(x) - peer.eval()(x)).abs().max()
    assert difference < 1e-3, f"not the same function: {difference:.1e} apart"
    for mode, step in (("forward", forward), ("training step", train_step)):
        ours.train(step is train_step)
        peer.train(step is train_step)
        pairs = []
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            step(ours, x), step(peer, x)
            for round_ in range(rounds):
                # The order alternates, so that neither always gets a warm cache.
                first, second = (ours, peer) if round_ % 2 else (peer, ours)
                times = {
                    id(model): seconds(lambda m=model, run=step: run(m, x))
                    for model in (first, second)
                }
                pairs.append((times[id(peer)], times[id(ours)]))
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
    args = parser.parse_args()
    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers ", end="")
    print(
        f"{transformers.__version__}, {torch.get_num_threads()} threads, load ", end=""
    )
    print(f"{os.getloadavg()[0]:.1f}")
    for name in args.model:
        compare(name, args.batch, args.depth, args.rounds, args.bf16)


if __name__ == "__main__":
    main()
