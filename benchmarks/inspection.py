"""Overhead of attention weights: a forward pass with them against one without.

    OMP_NUM_THREADS=1 python benchmarks/inspection.py --model vit_s16 --rounds 21

Prints medians over rounds of the ratio to a plain `forward_features` of the same
round, minus one, in CPU time, which is robust to other load. Each round rotates the
order of the candidates. `capture` only computes the weights of the last layer.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import vitral as vt
from vitral import inspection
from vitral.inspection.capture import attention_layers, record_inputs, visible_weights
from vitral.models import VisionModel


def candidates(model: VisionModel, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    last = len(attention_layers(model)) - 1

    @torch.no_grad()
    def plain() -> None:
        model.forward_features(x)

    @torch.no_grad()
    def capture() -> None:
        with record_inputs({last: attention_layers(model)[last]}) as calls:
            model.forward_features(x)
        visible_weights(calls[0], None)

    def each() -> None:
        for _ in inspection.iter_attention(model, x):
            pass

    return {
        "forward_features": plain,
        "capture of the last layer": capture,
        "attention(layers=[-1])": lambda: inspection.attention(model, x, layers=[-1]),
        "attention, all layers": lambda: inspection.attention(model, x),
        "each_layer, all layers": each,
        "rollout": lambda: inspection.rollout(model, x),
        "attention_distance": lambda: inspection.attention_distance(model, x),
        "relevance": lambda: inspection.relevance(model, x),
        "grad_cam": lambda: inspection.grad_cam(model, x),
    }


def measure(name: str, image_size: int, batch: int, rounds: int) -> None:
    torch.manual_seed(0)
    model = vt.create(name, image_size=image_size).eval()
    runs = candidates(model, torch.randn(batch, 3, image_size, image_size))
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {what: [] for what in runs}
    order = list(runs)
    for _ in range(rounds):
        order = order[1:] + order[:1]
        for what in order:
            started = time.process_time()
            runs[what]()
            seconds[what].append(time.process_time() - started)
    plain = seconds.pop("forward_features")
    print(f"{name} at {image_size}, batch {batch}: {statistics.median(plain):.3f} s")
    for what, times in seconds.items():
        ratios = sorted(t / p - 1 for t, p in zip(times, plain, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(
            f"  {what:26} {statistics.median(ratios):+7.1%} "
            f"(quartiles {low:+.1%} to {high:+.1%})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["vit_s14", "vit_s16"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    for name in given.model:
        for batch in given.batch:
            measure(name, given.image_size, batch, given.rounds)


if __name__ == "__main__":
    main()
