"""Models and images in, arrays out: what a model looks at. Nothing here draws."""

from vitral.inspection.attention import attention, class_attention, each_layer
from vitral.inspection.capture import Layer
from vitral.inspection.distance import attention_distance, uniform_distance
from vitral.inspection.features import feature_colours
from vitral.inspection.filters import Components, components, embedding_filters
from vitral.inspection.grad_cam import grad_cam
from vitral.inspection.positions import position_similarity
from vitral.inspection.relevance import gradient_rollout, relevance
from vitral.inspection.rollout import rollout, rollout_matrix

__all__ = [
    "Components",
    "Layer",
    "attention",
    "attention_distance",
    "class_attention",
    "components",
    "each_layer",
    "embedding_filters",
    "feature_colours",
    "grad_cam",
    "gradient_rollout",
    "position_similarity",
    "relevance",
    "rollout",
    "rollout_matrix",
    "uniform_distance",
]
