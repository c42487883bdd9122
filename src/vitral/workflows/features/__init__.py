"""Extract features, cache them, and fit probes on them."""

from vitral.tasks.features import ExtractedFeatures, extract_features
from vitral.tasks.probe import SEEDS, ProbeSettings
from vitral.workflows.features.cache_key import content_hash, weights_file_hash
from vitral.workflows.features.extract import (
    SplitFeatures,
    as_run,
    dataset_for,
    extract_splits,
    features,
    held_out_split,
    resolve_image_size,
)
from vitral.workflows.features.probes import (
    PROTOCOLS,
    probe_weights,
    run_probe,
    to_json,
    write_probes,
)

__all__ = [
    "PROTOCOLS",
    "SEEDS",
    "ExtractedFeatures",
    "ProbeSettings",
    "SplitFeatures",
    "as_run",
    "content_hash",
    "dataset_for",
    "extract_features",
    "extract_splits",
    "features",
    "held_out_split",
    "probe_weights",
    "resolve_image_size",
    "run_probe",
    "to_json",
    "weights_file_hash",
    "write_probes",
]
