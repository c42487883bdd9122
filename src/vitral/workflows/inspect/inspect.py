"""Every figure of inspection for one model and some pictures, written to a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import vitral.models
import vitral.weights
from vitral import plots
from vitral.atomic_io import write_atomic, write_json
from vitral.errors import ConfigError, DataError, ImageError
from vitral.models import MergeSchedule
from vitral.weights import WeightsSource
from vitral.workflows.inputs import (
    load_first_view,
    load_input,
    read_clip,
    with_sampling,
)
from vitral.workflows.inspect.clip_figures import CLIP_FIGURES
from vitral.workflows.inspect.figures import FIGURES, InspectionFigure, InspectionInput
from vitral.workflows.runtime import pick_device


class InspectionResult(NamedTuple):
    """What was written, and what could not be shown."""

    files: list[Path]
    skipped: dict[str, str]
    unreadable: dict[str, str]


def inspect(
    weights: str | Path | WeightsSource,
    files: Sequence[Path],
    out: Path,
    *,
    what: str = "all",
    image_size: int | tuple[int, int] | None = None,
    layer: int = -1,
    target: str = "",
    kind: str = "png",
    device: str = "auto",
    merge: int | None = None,
    merge_schedule: MergeSchedule | None = None,
) -> InspectionResult:
    """Write the figures and arrays of `what` into `out`.

    Args:
        weights: a run, a model folder, or weights of any layout; or what
            `vitral.weights.read` made of them.
        files: images, or clips for a model that takes clips.
        what: one of VIEWS, or `all`, which passes over what the model cannot show.
        image_size: pixels, (height, width) or one number; None for the model's own.
        target: name or number of the class to explain; empty for the predicted one.
        kind: `png` or `pdf`.
        merge: tokens to merge in each block; None for as the model was trained.
        merge_schedule: how they are spread over the blocks; None for `constant`.

    Raises:
        ConfigError: the model cannot show it, or no such layer or class.
        DataError: no file is a readable picture, or a readable clip.
        WeightsError: the model cannot be loaded.
    """
    if what != "all" and what not in FIGURES:
        raise ConfigError(
            f"`what` must be all or one of {', '.join(FIGURES)}: got {what}."
        )
    subject, unreadable = load_inspection_input(
        weights,
        files,
        image_size=image_size,
        layer=layer,
        target=target,
        device=device,
        merge=merge,
        merge_schedule=merge_schedule,
    )
    views = CLIP_FIGURES if subject.frame_times else FIGURES
    written: list[Path] = []
    skipped: dict[str, str] = {}
    alternatives: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    for name in FIGURES if what == "all" else (what,):
        try:
            for made in views[name](subject):
                written += _write_figure(out, made, subject, kind)
                alternatives[f"{made.name}.{kind}"] = made.plot.alt
                if made.gif is not None:
                    alternatives[f"{made.name}.gif"] = made.plot.alt
        except ConfigError as error:
            if what != "all":
                raise
            skipped[name] = str(error)
    write_json(out / "figures.json", {"figures": alternatives, "skipped": skipped})
    return InspectionResult([*written, out / "figures.json"], skipped, unreadable)


def load_inspection_input(
    weights: str | Path | WeightsSource,
    files: Sequence[Path],
    *,
    image_size: int | tuple[int, int] | None = None,
    layer: int = -1,
    target: str = "",
    device: str = "auto",
    merge: int | None = None,
    merge_schedule: MergeSchedule | None = None,
) -> tuple[InspectionInput, dict[str, str]]:
    """A model with its pictures, and the files that are no pictures, with reasons."""
    source = (
        weights if isinstance(weights, WeightsSource) else vitral.weights.read(weights)
    )
    changes = {} if image_size is None else {"image_size": image_size}
    config = vitral.models.replace_config(source.config, changes)
    loaded = vitral.weights.build(source, config)
    vitral.models.set_merge_if_given(loaded.model, merge, merge_schedule)
    loaded.model.to(pick_device(device))
    preprocess = with_sampling(loaded.preprocess, config, {})
    names, pixels, moments, unreadable = [], [], [], {}
    for file in files:
        try:
            if preprocess.sampling is None:
                pixels.append(load_input(preprocess, file))
            else:
                clip, times = load_first_view(preprocess, read_clip(file))
                pixels.append(clip)
                moments.append(times)
            names.append(str(file))
        except ImageError as error:
            unreadable[str(file)] = str(error)
    if not pixels:
        wanted = "picture" if preprocess.sampling is None else "clip"
        first = next(iter(unreadable.items()), ("", "no file was given"))
        raise DataError(
            f"None of {len(files)} files is a readable {wanted}; {first[0]}: {first[1]}"
        )
    return InspectionInput(
        model=loaded.model,
        preprocess=preprocess,
        classes=source.classes,
        names=tuple(names),
        pixels=torch.stack(pixels),
        frame_times=tuple(moments),
        layer=layer,
        target=_resolve_class(target, source.classes, config.num_classes),
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
    known = (
        ", ".join(classes[:8]) if classes else f"numbers from 0 to {num_classes - 1}"
    )
    raise ConfigError(f"The model has no class `{target}`; it has {known}.")


def _write_figure(
    out: Path, inspection_figure: InspectionFigure, subject: InspectionInput, kind: str
) -> list[Path]:
    draw = plots.to_pdf if kind == "pdf" else plots.to_png
    figure = out / f"{inspection_figure.name}.{kind}"
    write_atomic(figure, draw(inspection_figure.plot.figure))
    written = [figure]
    if inspection_figure.gif is not None:
        written.append(out / f"{inspection_figure.name}.gif")
        write_atomic(written[-1], inspection_figure.gif)
    if not inspection_figure.arrays:
        return written
    stored: dict[str, Any] = {
        **inspection_figure.arrays,
        "files": np.array(subject.names),
    }
    arrays = out / f"{inspection_figure.name.removesuffix('-0')}.npz"
    write_atomic(arrays, lambda path: _save_arrays(path, stored))
    return [*written, arrays]


def _save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
