"""Post-training quantization of an OpenVINO model to int8 with NNCF.

Weights get a scale per channel, activations one per tensor, both symmetric, after
SmoothQuant (arXiv 2211.10438). Products of two activations stay in float: int8 made
them no faster (docs/dev/experiments/int8.md).
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from vitral.errors import ConfigError
from vitral.export.int8.layers import find_float_products, restore_float
from vitral.export.run_openvino import Images
from vitral.weights.exported import import_nncf


def quantize(
    model: Any, batches: Sequence[Images], keep_float: Collection[str] = ()
) -> Any:
    """Return a copy of `model`, an openvino.Model, with matrix products in int8.

    Args:
        batches: pre-processed images to measure the ranges of activations on.
        keep_float: names of operations that stay in float.

    Raises:
        ConfigError: `batches` is empty.
        MissingExtraError: NNCF is not installed.
    """
    nncf = import_nncf()
    if not batches:
        raise ConfigError("int8 needs images to measure activations on: got none.")
    with _suppress_output():
        quantized = nncf.quantize(
            model.clone(),
            nncf.Dataset(list(batches)),
            # Symmetric was as accurate as asymmetric, and took 164 ms, not 175
            # (docs/dev/experiments/int8.md).
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(
                names=find_float_products(model), validate=False
            ),
        )
    return restore_float(quantized, model, keep_float) if keep_float else quantized


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Silence NNCF's progress bars on stdout, and torch's remark about missing CUDA,
    which NNCF's late imports cause."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
