"""Recipes for small data sets: hundreds to thousands of images."""

import math
from dataclasses import replace

import vitral.weights
from vitral.data import AugmentConfig
from vitral.errors import ConfigError
from vitral.models import Size2d, ViTConfig
from vitral.recipes.dataset_facts import DatasetSummary, summarize_dataset
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig
from vitral.workflows import TrainConfig

FINETUNE_UP_TO = 50_000
"""Images; larger sets give the paper's fine-tuning enough steps."""
SCRATCH_SIZE = 96
"""Pixels of the longer side, to which larger images are reduced in training from zero:
a few thousand images do not justify the cost of more detail."""

ENLARGED_AT_MOST = 4
"""Factor by which a picture is enlarged for pre-trained weights: more adds work, and
no detail."""
SMALLEST_SIDE = 112
"""Pixels: fewer are too few patches for weights of photographs."""

FINETUNE_EPOCHS = 10.0
FEWEST_UPDATES = 100
"""Of a fine-tuning: a handful of updates would only disturb the head."""

SMALL_LOOP = LoopConfig(ema=0.998, ema_warmup=True)


def scratch(data: str, weights: str = "") -> TrainConfig:
    """Train a small ViT from zero: small patches, fixed positions, mean pooling.

    Command: `vitral train digits --recipe small.scratch --out runs/digits`
    Cost: about two minutes on two cores for 1,300 images of 8 x 8.
    Expect: 97 to 98 % on the 20 % of scikit-learn's digits that are held out.

    Sin-cos positions and mean pooling follow arXiv 2205.01580. Grey images are often
    writing or measurements, so only coloured ones are flipped.
    """
    require_no_weights("small", weights)
    facts = summarize_dataset(data)
    patch, height, width = _scratch_geometry(facts)
    epoch = max(1, round(0.7 * facts.num_images / 64))
    epochs = float(min(200, max(20, round(150_000 / facts.num_images))))
    return TrainConfig(
        data=data,
        recipe="small.scratch",
        expected="97 to 98 % on the held-out fifth of scikit-learn's digits"
        if data == "digits"
        else "not measured on this data",
        model=f"vit_ti{patch}",
        model_changes={
            "embed_dim": 128,
            "depth": 6,
            "num_heads": 4,
            "mlp_dim": 256,
            "class_token": False,
            "global_pool": "avg",
            "position": "sincos_2d",
            "drop_path_rate": 0.1,
        },
        image_size=(height, width),
        batch_size=64,
        epochs=epochs,
        augment=AugmentConfig(
            flip=0.0 if facts.grey else 0.5,
            shift=0.06,
            rotate=8.0,
            color_jitter=0.0 if facts.grey else 0.2,
        ),
        objective=facts.objective(smoothing=0.1),
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=5 * epoch),
        loop=replace(SMALL_LOOP, eval_every=5 * epoch, checkpoint_every=10 * epoch),
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
        loop=LoopConfig(precision="bf16", eval_every=epoch, checkpoint_every=epoch),
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
    scale = min(1.0, SCRATCH_SIZE / longer)
    side = longer * scale
    patch = 2 if side <= 16 else 4 if side <= 48 else 8
    height, width = (
        max(patch, round(pixels * scale / patch) * patch)
        for pixels in (facts.height, facts.width)
    )
    return patch, height, width
