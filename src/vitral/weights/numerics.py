"""Constants of foreign code that no file records: activation, epsilon, resizing."""

from vitral.layers.mlp import Activation
from vitral.layers.position import ResizeMethod
from vitral.models import ViTConfig

ACTIVATIONS: dict[Activation, str] = {
    "gelu": "the exact GELU",
    "gelu_tanh": "the tanh form of GELU",
}
RESIZES: dict[ResizeMethod, str] = {
    "official": "the official code's bilinear zoom",
    "bicubic": "bicubic interpolation",
    "bicubic_antialias": "bicubic interpolation with a low-pass",
    "nearest": "the nearest row of the table",
    "nearest_flat": "the nearest row of the table as one long list",
}


def differences(
    config: ViTConfig,
    whose: str,
    *,
    act: Activation | None = "gelu",
    norm_eps: float | None = 1e-6,
    resize: ResizeMethod | None = None,
) -> list[str]:
    """Return a note for every constant in which a model differs from the loading code.

    Args:
        whose: the code, as a sentence calls it: "torchvision".
        act: its activation; None where its files record it. The others likewise.
    """
    notes = []
    if act not in (None, config.act) and config.mlp == "plain":
        notes.append(
            f"{whose} computes {ACTIVATIONS[act]}, this model "
            f"{ACTIVATIONS[config.act]}: logits differ slightly there"
        )
    if norm_eps not in (None, config.norm_eps):
        notes.append(
            f"{whose} has an epsilon of {norm_eps:g} in its LayerNorms, this model "
            f"{config.norm_eps:g}: logits differ slightly there"
        )
    if resize not in (None, config.position_resize):
        notes.append(
            f"for images of another size {whose} resizes positions by "
            f"{RESIZES[resize]}, this model by {RESIZES[config.position_resize]}: "
            "logits differ slightly there"
        )
    return notes
