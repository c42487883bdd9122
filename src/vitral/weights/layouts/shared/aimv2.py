"""Facts of AIMv2 (arXiv 2411.14402) that its layouts share."""

from vitral.weights.layouts import limits

NORM_EPS = 1e-5
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    ("its norms are RMSNorms", lambda it: it.norm != "rms"),
    limits.LEARNED_AT_STEM,
    (
        "it has no class token and no registers",
        lambda it: it.class_token or it.reg_tokens > 0,
    ),
    (
        "its attention has no biases",
        lambda it: it.qkv_bias or it.proj_bias,
    ),
    ("it pools the mean after its norm", lambda it: it.norm_after_pool),
    limits.NO_LAYER_SCALE,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
)
