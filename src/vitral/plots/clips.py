"""Where a model looks in a clip: frames side by side under a map, and as a moving GIF.

A map is [frames, rows, columns], one number a patch, and all frames share one scale:
from the map's least value (dark) to its greatest (yellow). Colours: attention.py.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from vitral.errors import DataError
from vitral.plots.arrays import (
    ArraySequence,
    check_array,
    check_consistent_length,
    check_image,
    upsample_frames,
)
from vitral.plots.attention import HEAT, blend_heatmap
from vitral.plots.panels import hide_axes, show_image
from vitral.plots.style import (
    ACCENT,
    FAINT,
    FULL_WIDTH,
    INK,
    QUIET,
    Plot,
    new_figure,
    shorten,
    style_context,
)

FRAMES_PER_LINE = 8
"""Frames side by side."""
MOST_FRAMES = 16
"""Frames in one figure; of more, as many are taken evenly. A GIF has all of them."""
SMALLEST_SIDE, SMALLEST_PAGE = 160, 320
"""Pixels in a figure and in a GIF; smaller frames are enlarged, so that a map over
them is smooth."""
SLOWEST, QUICKEST = 1.0, 0.12
"""Seconds that a frame of a GIF stays at most and at least."""

_MARGIN, _GAP, _CLOSE = 0.14, 0.08, 0.03  # all sizes are inches
_TITLE, _TIME, _KEY, _NAMES = 0.36, 0.26, 0.3, 1.15
_WIDEST, _NARROWEST = 1.9, 5.4
_BAR = 5  # pixels


def filmstrip(
    frames: ArraySequence,
    maps: Mapping[str, ArrayLike],
    times: Sequence[str],
    *,
    title: str = "Attention",
    blur: float = 1.0,
) -> Plot:
    """The frames of a clip, each over itself under every map, its time below.

    Args:
        frames: [height, width, 3] each, of one size.
        maps: {name: [frames, rows, columns]}.
        times: a word for each frame, such as `0.48 s`.

    Raises:
        DataError: there is no map, the numbers of frames differ, or something cannot
            be drawn.
    """
    if not maps:
        raise DataError("there is no map to draw: give at least one {name: map}.")
    pixels = _check_frames(frames)
    rows = [list(pixels)]
    for name, heats in maps.items():
        check_consistent_length(
            f"the frames of `{name}`", len(check_clip_map(heats)), len(pixels)
        )
        rows.append(list(_tint_frames(pixels, heats, blur)))
    names = ["input", *maps] if len(maps) > 1 else []
    figure = _draw_rows(rows, names, times, title, with_key=True)
    parts = " ".join(
        f"{shorten(name, 60)}: " * bool(names) + _summary(heats, times)
        for name, heats in maps.items()
    )
    return Plot(figure, f"{shorten(title, 80)} over {_describe_span(times)}. {parts}")


def color_strip(
    frames: ArraySequence, colors: ArrayLike, times: Sequence[str], *, title: str
) -> Plot:
    """The frames of a clip, each over the colours [frames, rows, columns, 3] of its
    patches.

    Raises:
        DataError: the numbers of frames differ, or something cannot be drawn.
    """
    pixels = _check_frames(frames)
    axes = ("frames", "rows", "columns", "3 colours")
    patches = check_array(colors, "the colours", *axes)
    check_consistent_length("the colours", len(patches), len(pixels))
    height, width = pixels.shape[1:3]
    down = np.arange(height) * patches.shape[1] // height
    along = np.arange(width) * patches.shape[2] // width
    rows = [list(pixels), list(patches[:, down][:, :, along].clip(0, 1))]
    figure = _draw_rows(rows, [], times, title, with_key=False)
    return Plot(
        figure,
        f"{shorten(title, 80)} over {_describe_span(times)}: like patches, like "
        "colours.",
    )


def animation(
    frames: ArraySequence,
    heats: ArrayLike,
    seconds: Sequence[float],
    *,
    blur: float = 1.0,
) -> bytes:
    """A GIF without an end: each frame beside itself under the map, and a bar that
    grows from the first frame to the last. The same arguments give the same bytes.

    Args:
        frames: [height, width, 3] each, of one size.
        heats: [frames, rows, columns].
        seconds: when each frame begins; a frame stays until the next one, 1 second at
            most and 0.12 at least.

    Raises:
        DataError: the numbers of frames differ, or something cannot be drawn.
    """
    pixels = _check_frames(frames, smallest=SMALLEST_PAGE)
    check_consistent_length(
        "the frames of the map", len(check_clip_map(heats)), len(pixels)
    )
    check_consistent_length("the times", len(seconds), len(pixels))
    seen = _tint_frames(pixels, heats, blur)
    white = np.ones((*pixels.shape[:2], _BAR, 3))
    both = np.concatenate([pixels, white, seen], axis=2)
    pages = [_render_page(page, (i + 1) / len(both)) for i, page in enumerate(both)]
    # One set of colours for all pages, so that what does not move does not flicker.
    together = Image.new("RGB", (pages[0].width, pages[0].height * len(pages)))
    for i, page in enumerate(pages):
        together.paste(page, (0, i * page.height))
    palette = together.quantize(256, method=Image.Quantize.MEDIANCUT)
    few = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pages]
    target = io.BytesIO()
    few[0].save(
        target,
        format="GIF",
        save_all=True,
        append_images=few[1:],
        duration=_durations(seconds),
        loop=0,
        optimize=False,
    )
    return target.getvalue()


def filmstrip_pixels(
    frames: ArraySequence, heats: ArrayLike, side: int, blur: float = 1.0
) -> Float[np.ndarray, "h w 3"]:
    """At most eight frames over themselves under the map, as bare pixels 0..1.

    Args:
        side: pixels of the longer side of a frame; smaller frames stay as they are.

    Raises:
        DataError: the numbers of frames differ, or something cannot be drawn.
    """
    pixels = _check_frames(frames, smallest=side)
    check_consistent_length(
        "the frames of the map", len(check_clip_map(heats)), len(pixels)
    )
    seen = _tint_frames(pixels, heats, blur)
    columns = []
    for i in even_indices(len(pixels), FRAMES_PER_LINE):
        white = np.ones((2, pixels.shape[2], 3))
        columns += [np.concatenate([pixels[i], white, seen[i]])]
        columns += [np.ones((len(columns[-1]), 2, 3))]
    return np.concatenate(columns[:-1], axis=1)


def even_indices(number: int, most: int) -> list[int]:
    """At most `most` of `number` places, the first and the last among them."""
    if number <= most:
        return list(range(number))
    return [round(i * (number - 1) / (most - 1)) for i in range(most)]


def check_clip_map(heats: ArrayLike) -> Float[np.ndarray, "frames rows columns"]:
    return check_array(heats, "the map of a clip", "frames", "rows", "columns")


def _check_frames(
    frames: ArraySequence, smallest: int = SMALLEST_SIDE
) -> Float[np.ndarray, "frames h w 3"]:
    """Frames of one size from 0 to 1; small ones enlarged by a whole number."""
    if len(frames) == 0:
        raise DataError("there is no frame to draw: the clip is empty.")
    pixels = [check_image(frame, f"frame {i}") for i, frame in enumerate(frames)]
    sizes = {frame.shape for frame in pixels}
    if len(sizes) > 1:
        raise DataError(f"the frames of a clip must be of one size: got {sizes}.")
    times = max(smallest // max(pixels[0].shape[:2]), 1)
    return np.stack(pixels).repeat(times, axis=1).repeat(times, axis=2)


def _tint_frames(
    pixels: Float[np.ndarray, "frames h w 3"], heats: ArrayLike, blur: float
) -> Float[np.ndarray, "frames h w 3"]:
    height, width = pixels.shape[1:3]
    return blend_heatmap(pixels, upsample_frames(heats, height, width, blur))


def _draw_rows(
    rows: list[list[np.ndarray]],
    names: list[str],
    times: Sequence[str],
    title: str,
    *,
    with_key: bool,
) -> Figure:
    """Rows of pictures, one column a frame, in as many lines as are needed."""
    check_consistent_length("the times", len(times), len(rows[0]))
    most = MOST_FRAMES if len(rows) == 2 else FRAMES_PER_LINE
    taken = even_indices(len(times), most)
    columns = min(len(taken), FRAMES_PER_LINE)
    lines = -(-len(taken) // columns)
    names_wide = _NAMES * bool(names)
    room = FULL_WIDTH - 2 * _MARGIN - names_wide - (columns - 1) * _GAP
    wide = min(room / columns, _WIDEST)
    high = wide * rows[0][0].shape[0] / rows[0][0].shape[1]
    line = len(rows) * (high + _CLOSE) + _TIME
    foot = _KEY if with_key else 0.0
    total_high = _TITLE + lines * line + foot + _MARGIN / 2
    used = 2 * _MARGIN + names_wide + columns * (wide + _GAP) - _GAP
    total_wide = max(used, _NARROWEST, min(0.1 * len(title) + 0.3, FULL_WIDTH))
    with style_context():
        figure = new_figure(total_wide, total_high)
        figure.set_layout_engine("none")

        def place(
            x: float, y: float, w: float = 0.0, h: float = 0.0
        ) -> tuple[float, float, float, float]:
            """Inches from the top left as the figure wants them."""
            low = 1 - (y + h) / total_high
            return x / total_wide, low, w / total_wide, h / total_high

        at = place(_MARGIN, 0.1)
        figure.text(
            *at[:2], shorten(title, 80), va="top", fontsize=10.5, fontweight="bold"
        )
        for number, i in enumerate(taken):
            down, along = divmod(number, columns)
            x = _MARGIN + names_wide + along * (wide + _GAP)
            y = _TITLE + down * line
            for row in rows:
                show_image(hide_axes(figure.add_axes(place(x, y, wide, high))), row[i])
                y += high + _CLOSE
            at = place(x + wide / 2, y + 0.02)
            word = shorten(times[i], max(int(wide / 0.07), 4))
            figure.text(*at[:2], word, ha="center", va="top", fontsize=8, color=QUIET)
        for number, name in enumerate(names):
            y = _TITLE + number * (high + _CLOSE) + high / 2
            at = place(_MARGIN, y)
            figure.text(
                *at[:2], shorten(name, 17), va="center", fontsize=8.5, color=INK
            )
        if with_key:
            _draw_key(figure, total_wide, total_high)
            if len(taken) < len(times):
                at = place(total_wide - _MARGIN, total_high - 0.2)
                note = f"{len(taken)} of {len(times)} frames"
                style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 8.5}
                figure.text(*at[:2], note, color=QUIET, **style)
    return figure


def _draw_key(figure: Figure, wide: float, high: float) -> None:
    """The colours from least to greatest, in the foot."""
    left, y, long = _MARGIN + 0.36, 0.2, 1.1
    axes = figure.add_axes((left / wide, (y - 0.05) / high, long / wide, 0.1 / high))
    hide_axes(axes).imshow(HEAT(np.linspace(0, 1, 128))[None, :, :3], aspect="auto")
    style: dict[str, Any] = {"va": "center", "fontsize": 8.5, "color": QUIET}
    figure.text(_MARGIN / wide, y / high, "least", **style)
    words = "greatest value of the map over all frames"
    figure.text((left + long + 0.06) / wide, y / high, words, **style)


def _render_page(pixels: Float[np.ndarray, "h w 3"], share: float) -> Image.Image:
    """One page of a GIF, with the bar at its foot."""
    picture = Image.fromarray((255 * pixels).round().astype(np.uint8))
    page = Image.new("RGB", (picture.width, picture.height + 2 * _BAR), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    top, bottom = picture.height + _BAR, page.height - 1
    draw.rectangle((0, top, page.width - 1, bottom), fill=FAINT)
    draw.rectangle((0, top, round(share * page.width) - 1, bottom), fill=ACCENT)
    return page


def _durations(seconds: Sequence[float]) -> list[int]:
    """Milliseconds of each page; the last stays as long as the one before."""
    stays = list(np.diff(np.asarray(seconds, dtype=np.float64))) or [SLOWEST]
    stays.append(stays[-1])
    return [round(1000 * float(np.clip(s, QUICKEST, SLOWEST))) for s in stays]


def _describe_span(times: Sequence[str]) -> str:
    if len(times) == 1:
        return f"one frame ({times[0]})"
    return f"{len(times)} frames of a clip, {times[0]} to {times[-1]}"


def _summary(heats: ArrayLike, times: Sequence[str]) -> str:
    """Where a map is greatest, and how much of it each frame has."""
    patches = check_clip_map(heats)
    if not patches.any():
        return "The map is zero everywhere."
    place = np.unravel_index(int(patches.argmax()), patches.shape)
    frame, row, column = map(int, place)
    text = (
        f"Greatest at {times[frame]}, row {row}, column {column} of "
        f"{patches.shape[1]} x {patches.shape[2]} patches (from 0)"
    )
    if patches.min() >= 0:
        share = patches.sum(axis=(1, 2)) / patches.sum()
        most = int(share.argmax())
        text += f"; the frame at {times[most]} has most of it, {share[most]:.0%}"
    return text + "."
