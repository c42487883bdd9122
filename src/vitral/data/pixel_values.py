"""Values of a data set's pixels: their range, channels, mean and deviation.

Files of 8-bit red, green and blue promise their range. Of other values one range is
measured for the whole data set and kept with the model: a range for each picture would
show the model another brightness each time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vitral.data.dataset import Dataset
from vitral.data.images import RasterImage, ValueRange, raster_of
from vitral.errors import DataError, ImageError

MAX_MEASURED = 1000
"""Pictures whose mean and deviation are measured, evenly spaced."""


@dataclass(frozen=True, slots=True)
class FileValues:
    """The type, the number of channels and the ends of the values of one file."""

    channels: int
    dtype: str
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PixelValues:
    """The values of all files of a data set."""

    value_range: ValueRange | None = None
    """Of values that have not 8 bits; None where the type of the files promises it."""
    channels: int = 3
    """Most channels of a file."""
    notes: tuple[str, ...] = ()


def file_values(image: Image.Image) -> FileValues | None:
    """Return the values of one picture; None for 8-bit red, green and blue."""
    if not isinstance(image, RasterImage):
        return None
    raster = image.raster.on_white() if image.raster.opacity else image.raster
    if raster.is_uint8 and raster.channels in (1, 3):
        return None
    low, high = float(raster.values.min()), float(raster.values.max())
    return FileValues(raster.channels, str(raster.values.dtype), low, high)


def summarize_values(files: Sequence[FileValues | None]) -> PixelValues:
    """Return one range and the channels of all files, and what was found, in words."""
    special = [file for file in files if file is not None]
    if not special:
        return PixelValues()
    notes = []
    deep = [file for file in special if file.dtype != "uint8"]
    value_range = None
    if len(deep) == len(files):
        low, high = min(f.low for f in deep), max(f.high for f in deep)
        value_range = (low, high if high > low else low + 1)
        types = "/".join(sorted({file.dtype for file in deep}))
        notes.append(
            f"{types} values from {low:g} to {high:g}: training scales all files by "
            "this one range, and keeps it with the model"
        )
    elif deep:
        notes.append(
            f"{len(deep)} of {len(files)} files hold more than 8 bits: each is scaled "
            "by the range of its type, since one range does not fit both kinds"
        )
    counts = {3 if file is None else file.channels for file in files}
    channels = max(counts)
    if channels > 3 or counts & {2}:
        shown = " and ".join(map(str, sorted(counts)))
        notes.append(
            f"files of {shown} channels: a model of three takes the first three, "
            f"`--channels {channels}` takes all of {channels}"
        )
    return PixelValues(value_range=value_range, channels=channels, notes=tuple(notes))


def measure_statistics(
    dataset: Dataset, channels: int, value_range: ValueRange | None
) -> dict[str, Any]:
    """Return mean and deviation of each channel of the training files.

    They are those of all pixels, on the scale where `value_range` is 0..1, at the
    files' own size, of up to 1,000 files evenly spaced.

    Raises:
        DataError: no file has the model's channels.
    """
    examples = dataset.select("train") or dataset.examples
    examples = examples[:: max(1, math.ceil(len(examples) / MAX_MEASURED))]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    reason = "none was given"
    for example in examples:
        try:
            raster = raster_of(dataset.read(example))
            planes = raster.planes(channels, value_range).double().numpy() / 255
        except ImageError as error:
            reason = f"{example.id}: {error}"
            continue
        pixels = planes.reshape(channels, -1)
        count += pixels.shape[1]
        total += pixels.sum(axis=1)
        squares += (pixels**2).sum(axis=1)
    if not count:
        raise DataError(
            f"{dataset.root}: no training file has the {channels} channel(s) of the "
            f"model. {reason}. Give `--channels N` for the files that there are."
        )
    mean = total / count
    deviation = np.sqrt((squares / count - mean**2).clip(0))
    # A channel that never changes says nothing, and stays 0 behind the mean.
    deviation = np.where(deviation < 1e-6, 1.0, deviation)
    return {
        "mean": [round(float(value), 6) for value in mean],
        "std": [round(float(value), 6) for value in deviation],
    }
