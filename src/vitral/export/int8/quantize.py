"""Post-training quantisation of an OpenVINO model to int8 with NNCF.

Layers with weights are quantised; products of two activations (queries with keys, the
sums of merged tokens) stay in float, since int8 made them no quicker
(docs/dev/experiments/int8.md). Weights get one scale a channel, activations one a
tensor, both symmetric; the input of each layer is smoothed first, which moves outliers
of a channel from the activations into the weights (SmoothQuant, arXiv 2211.10438). What
is measured with the result is in bounded.py, which layers suffer in sensitivity.py.
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
    """A copy of `model`, an openvino.Model, whose matrix products are in int8.

    Args:
        batches: pre-processed images, from which the ranges of activations are taken.
        keep_float: names of operations that stay in float.

    Raises:
        ConfigError: no batch is given.
        MissingExtraError: NNCF is not installed.
    """
    tool = import_nncf()
    if not batches:
        raise ConfigError("int8 needs images to measure activations on: got none.")
    with _suppress_output():
        quantised = tool.quantize(
            model.clone(),
            tool.Dataset(list(batches)),
            # Symmetric was as accurate as asymmetric, and took 164 ms, not 175
            # (docs/dev/experiments/int8.md).
            preset=tool.QuantizationPreset.PERFORMANCE,
            model_type=tool.ModelType.TRANSFORMER,
            subset_size=len(batches),
            ignored_scope=tool.IgnoredScope(
                names=find_float_products(model), validate=False
            ),
        )
    return restore_float(quantised, model, keep_float) if keep_float else quantised


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Without the bars that NNCF draws on stdout for everything that it counts, and
    without torch's remark that there is no CUDA, which NNCF's late imports bring."""
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
