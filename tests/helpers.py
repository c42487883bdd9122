"""Small things that several test files need."""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitral.data import Batch
from vitral.models import (
    TNT,
    TimeSformer,
    TimeSformerConfig,
    TNTConfig,
    ViT,
    ViTConfig,
    create,
)
from vitral.training.fit import EpochBatches, FitResult, FitSpec, fit

TINY: dict[str, Any] = {
    "image_size": (48, 80),
    "patch_size": 16,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 40,
}
"""A model in which no two sizes are equal."""


TINY_TNT: dict[str, Any] = {
    **TINY,
    "in_chans": 5,
    "depth": 3,
    "word_size": (4, 8),
    "word_kernel": 15,
    "inner_dim": 10,
    "inner_num_heads": 2,
    "inner_mlp_dim": 14,
}
"""Words of 4 x 8 pixels: 4 x 2 in a patch, and again no two sizes are equal."""


def tiny_vit(**changes: Any) -> ViT:
    """A small float64 model whose every parameter is random, head and biases too."""
    model = ViT(ViTConfig(**{**TINY, **changes})).double()
    randomise(model)
    return model.eval()


def tiny_tnt(**changes: Any) -> TNT:
    """A small float64 TNT whose every parameter is random."""
    model = TNT(TNTConfig(**{**TINY_TNT, **changes})).double()
    randomise(model)
    return model.eval()


def tiny_timesformer(**changes: Any) -> TimeSformer:
    """A small float64 TimeSformer of four frames whose every parameter is random."""
    fields = {**TINY, "num_frames": 4, **changes}
    model = TimeSformer(TimeSformerConfig(**fields)).double()
    randomise(model)
    return model.eval()


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Random values for every parameter, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
            parameter.copy_(noise * 0.2 + (1.0 if parameter.ndim == 1 else 0.0))


def centre_biases(model: nn.Module) -> None:
    """Biases around 0 after `randomise`, so that a ReLU cuts half of what it gets."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.sub_(1.0)


def images(
    batch: int = 2, height: int = 48, width: int = 80, channels: int = 3
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, channels, height, width)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run_fit(
    objective: nn.Module, optimizer: torch.optim.Optimizer, **arguments: Any
) -> FitResult:
    """Call `fit` with the settings of its parts as one list of keywords."""
    batches = EpochBatches(
        epoch=arguments.pop("batches"), per_epoch=arguments.pop("batches_per_epoch")
    )
    hooks = {
        name: arguments.pop(name)
        for name in ("device", "evaluate", "on_best", "progress")
        if name in arguments
    }
    spec = FitSpec(
        loop=arguments.pop("config"),
        identity=arguments.pop("extra_state", {}),
        **arguments,
    )
    return fit(objective, optimizer, batches, spec, **hooks)


@contextmanager
def captured_log(name: str = "vitral") -> Iterator[list[str]]:
    """Collect the messages of a logger, from level INFO up."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger(name), Collector(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def on_meta(name: str, **changes: Any) -> nn.Module:
    """A model of the registry without memory for its weights."""
    with torch.device("meta"):
        return create(name, **changes)


def count_parameters(name: str, **changes: Any) -> int:
    return sum(p.numel() for p in on_meta(name, **changes).parameters())


def golden_noise(shape: Sequence[int], c: float) -> torch.Tensor:
    """The reproducible numbers of the published goldens, in C order."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    product = torch.sin(12.9898 * i + c) * 43758.5453
    return (product - product.floor()).reshape(shape)


def assert_near(
    actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-10
) -> None:
    """Equal up to a share of the largest expected value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= rtol * expected.abs().max()


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def validate_with(config: Any, name: str, value: Any) -> None:
    """Validate a value that the type checker of the tests would refuse first."""
    object.__setattr__(config, name, value)
    config.__post_init__()


def same_batch(left: Batch, right: Batch) -> bool:
    """Equal images, targets and labels, bit by bit, of the same examples."""
    pairs = zip((left.image, *left.target), (right.image, *right.target), strict=True)
    return all(torch.equal(*pair) for pair in pairs) and left.id == right.id


def measure_child(work: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds of `work` in a fork, and the megabytes on top of its start.

    The peak is the child's own since it was reset: getrusage gives that of the parent
    too, under which a child could hide gigabytes.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            before, started = _status_kb("VmRSS"), time.monotonic()
            work()
            took = time.monotonic() - started
            grown = (_status_kb("VmHWM") - before) // 1024
            os.write(writer, json.dumps([took, grown]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0
    took, grown = json.loads(text)
    return took, grown


def _status_kb(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0])
