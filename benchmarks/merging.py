"""Time and accuracy of token merging: python benchmarks/merging.py [--run RUN].

Time: ViT-S at 224, batch 8, eager, rates interleaved; medians of ratios to none.
Accuracy: of every image of one split of RUN, the same images for each rate.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

import vitral as vt
from vitral.data import split_loader
from vitral.evaluation.compare import loss_interval
from vitral.models import set_merge
from vitral.tasks.classification import ClassMetric
from vitral.workflows.dataset import open_run_data
from vitral.workflows.inference import measure_split
from vitral.workflows.run import open_run

RATES = (4, 8, 13)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="", help="a run, for accuracy")
    parser.add_argument("--split", default="test")
    parser.add_argument("--models", nargs="+", default=["vit_s14", "vit_s16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--views", default="own", choices=("own", "one"))
    args = parser.parse_args()
    print("| model | rate | share of multiply-accumulates | time, ratio (quartiles) |")
    print("|---|---:|---:|---:|")
    for name in args.models if args.rounds else ():
        time_rates(name, args.rounds)
    if args.run:
        measure_accuracy(args.run, args.split, args.views)


def time_rates(name: str, rounds: int) -> None:
    """Print per rate the time of a pass relative to one without merging."""
    torch.manual_seed(0)
    model = vt.create(name, image_size=224).eval()
    images = torch.randn(8, 3, 224, 224)
    macs, seconds = {}, {rate: [] for rate in (0, *RATES)}
    with torch.inference_mode():
        for round_ in range(rounds + 1):
            for rate, times in seconds.items():
                set_merge(model, rate)
                macs[rate] = model.config.macs()
                started = time.perf_counter()
                model(images)
                if round_:
                    times.append(time.perf_counter() - started)
    for rate in RATES:
        ratio = np.array(seconds[rate]) / np.array(seconds[0])
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        print(
            f"| {name} | {rate} | {macs[rate] / macs[0]:.2f} | {middle:.2f} "
            f"({low:.2f} to {high:.2f}) |",
            flush=True,
        )


def measure_accuracy(path: str, split: str, views: str) -> None:
    """Print per rate the accuracy, and the points lost on the same images."""
    run = open_run(path)
    dataset = open_run_data(run)
    loader = split_loader(dataset, split, run.preprocess, batch_size=32)
    spec = (
        run.inference_spec
        if views == "own"
        else replace(run.inference_spec, views="one")
    )
    before = None
    print("\n| rate | accuracy | points lost (95 %) |\n|---:|---:|---:|")
    for rate in (0, *RATES):
        set_merge(run.model, rate)
        metric, device = ClassMetric(run.labels), torch.device("cpu")
        measure_split(run.model, loader, metric, device=device, spec=spec)
        scores = metric.predictions()
        correct = scores.logits.argmax(1) == scores.labels
        before = correct if before is None else before
        lost = loss_interval(before, correct)
        print(
            f"| {rate} | {100 * correct.mean():.2f} % of {len(correct)} | "
            f"{100 * (before.mean() - correct.mean()):+.2f} "
            f"({lost.low:+.2f} to {lost.high:+.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
