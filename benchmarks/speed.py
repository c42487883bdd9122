"""Forward pass and training step beside timm, interleaved in one process.

    python benchmarks/speed.py --model vit_s16 vit_b16 --rounds 15

Prints, per model and mode, the median ratio timm / vitral of the pairs: above 1,
vitral is faster. Both run the same function (exact GELU, same weights, same input).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import vitral as vt

TIMM_NAMES = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
}


def forward(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        model(x)


def train_step(model: nn.Module, x: torch.Tensor) -> None:
    """Forward, softmax loss, backward, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    target = torch.arange(len(x)) % 7
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()
    optimizer.zero_grad()


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name: str, batch: int, rounds: int, bf16: bool) -> None:
    ours = vt.create(name, act="gelu")
    theirs = timm.create_model(TIMM_NAMES[name])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(batch, 3, 224, 224)
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
            f"{name} {mode:13} {'bf16' if bf16 else 'fp32'} batch {batch}: "
            f"timm/vitral {ratio:.3f} (quartiles {low:.3f} to {high:.3f}), "
            f"vitral {batch / statistics.median(o for _, o in pairs):.1f} images/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=list(TIMM_NAMES)[1:])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true")
    known = parser.parse_args()
    print(f"torch {torch.__version__}, timm {timm.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads")
    for name in known.model:
        compare(name, known.batch, known.rounds, known.bf16)


if __name__ == "__main__":
    main()
