"""Defects of solar cells in electroluminescence images (arXiv 1807.02894).

2,624 grey cells of 300 x 300 pixels with a defect probability of 0, 1/3, 2/3 or 1.
`python benchmarks/elpv.py` writes the data as a table.
"""

from vitral.data import AugmentConfig
from vitral.training import LoopConfig, OptimConfig, ScheduleConfig, fast_precision
from vitral.workflows import TrainConfig


def finetune(data: str, weights: str) -> TrainConfig:
    """Fine-tune a DINOv2 ViT-S/14 on the uncertain labels as they are.

    Command: `python benchmarks/elpv.py --weights FILE`
    Cost: eight blocks once for each image and view, eight passes over the other four.
    Expect: the numbers of docs/results.md.
    """
    return TrainConfig(
        data=data,
        recipe="elpv.finetune",
        expected="88.7 % on the test part, mean of three seeds (docs/results.md)",
        weights=weights,
        image_size=224,
        model_changes={"global_pool": "token_avg", "drop_path_rate": 0.1},
        freeze=8,
        cache=True,
        batch_size=32,
        epochs=8.0,
        val=0.0,
        eval_views="dihedral",
        augment=AugmentConfig(dihedral=True, flip=0.0, views=4),
        optim=OptimConfig(lr=2e-4, weight_decay=0.05, layer_decay=0.75),
        schedule=ScheduleConfig(warmup=50),
        loop=LoopConfig(
            precision=fast_precision(), ema=0.99, ema_warmup=True, checkpoint_every=100
        ),
    )
