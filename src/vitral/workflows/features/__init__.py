"""Extract features, cache them, and fit probes on them."""

from vitral.workflows.features.cache import Extracted, computed, say
from vitral.workflows.features.cache_key import content_hash, file_key
from vitral.workflows.features.extract import (
    Material,
    data_for,
    features,
    features_of,
    held_out_of,
    run_of,
)
from vitral.workflows.features.probes import (
    PROTOCOLS,
    SEEDS,
    as_json,
    probe,
    rows_of,
    stored,
)

__all__ = [
    "PROTOCOLS",
    "SEEDS",
    "Extracted",
    "Material",
    "as_json",
    "computed",
    "content_hash",
    "data_for",
    "features",
    "features_of",
    "file_key",
    "held_out_of",
    "probe",
    "rows_of",
    "run_of",
    "say",
    "stored",
]
