"""Facts of DINOv3 (arXiv 2508.10104) that its layouts share."""

from vitral.weights.layouts import limits

NORM_EPS = 1e-5
LIMITS: tuple[limits.Limit, ...] = (
    limits.VIT_ONLY,
    ("its positions are rotary", lambda it: it.position != "rotary"),
    (
        "its models have a class token and registers",
        lambda it: not it.class_token or not it.reg_tokens,
    ),
    ("it has LayerScale", lambda it: it.init_values is None),
    limits.NO_QK_NORM,
    limits.NO_TANH,
    limits.HEADS_WIDTH,
    limits.NO_PATCH_NORM,
    limits.NO_NORM_PRE,
    limits.LAYER_NORM,
    limits.NO_MLP_NORM,
    limits.KEY_BIAS,
    limits.NORM_BEFORE_POOL,
    limits.PROJ_BIAS,
)
DROPPED = {
    r"(.*\.)?mask_token$": "of the pre-training only",
    r"(rope|rope_embed|rope_embeddings)\.": "computed: the angles of the positions",
}
