"""Write the figures of one model and some images or clips to a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vitral.models
import vitral.weights
from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.errors import ConfigError, DataError, ImageError
from vitral.models import MergeSchedule, set_merge_if_given
from vitral.weights import WeightsSource
from vitral.workflows.inspect.clip_figures import CLIP_FIGURES
from vitral.workflows.inspect.draw_maps import InspectionFigure, InspectionInput
from vitral.workflows.inspect.figures import FIGURES
from vitral.workflows.runtime import pick_device

BUILDERS = {"images": FIGURES, "clips": CLIP_FIGURES}
"""Figure builders by the kind of input."""
NEXT_FIGURE = {"images": "faithfulness", "clips": "relevance"}
"""Figure to look at after all others, by the kind of input."""


@dataclass(frozen=True, kw_only=True)
class InspectionOptions:
    """Settings of an inspection: how the model is loaded, which figures are made."""

    image_size: int | tuple[int, int] | None = None
    """Pixels, (height, width) or one number; None for the model's own."""
    layer: int | None = None
    """Index of the layer whose attention heads are drawn, and of the block whose input
    is Grad-CAM's map; -1 is the last. None: the last that says something."""
    target: str = ""
    """Name or index of the class to explain; empty for the predicted one."""
    merge: int | None = None
    """Tokens to merge in each block; None leaves the model as trained."""
    merge_schedule: MergeSchedule | None = None
    """Spread of the merged tokens over the blocks; None: `constant`."""
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class InspectionResult:
    """Files written, figures skipped and files not readable, with reasons."""

    files: list[Path]
    skipped: dict[str, str]
    unreadable: dict[str, str]


def inspect(
    source: WeightsSource,
    files: Sequence[Path],
    out: Path,
    *,
    what: str = "all",
    kind: str = "png",
    options: InspectionOptions = InspectionOptions(),
) -> InspectionResult:
    """Write the figures and arrays of `what` into `out`.

    Args:
        source: the result of `vitral.weights.read`.
        files: images, or clips for a model that takes clips.
        what: one of FIGURES, or `all`, which skips those that the model cannot show.
        kind: `png` or `pdf`.

    Raises:
        ConfigError: the model cannot show the figure, or has no such layer or class.
        DataError: no file is a readable image, or a readable clip.
        WeightsError: the model cannot be loaded.
    """
    if what != "all" and what not in FIGURES:
        raise ConfigError(
            f"`what` must be all or one of {', '.join(FIGURES)}: got {what}."
        )
    subject, unreadable = _load_input(source, files, options)
    builders = BUILDERS[subject.preprocess.kind]
    written: list[Path] = []
    skipped: dict[str, str] = {}
    alt_texts: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    for name in FIGURES if what == "all" else (what,):
        try:
            for figure in builders[name](subject):
                written += _write_figure(out, figure, subject, kind)
                alt_texts[f"{figure.name}.{kind}"] = figure.plot.alt
                if figure.gif is not None:
                    alt_texts[f"{figure.name}.gif"] = figure.plot.alt
        except ConfigError as error:
            if what != "all":
                raise
            skipped[name] = str(error)
    write_json(out / "figures.json", {"figures": alt_texts, "skipped": skipped})
    return InspectionResult([*written, out / "figures.json"], skipped, unreadable)


def _load_input(
    source: WeightsSource, files: Sequence[Path], options: InspectionOptions
) -> tuple[InspectionInput, dict[str, str]]:
    """Load a model and its images; return them, and unreadable files with reasons."""
    size = options.image_size
    changes = {} if size is None else {"image_size": size}
    config = vitral.models.replace_config(source.config, changes)
    loaded = vitral.weights.build(source, config, dtype=torch.float32)
    set_merge_if_given(loaded.model, options.merge, options.merge_schedule)
    loaded.model.to(pick_device(options.device))
    preprocess = loaded.preprocess.for_input(config.input_shape)
    names, views, unreadable = [], [], {}
    for file in files:
        try:
            views.append(preprocess.load_view(file))
            names.append(str(file))
        except ImageError as error:
            unreadable[str(file)] = str(error)
    if not views:
        first = next(iter(unreadable.items()), ("", "no file was given"))
        raise DataError(
            f"None of {len(files)} files is a readable {preprocess.noun}; "
            f"{first[0]}: "
            f"{first[1]}"
        )
    return InspectionInput(
        model=loaded.model,
        preprocess=preprocess,
        classes=source.classes,
        names=tuple(names),
        pixels=torch.stack([view.pixels for view in views]),
        frame_times=tuple(times for view in views for times in view.frame_times),
        layer=options.layer,
        target=_resolve_class(options.target, source.classes, config.num_classes),
    ), unreadable


def _resolve_class(
    target: str, classes: tuple[str, ...], num_classes: int
) -> int | None:
    if not target:
        return None
    if target in classes:
        return classes.index(target)
    if target.isdecimal() and int(target) < num_classes:
        return int(target)
    available = (
        ", ".join(classes[:8]) if classes else f"numbers from 0 to {num_classes - 1}"
    )
    raise ConfigError(f"The model has no class `{target}`; it has {available}.")


def _write_figure(
    out: Path, figure: InspectionFigure, subject: InspectionInput, kind: str
) -> list[Path]:
    render = plots.to_pdf if kind == "pdf" else plots.to_png
    written = [out / f"{figure.name}.{kind}"]
    write_atomic(written[0], render(figure.plot.figure))
    if figure.gif is not None:
        written.append(out / f"{figure.name}.gif")
        write_atomic(written[-1], figure.gif)
    if figure.arrays:
        arrays: dict[str, Any] = {**figure.arrays, "files": np.array(subject.names)}
        written.append(out / f"{figure.name.removesuffix('-0')}.npz")
        write_atomic(written[-1], lambda path: _save_arrays(path, arrays))
    return written


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
