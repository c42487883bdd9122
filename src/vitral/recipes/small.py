"""Recipes for small data sets: hundreds to thousands of images."""

import math

import vitral.weights
from vitral.data import AugmentConfig
from vitral.errors import ConfigError
from vitral.models import Size2d, ViTConfig
from vitral.recipes.dataset_facts import DatasetSummary, summarize_dataset
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig, fast_precision
from vitral.workflows import TrainConfig

FINETUNE_UP_TO = 50_000
"""Images; larger sets give the paper's fine-tuning enough steps."""
SCRATCH_SIZE = 96
"""Pixels of the longer side, to which larger images are reduced in training from zero:
a few thousand images do not justify the cost of more detail."""

TINY_PICTURE = 16
"""Pixels of the longer side, up to which pictures are enlarged to twice their size
for training from zero: patches of 4 of their pixels are too coarse."""
SMALL_PICTURE = 32
"""Pixels of the longer side, up to which the smaller model learns as well."""
SMALL_MODEL = {"embed_dim": 96, "depth": 4, "num_heads": 3, "mlp_dim": 192}
LARGE_MODEL = {
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "mlp_dim": 256,
    "drop_path_rate": 0.1,
}
SCRATCH_BATCH = 64
AVERAGED_SHARE = 0.1
"""Share of a run's updates that the average of weights looks back on, at most."""

ENLARGED_AT_MOST = 4
"""Factor by which a picture is enlarged for pre-trained weights: more adds work, and
no detail."""
SMALLEST_SIDE = 112
"""Pixels: fewer are too few patches for weights of photographs."""

FINETUNE_EPOCHS = 10.0
FEWEST_UPDATES = 100
"""Of a fine-tuning: a handful of updates would only disturb the head."""


def scratch(data: str, weights: str = "") -> TrainConfig:
    """Train a small ViT_C from zero: convolutional stem, fixed positions, mean pooling.

    Command: `vitral train digits --recipe small.scratch --out runs/digits`
    Cost: one minute on one core for 1,300 images of 8 x 8.
    Expect: 98.6 to 100 % on the 20 % of scikit-learn's digits that are held out.

    Stem: arXiv 2106.14881; sin-cos positions and mean pooling: 2205.01580. Grey images
    are often writing or measurements, so only coloured ones are flipped. The last
    step's averaged weights are kept: a val of some dozens of images cannot choose.
    """
    require_no_weights("small", weights)
    facts = summarize_dataset(data)
    patch, height, width = _scratch_geometry(facts)
    small = max(height, width) <= SMALL_PICTURE
    epoch = max(1, round(0.7 * facts.num_images / SCRATCH_BATCH))
    seen = 75_000 if small else 150_000
    epochs = float(min(200, max(20, round(seen / facts.num_images))))
    ema = 1 - 1 / max(10.0, AVERAGED_SHARE * epochs * epoch)
    return TrainConfig(
        data=data,
        recipe="small.scratch",
        expected="98.6 to 100 % on the held-out fifth of scikit-learn's digits"
        if data == "digits"
        else "not measured on this data",
        model=f"vitc_ti{patch}",
        model_changes={
            **(SMALL_MODEL if small else LARGE_MODEL),
            "class_token": False,
            "global_pool": "avg",
            "position": "sincos_2d",
        },
        image_size=(height, width),
        batch_size=SCRATCH_BATCH,
        epochs=epochs,
        augment=AugmentConfig(
            flip=0.0 if facts.grey else 0.5,
            shift=0.1,
            rotate=10.0,
            zoom=0.1,
            color_jitter=0.0 if facts.grey else 0.2,
        ),
        objective=facts.objective(smoothing=0.1),
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=5 * epoch),
        loop=LoopConfig(
            ema=min(0.998, ema),
            ema_warmup=True,
            monitor="none",
            eval_every=5 * epoch,
            checkpoint_every=10 * epoch,
        ),
    )


def finetune(data: str, weights: str) -> TrainConfig:
    """Fine-tune pre-trained weights on a small set: probe, tune, fit the head again.

    Command: `vitral train photos --weights NAME --out runs/photos`
    Cost: three minutes on one core for 650 images with a ViT-S at 70 pixels.
    Expect: better than a linear probe of the same weights; see docs/results.md.

    The head starts as a logistic regression on the features (arXiv 2202.10054), rates
    fall by 0.75 a layer (arXiv 2106.08254), and small sets get more epochs.
    """
    facts = summarize_dataset(data)
    epochs = max(FINETUNE_EPOCHS, FEWEST_UPDATES * 32 / (0.7 * facts.num_images))
    epoch = max(1, round(0.7 * facts.num_images / 32))
    return TrainConfig(
        data=data,
        recipe="small.finetune",
        expected="better than a linear probe of the same weights",
        weights=weights,
        image_size=_finetune_size(weights, facts),
        batch_size=32,
        epochs=round(epochs, 1),
        augment=AugmentConfig(
            crop="inception",
            crop_area=(0.4, 1.0),
            flip=0.0 if facts.grey else 0.5,
        ),
        objective=facts.objective(smoothing=0.1).with_fitted_head(),
        optim=OptimConfig(lr=3e-4, weight_decay=0.05, layer_decay=0.75),
        schedule=ScheduleConfig(warmup=max(1, round(0.1 * epochs * epoch))),
        loop=LoopConfig(
            precision=fast_precision(),
            monitor="none",
            eval_every=epoch,
            checkpoint_every=epoch,
        ),
    )


def require_no_weights(paper: str, weights: str) -> None:
    """Raise ConfigError for weights that the recipe would ignore."""
    if weights:
        raise ConfigError(
            f"The recipe {paper}.scratch trains from zero and takes no weights: leave "
            f"out `--weights {weights}`, or fine-tune with `--recipe {paper}.finetune`."
        )


def _finetune_size(weights: str, facts: DatasetSummary) -> Size2d:
    """Return 224 pixels; less for weights of a smaller size, or for small pictures."""
    source = vitral.weights.read(weights).config
    if min(source.image_hw) < 224:
        return source.image_size
    enlarged = min(facts.height, facts.width) * ENLARGED_AT_MOST
    if enlarged >= 224 or not isinstance(source, ViTConfig):
        return 224
    patch = math.lcm(*source.patch_hw)
    return max(SMALLEST_SIDE, enlarged) // patch * patch


def _scratch_geometry(facts: DatasetSummary) -> tuple[int, int, int]:
    """Return patch, height and width: 16 to about 144 patches in the images' shape."""
    longer = max(facts.height, facts.width)
    scale = 2.0 if longer <= TINY_PICTURE else min(1.0, SCRATCH_SIZE / longer)
    patch = 4 if longer * scale <= 48 else 8
    height, width = (
        max(patch, round(pixels * scale / patch) * patch)
        for pixels in (facts.height, facts.width)
    )
    return patch, height, width
