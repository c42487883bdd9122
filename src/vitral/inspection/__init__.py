"""Models and images in, arrays out: what a model looks at. Nothing here draws."""

from vitral.inspection.attention import attention, class_attention, each_layer
from vitral.inspection.capture import Layer
from vitral.inspection.distance import attention_distance, uniform_distance
from vitral.inspection.faithfulness import (
    Curve,
    Randomisation,
    deletion,
    insertion,
    random_order,
    randomisation_check,
)
from vitral.inspection.filters import Components, components, embedding_filters
from vitral.inspection.grad_cam import grad_cam
from vitral.inspection.inner_attention import word_attention
from vitral.inspection.pca_colors import feature_colours
from vitral.inspection.positions import position_similarity
from vitral.inspection.rank import residual_profile, similarity_profile
from vitral.inspection.relevance import gradient_rollout, relevance
from vitral.inspection.rollout import rollout, rollout_matrix

__all__ = [
    "Components",
    "Curve",
    "Layer",
    "Randomisation",
    "attention",
    "attention_distance",
    "class_attention",
    "components",
    "deletion",
    "each_layer",
    "embedding_filters",
    "feature_colours",
    "grad_cam",
    "gradient_rollout",
    "insertion",
    "position_similarity",
    "random_order",
    "randomisation_check",
    "relevance",
    "residual_profile",
    "rollout",
    "rollout_matrix",
    "similarity_profile",
    "uniform_distance",
    "word_attention",
]
