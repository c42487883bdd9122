"""Check the data-size curve: fit it on a part of the data, measure with all of it.

    python benchmarks/data_size.py --weights dinov2_vits14.safetensors --data elpv

For each seed a quarter of the images is for test. The study gets a random half of the
rest (`--parts 2`; 4 for a quarter) and predicts the accuracy with all of the rest,
which is then measured. Features are computed once, at `--image-size` pixels.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

import vitral as vt
import vitral.data
from vitral.studies.data_size import (
    PROTOCOLS,
    LabeledFeatures,
    fit_curve,
    measure_subsets,
)
from vitral.studies.engine.subsets import nested_order, subset_sizes
from vitral.workflows.features import features

IMAGE_SIZE = {"elpv": 224, "mnist_5k": 56}
DRAWS = range(10)


def computed(
    weights: str, data: str, image_size: int
) -> tuple[LabeledFeatures, list[str]]:
    """Compute the features of all images, ignoring their split."""
    model, preprocess, _ = vt.load(weights, image_size=image_size)
    dataset = vitral.data.open(data)
    cache = Path.home() / ".cache" / "vitral" / "features"
    splits = [
        features(model, preprocess, dataset, split=split, cache=cache)
        for split in dataset.counts()
    ]
    x = np.concatenate([np.asarray(split.x) for split in splits])
    y = np.concatenate([np.asarray(split.y) for split in splits])
    return LabeledFeatures(x, y), list(dataset.classes)


def trial(
    pool: LabeledFeatures, classes: list[str], seed: int, parts: int, protocol: str
) -> dict[str, float]:
    """Return the prediction and the measurement of one split."""
    order = nested_order(pool.y, 1_000_003 + seed)
    num_test = len(order) // 4
    test = LabeledFeatures(pool.x[order[:num_test]], pool.y[order[:num_test]])
    rest = LabeledFeatures(pool.x[order[num_test:]], pool.y[order[num_test:]])
    rows = nested_order(rest.y, 2_000_003 + seed)[: len(rest.y) // parts]
    subset = LabeledFeatures(rest.x[rows], rest.y[rows])
    sizes = subset_sizes(subset.y, classes)
    seeds = [1000 * seed + draw for draw in DRAWS]
    points = measure_subsets(subset, test, sizes, seeds, protocol=PROTOCOLS[protocol])
    expected = fit_curve(points).predict(len(rest.y))
    probe = PROTOCOLS[protocol](rest.x, rest.y, test.x, test.y)
    low, high = expected.interval
    return {
        "seed": seed,
        "fitted on": len(subset.y),
        "accuracy there": points.full.accuracy,
        "predicted for": len(rest.y),
        "predicted": expected.accuracy,
        "low": low,
        "high": high,
        "measured": probe.accuracy,
        "inside": float(low <= probe.accuracy <= high),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image-size", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="ridge")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    size = args.image_size or IMAGE_SIZE.get(args.data, 224)
    pool, classes = computed(args.weights, args.data, size)
    rows = []
    for seed in args.seeds:
        row = trial(pool, classes, seed, args.parts, args.protocol)
        rows.append(row)
        print(
            f"seed {seed}: {row['fitted on']} images {100 * row['accuracy there']:.2f} "
            f"%; for {row['predicted for']} predicted {100 * row['predicted']:.2f} % "
            f"({100 * row['low']:.2f} to {100 * row['high']:.2f}), measured "
            f"{100 * row['measured']:.2f} %{'' if row['inside'] else '  OUTSIDE'}",
            flush=True,
        )
        if args.out:
            Path(args.out).write_text(json.dumps(rows, indent=2))
    inside = sum(int(row["inside"]) for row in rows)
    width = statistics.fmean(row["high"] - row["low"] for row in rows)
    error = [row["measured"] - row["predicted"] for row in rows]
    root = statistics.fmean(one**2 for one in error) ** 0.5
    print(
        f"inside the 90 % interval: {inside} of {len(rows)}; mean width "
        f"{100 * width:.2f} points; measured less predicted "
        f"{100 * statistics.fmean(error):+.2f}, root mean square {100 * root:.2f}"
    )


if __name__ == "__main__":
    main()
