"""What merging tokens saves and costs: python benchmarks/merging.py [--run RUN].

Time: ViT-S at 224, batch 8, eager, each rate in turns with none; medians of ratios.
Accuracy: of every image of one split of RUN, the same images for each rate.
"""

import argparse
import time

import numpy as np
import torch

import vitral as vt
from vitral.evaluation.compare import paired_bootstrap
from vitral.models import set_merge
from vitral.workflows.dataset import open_split_data
from vitral.workflows.inference import predict_split, split_loader
from vitral.workflows.inputs import input_kind
from vitral.workflows.run import open_run

RATES = (4, 8, 13)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="", help="a run, for accuracy")
    parser.add_argument("--split", default="test")
    parser.add_argument("--models", nargs="+", default=["vit_s14", "vit_s16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--views", default="own", choices=("own", "one"))
    known = parser.parse_args()
    print("| model | rate | share of multiply-accumulates | time, ratio (quartiles) |")
    print("|---|---:|---:|---:|")
    for name in known.models if known.rounds else ():
        timed(name, known.rounds)
    if known.run:
        accuracy(known.run, known.split, known.views)


def timed(name: str, rounds: int) -> None:
    """A row a rate: seconds of one pass over those of a pass without merging."""
    torch.manual_seed(0)
    model = vt.create(name, image_size=224).eval()
    images = torch.randn(8, 3, 224, 224)
    macs, seconds = {}, {rate: [] for rate in (0, *RATES)}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for rate, times in seconds.items():
                set_merge(model, rate)
                macs[rate] = model.config.macs()
                began = time.perf_counter()
                model(images)
                if turn:
                    times.append(time.perf_counter() - began)
    for rate in RATES:
        ratio = np.array(seconds[rate]) / np.array(seconds[0])
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        print(
            f"| {name} | {rate} | {macs[rate] / macs[0]:.2f} | {middle:.2f} "
            f"({low:.2f} to {high:.2f}) |",
            flush=True,
        )


def accuracy(path: str, split: str, views: str) -> None:
    """A row a rate: accuracy, and points lost on the same images."""
    run = open_run(path)
    kind = input_kind(run.model.config)
    dataset = open_split_data(run.config, run.path / "split.csv", kind)
    loader = split_loader(dataset, split, run.preprocess, batch_size=32)
    own = run.extra.get("eval_views", "one") if views == "own" else "one"
    before = None
    print("\n| rate | accuracy | points lost (95 %) |\n|---:|---:|---:|")
    for rate in (0, *RATES):
        set_merge(run.model, rate)
        scores = predict_split(
            run.model,
            loader,
            device=torch.device("cpu"),
            views=own,
            bf16=run.extra.get("precision") == "bf16",
        )
        right = scores.logits.argmax(1) == scores.labels
        before = right if before is None else before
        lost = paired_bootstrap(
            int((right & ~before).sum()), int((before & ~right).sum()), len(right)
        )
        print(
            f"| {rate} | {100 * right.mean():.2f} % of {len(right)} | "
            f"{100 * (before.mean() - right.mean()):+.2f} "
            f"({100 * lost.low:+.2f} to {100 * lost.high:+.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
