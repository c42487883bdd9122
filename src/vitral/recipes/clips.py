"""Recipes for clips: a TimeSformer (arXiv 2102.05095), from zero or from weights."""

from dataclasses import replace

from vitral.data import AugmentConfig
from vitral.recipes.dataset_facts import summarize_dataset
from vitral.recipes.small import require_no_weights
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig, fast_precision
from vitral.workflows import TrainConfig

CLIP_LOOP = LoopConfig(ema=0.998, ema_warmup=True)


LONGER_SIDE = 64
"""Pixels of the longer side, to which larger frames are reduced in training from zero:
eight frames cost eight times an image."""


def scratch(data: str, weights: str = "") -> TrainConfig:
    """Train a small TimeSformer from zero, on eight evenly spaced frames of each clip.

    Command: `vitral train clips --recipe clips.scratch --out runs/clips`
    Cost: 8 clips a second on one thread with frames of 48 x 64 pixels (patches of 8):
        half an hour for 200 clips of training.
    Expect: not measured. From zero, motion is learned slowly.

    Clips are not flipped: the direction of motion may distinguish two classes.
    """
    require_no_weights("clips", weights)
    facts = summarize_dataset(data, kind="clips")
    scale = min(1.0, LONGER_SIDE / max(facts.height, facts.width))
    height, width = (
        max(16, round(side * scale / 16) * 16) for side in (facts.height, facts.width)
    )
    epoch = max(1, round(0.7 * facts.num_images / 16))
    return TrainConfig(
        data=data,
        recipe="clips.scratch",
        expected="not measured",
        model="timesformer_ti16",
        model_changes={
            "embed_dim": 96,
            "depth": 4,
            "num_heads": 4,
            "mlp_dim": 192,
            "patch_size": 8,
        },
        image_size=(height, width),
        batch_size=16,
        epochs=float(min(100, max(20, round(20_000 / facts.num_images)))),
        augment=AugmentConfig(flip=0.0, shift=0.06),
        objective=facts.objective(smoothing=0.1),
        optim=OptimConfig(lr=1e-3, weight_decay=0.05),
        schedule=ScheduleConfig(warmup=5 * epoch),
        loop=replace(CLIP_LOOP, eval_every=5 * epoch, checkpoint_every=10 * epoch),
    )


def finetune(data: str, weights: str) -> TrainConfig:
    """Fine-tune a video model, or start one from the weights of an image model.

    Command: `vitral train clips --weights FILE --out runs/clips`; with weights of an
        image model also `--model timesformer_s16`
    Cost: not measured; eight times that of images of the same size, or more.
    Expect: not measured.

    AdamW and layer-wise rates as in small.finetune; clips are not flipped.
    """
    facts = summarize_dataset(data, kind="clips")
    epoch = max(1, round(0.7 * facts.num_images / 8))
    return TrainConfig(
        data=data,
        recipe="clips.finetune",
        expected="not measured",
        weights=weights,
        model_changes={"drop_path_rate": 0.1},
        batch_size=8,
        epochs=10.0,
        augment=AugmentConfig(crop="inception", crop_area=(0.4, 1.0), flip=0.0),
        objective=facts.objective(smoothing=0.1),
        optim=OptimConfig(lr=3e-4, weight_decay=0.05, layer_decay=0.75),
        schedule=ScheduleConfig(warmup=epoch),
        loop=replace(
            CLIP_LOOP,
            precision=fast_precision(),
            eval_every=epoch,
            checkpoint_every=epoch,
        ),
    )
