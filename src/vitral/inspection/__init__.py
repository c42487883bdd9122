"""Attention, relevance and feature maps of a model as arrays; plots draws them."""

from vitral.inspection.attention import (
    attention,
    class_attention,
    iter_attention,
    word_attention,
)
from vitral.inspection.capture import LayerAttention, has_attention
from vitral.inspection.distance import (
    attention_distance,
    distance_obstacle,
    uniform_distance,
)
from vitral.inspection.faithfulness import (
    FaithfulnessCurve,
    Randomization,
    deletion,
    insertion,
    random_order,
    randomization_check,
)
from vitral.inspection.filters import (
    FilterComponents,
    embedding_filters,
    filter_components,
)
from vitral.inspection.grad_cam import grad_cam
from vitral.inspection.pca_colors import feature_colors
from vitral.inspection.positions import position_similarity
from vitral.inspection.rank import residual_profile, similarity_profile
from vitral.inspection.relevance import gradient_rollout, relevance
from vitral.inspection.rollout import rollout, rollout_matrix

__all__ = [
    "FaithfulnessCurve",
    "FilterComponents",
    "LayerAttention",
    "Randomization",
    "attention",
    "attention_distance",
    "class_attention",
    "deletion",
    "distance_obstacle",
    "embedding_filters",
    "feature_colors",
    "filter_components",
    "grad_cam",
    "gradient_rollout",
    "has_attention",
    "insertion",
    "iter_attention",
    "position_similarity",
    "random_order",
    "randomization_check",
    "relevance",
    "residual_profile",
    "rollout",
    "rollout_matrix",
    "similarity_profile",
    "uniform_distance",
    "word_attention",
]
