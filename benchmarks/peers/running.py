"""Run the whole benchmark and return its result as plain data."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peers import inference, loading, memory, startup, training
from benchmarks.peers.machine import describe
from benchmarks.peers.peers import Sides, build_sides
from benchmarks.peers.targets import targets
from vitral.errors import ConfigError

PARTS = ("inference", "training", "loading", "startup", "memory")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of the benchmark."""

    what: tuple[str, ...] = PARTS
    models: tuple[str, ...] = ("vit_s16", "vit_b16")
    """Sizes of the plain Vision Transformer; steps and memory of the first one only."""
    batches: tuple[int, ...] = (1, 8)
    """Batch sizes of the forward pass; training steps use the last one."""
    memory_batch: int = 32
    rounds: int = 7
    """Measured rounds of every side; more for short work."""
    threads: int = 0
    """Threads of torch; 0 for one per core."""
    image_size: tuple[int, int] = (224, 224)
    classes: int = 1000
    images: int = 64
    """Number of files to load."""
    exact: bool = True
    """True: measure compiled forms of the forward pass."""

    def __post_init__(self) -> None:
        for name in self.what:
            if name not in PARTS:
                raise ConfigError(
                    f"`what` must be of {', '.join(PARTS)} or all: got {name!r}."
                )
        numbers = {
            "batch": min(self.batches, default=0),
            "memory_batch": self.memory_batch,
            "rounds": self.rounds,
            "images": self.images,
        }
        for name, number in numbers.items():
            if number < 1:
                raise ConfigError(f"`{name}` must be at least 1: got {number}.")
        if not self.models:
            raise ConfigError("The benchmark needs a model, such as vit_s16.")
        if self.threads < 0:
            raise ConfigError(f"`threads` must not be negative: got {self.threads}.")


def run_benchmark(config: BenchConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; every line that `say` gets tells how far it is.

    Raises:
        ConfigError: a model that other libraries do not have.
        GateError: a side computes another function.
    """
    before = torch.get_num_threads()
    started = time.perf_counter()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        result: dict[str, Any] = {"machine": describe()}
        for part in config.what:
            result[part] = []
        absent: dict[str, str] = {}
        for index, name in enumerate(config.models):
            if {"inference", "training"} & set(config.what):
                say(f"{name}: building the same model in every library")
                sides = build_sides(
                    name, image_size=config.image_size, classes=config.classes
                )
                absent |= sides.absent
                _measure_model(result, sides, name, config, index == 0, say)
        _measure_rest(result, config, say)
    finally:
        torch.set_num_threads(before)
    for part in config.what:
        for cell in result[part]:
            absent |= cell.pop("absent")
    result["absent"] = absent
    result["targets"] = targets(result)
    result["seconds"] = round(time.perf_counter() - started)
    return result


def _measure_model(
    result: dict[str, Any],
    sides: Sides,
    name: str,
    config: BenchConfig,
    first: bool,
    say: Callable[[str], None],
) -> None:
    if "inference" in config.what:
        for batch in config.batches:
            say(f"{name}: forward pass, batch {batch}")
            rounds = config.rounds * (3 if batch == 1 else 1)
            cell = inference.measure(sides, batch, rounds, exact=config.exact)
            result["inference"].append({"model": name, **cell})
    if "training" in config.what and first:
        say(f"{name}: training step, batch {config.batches[-1]}")
        cell = training.measure(sides, config.batches[-1], config.rounds)
        result["training"].append({"model": name, **cell})


def _measure_rest(
    result: dict[str, Any], config: BenchConfig, say: Callable[[str], None]
) -> None:
    name, threads = config.models[0], torch.get_num_threads()
    if "memory" in config.what:
        say(f"{name}: memory of training, batch {config.memory_batch}")
        cell = memory.measure(
            name,
            config.memory_batch,
            image_size=config.image_size,
            classes=config.classes,
            threads=threads,
        )
        result["memory"].append({"model": name, **cell})
    if "loading" in config.what:
        say(f"loading {config.images} JPEG files")
        side = config.image_size[0]
        batch = min(16, config.images)
        rounds = config.rounds
        result["loading"].append(loading.measure(rounds, config.images, batch, side))
    if "startup" in config.what:
        say("imports and help in fresh processes")
        result["startup"].append(startup.measure(min(config.rounds, 3)))
