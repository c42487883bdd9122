"""Time of training with patch dropout, smaller images and augmentation.

    OMP_NUM_THREADS=1 python benchmarks/learning_speed.py steps --rounds 9
    OMP_NUM_THREADS=1 python benchmarks/learning_speed.py epochs --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/learning_speed.py images --rounds 5

`steps`: a training step of S/16 against the full image at 224 pixels. `epochs`: an
epoch of 640 images of mnist_5k with a ViT of 6 blocks on 7 x 7 pixel patches, data
included. `images`: augmenting one image of 224 pixels. Variants are interleaved; the
figures are medians of their ratios to the first one. One thread, CPU time, which is
robust to other load.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import vitral as vt
from vitral.data import (
    Augment,
    AugmentConfig,
    Loader,
    Preprocess,
    TransformSchedule,
    training_transform,
)

IMAGES = 640
"""Images of mnist_5k, so that a round takes seconds."""
MNIST = {
    "image_size": 28,
    "patch_size": 7,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
    "mlp_dim": 384,
}


def compare_interleaved(variants: dict[str, Callable[[], None]], rounds: int) -> None:
    """Print the median seconds of the first, and the others' ratio to it."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, run in variants.items():
            started = time.process_time()
            run()
            if round_number:  # the first warms up
                taken[name].append(time.process_time() - started)
    first = taken[next(iter(variants))]
    print(f"{next(iter(variants))}: {statistics.median(first):.3f} s")
    for name, seconds in list(taken.items())[1:]:
        ratios = [now / plain for now, plain in zip(seconds, first, strict=True)]
        print(
            f"{name}: {statistics.median(ratios):.3f} of it "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    target = torch.arange(len(x)) % 7
    nn.functional.cross_entropy(model(x), target).backward()
    optimizer.step()
    optimizer.zero_grad()


def steps(rounds: int, batch: int) -> None:
    """Time steps with patch dropout and image sizes: forward, backward and AdamW."""
    variants: dict[str, Callable[[], None]] = {}
    for rate in (0.0, 0.25, 0.5, 0.75):
        model = vt.create("vit_s16", num_classes=7, patch_drop_rate=rate).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        x = torch.randn(batch, 3, 224, 224)
        name = f"patch_drop_rate {rate}" if rate else "whole images of 224"
        variants[name] = lambda m=model, o=optimizer, x=x: learn(m, o, x)
    model = vt.create("vit_s16", num_classes=7).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for size in (128, 160, 192):
        x = torch.randn(batch, 3, size, size)
        variants[f"images of {size}"] = lambda x=x: learn(model, optimizer, x)
    compare_interleaved(variants, rounds)


def epochs(rounds: int, batch: int) -> None:
    """Time epochs of mnist_5k; the data is read in this process."""
    dataset = vt.data.open("mnist_5k")
    preprocess = Preprocess(image_size=(28, 28), antialias=True)
    base = AugmentConfig(flip=0.0, shift=0.1)

    def epoch(rate: float, sizes: tuple[int, ...], config: AugmentConfig):
        model = vt.create("vit_s16", num_classes=10, patch_drop_rate=rate, **MNIST)
        optimizer = torch.optim.AdamW(model.train().parameters(), 1e-3)
        examples = dataset.select("train")[:IMAGES]
        transforms = tuple(
            training_transform(config, replace(preprocess, image_size=(s, s)), 0)
            for s in sizes
        )
        loader = Loader(
            dataset=dataset,
            examples=examples,
            transform=TransformSchedule(
                transforms=transforms, batches=-(-len(examples) // batch)
            ),
            batch_size=batch,
            shuffle=True,
            repeats=config.repeats,
        )

        def run() -> None:
            for loaded in loader.epoch(0):
                nn.functional.cross_entropy(
                    model(loaded.image), loaded.target.shares
                ).backward()
                optimizer.step()
                optimizer.zero_grad()

        return run

    compare_interleaved(
        {
            "plain": epoch(0.0, (28,), base),
            "patch_drop_rate 0.5": epoch(0.5, (28,), base),
            "resolutions 14 21 28": epoch(0.0, (14, 21, 28), base),
            "repeats 3": epoch(0.0, (28,), replace(base, repeats=3)),
            "rand_augment 2": epoch(0.0, (28,), replace(base, rand_augment=2)),
            "rand_augment 2, rand_original": epoch(
                0.0, (28,), replace(base, rand_augment=2, policy="rand_original")
            ),
        },
        rounds,
    )


def images(rounds: int, batch: int) -> None:
    """Time cropping and augmenting `batch` images of 375 x 500 pixels."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (375, 500, 3)).astype(np.uint8))
    preprocess = Preprocess()
    base = AugmentConfig(crop="inception")
    variants = {
        "crop and flip": base,
        "rand_augment 2": replace(base, rand_augment=2),
        "rand_augment 2, rand_original": replace(
            base, rand_augment=2, policy="rand_original"
        ),
        "policy auto": replace(base, policy="auto"),
    }

    def make_augment(config: AugmentConfig) -> Callable[[], None]:
        augment = Augment(config=config, preprocess=preprocess)

        def run() -> None:
            for number in range(batch):
                augment(image, "a", number)

        return run

    compare_interleaved(
        {name: make_augment(config) for name, config in variants.items()}, rounds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["steps", "epochs", "images"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run, batch = {"steps": (steps, 8), "epochs": (epochs, 64), "images": (images, 64)}[
        args.what
    ]
    run(args.rounds, args.batch or batch)


if __name__ == "__main__":
    main()
