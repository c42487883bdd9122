"""Maps over the frames of a clip: side by side, and as a moving GIF.

A map is [frames, rows, columns], one number a patch. All frames share one scale, from
the map's least value (dark) to its greatest (yellow). Colours: attention.py.
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
from vitral.plots.attention import HEAT, blend_heatmap
from vitral.plots.primitives import (
    MARGIN,
    ArraySequence,
    Canvas,
    check_array,
    check_consistent_length,
    check_image,
    show_image,
    upsample_frames,
)
from vitral.plots.style import (
    ACCENT,
    FAINT,
    FULL_WIDTH,
    INK,
    QUIET,
    Plot,
    shorten,
    style_context,
)

FRAMES_PER_LINE = 8
"""Most frames side by side."""
MOST_FRAMES = 16
"""Most frames in a figure; of more, an even selection. A GIF has all of them."""
SMALLEST_SIDE, SMALLEST_PAGE = 160, 320
"""Pixels in a figure and in a GIF; smaller frames are enlarged for a smooth map."""
SLOWEST, QUICKEST = 1.0, 0.12
"""Longest and shortest time of a frame of a GIF, in seconds."""

_GAP, _CLOSE = 0.08, 0.03  # all sizes are inches
_TITLE, _TIME, _KEY, _NAMES = 0.36, 0.26, 0.3, 1.15
_WIDEST, _NARROWEST = 1.9, 5.4
_BAR = 5  # pixels
_KEY_STYLE: dict[str, Any] = {"va": "center", "fontsize": 8.5, "color": QUIET}


@style_context()
def filmstrip(
    frames: ArraySequence,
    maps: Mapping[str, ArrayLike],
    times: Sequence[str],
    *,
    title: str = "Attention",
    blur: float = 1.0,
) -> Plot:
    """Draw the frames of a clip, below each the frame under every map, then its time.

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
    rows = [pixels]
    for name, heats in maps.items():
        rows.append(_tint_frames(pixels, heats, blur, f"the frames of `{name}`"))
    names = ["input", *maps] if len(maps) > 1 else []
    figure = _draw_rows(rows, names, times, title, with_key=True)
    parts = " ".join(
        f"{shorten(name, 60)}: " * bool(names) + _summary(heats, times)
        for name, heats in maps.items()
    )
    return Plot(figure, f"{shorten(title, 80)} over {_describe_span(times)}. {parts}")


@style_context()
def color_strip(
    frames: ArraySequence, colors: ArrayLike, times: Sequence[str], *, title: str
) -> Plot:
    """Draw the frames of a clip, each over the colours of its patches.

    Args:
        colors: [frames, rows, columns, 3].

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
    rows = [pixels, patches[:, down][:, :, along].clip(0, 1)]
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
    """Build a looping GIF: each frame next to itself under the map, over a growing bar.

    The same arguments give the same bytes.

    Args:
        frames: [height, width, 3] each, of one size.
        heats: [frames, rows, columns].
        seconds: start of each frame; it stays until the next one, 0.12 to 1 second.

    Raises:
        DataError: the numbers of frames differ, or something cannot be drawn.
    """
    pixels = _check_frames(frames, smallest=SMALLEST_PAGE)
    tinted = _tint_frames(pixels, heats, blur)
    check_consistent_length("the times", len(seconds), len(pixels))
    white = np.ones((*pixels.shape[:2], _BAR, 3))
    both = np.concatenate([pixels, white, tinted], axis=2)
    pages = [_render_page(page, (i + 1) / len(both)) for i, page in enumerate(both)]
    # A palette per page would make parts that do not move flicker.
    sheet = Image.new("RGB", (pages[0].width, pages[0].height * len(pages)))
    for i, page in enumerate(pages):
        sheet.paste(page, (0, i * page.height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    indexed = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pages]
    target = io.BytesIO()
    indexed[0].save(
        target,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=_durations(seconds),
        loop=0,
        optimize=False,
    )
    return target.getvalue()


def filmstrip_pixels(
    frames: ArraySequence, heats: ArrayLike, side: int, blur: float = 1.0
) -> Float[np.ndarray, "h w 3"]:
    """Return at most eight frames over themselves under the map, as pixels 0..1.

    Args:
        side: pixels of the longer side of a frame; smaller frames stay as they are.

    Raises:
        DataError: the numbers of frames differ, or something cannot be drawn.
    """
    pixels = _check_frames(frames, smallest=side)
    tinted = _tint_frames(pixels, heats, blur)
    columns = []
    for i in even_indices(len(pixels), FRAMES_PER_LINE):
        white = np.ones((2, pixels.shape[2], 3))
        columns += [np.concatenate([pixels[i], white, tinted[i]])]
        columns += [np.ones((len(columns[-1]), 2, 3))]
    return np.concatenate(columns[:-1], axis=1)


def even_indices(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` indices, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def check_clip_map(heats: ArrayLike) -> Float[np.ndarray, "frames rows columns"]:
    return check_array(heats, "the map of a clip", "frames", "rows", "columns")


def _check_frames(
    frames: ArraySequence, smallest: int = SMALLEST_SIDE
) -> Float[np.ndarray, "frames h w 3"]:
    """Return frames of one size from 0 to 1; enlarge small ones by a whole number."""
    if len(frames) == 0:
        raise DataError("there is no frame to draw: the clip is empty.")
    pixels = [check_image(frame, f"frame {i}") for i, frame in enumerate(frames)]
    sizes = {frame.shape for frame in pixels}
    if len(sizes) > 1:
        raise DataError(f"the frames of a clip must be of one size: got {sizes}.")
    times = max(smallest // max(pixels[0].shape[:2]), 1)
    return np.stack(pixels).repeat(times, axis=1).repeat(times, axis=2)


def _tint_frames(
    pixels: Float[np.ndarray, "frames h w 3"],
    heats: ArrayLike,
    blur: float,
    name: str = "the frames of the map",
) -> Float[np.ndarray, "frames h w 3"]:
    check_consistent_length(name, len(check_clip_map(heats)), len(pixels))
    height, width = pixels.shape[1:3]
    return blend_heatmap(pixels, upsample_frames(heats, height, width, blur))


def _draw_rows(
    rows: list[Float[np.ndarray, "frames h w 3"]],
    names: list[str],
    times: Sequence[str],
    title: str,
    *,
    with_key: bool,
) -> Figure:
    """Draw rows of pictures, one column a frame, in as many lines as they need."""
    check_consistent_length("the times", len(times), len(rows[0]))
    most = MOST_FRAMES if len(rows) == 2 else FRAMES_PER_LINE
    shown = even_indices(len(times), most)
    columns = min(len(shown), FRAMES_PER_LINE)
    lines = -(-len(shown) // columns)
    names_width = _NAMES * bool(names)
    room = FULL_WIDTH - 2 * MARGIN - names_width - (columns - 1) * _GAP
    width = min(room / columns, _WIDEST)
    height = width * rows[0].shape[1] / rows[0].shape[2]
    line = len(rows) * (height + _CLOSE) + _TIME
    foot = _KEY if with_key else 0.0
    total_height = _TITLE + lines * line + foot + MARGIN / 2
    used = 2 * MARGIN + names_width + columns * (width + _GAP) - _GAP
    total_width = max(used, _NARROWEST, min(0.1 * len(title) + 0.3, FULL_WIDTH))
    letters = max(int(width / 0.07), 4)
    canvas = Canvas(total_width, total_height, shorten(title, 80))
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": QUIET}
    for index, i in enumerate(shown):
        down, along = divmod(index, columns)
        x = MARGIN + names_width + along * (width + _GAP)
        y = _TITLE + down * line
        for row in rows:
            show_image(canvas.add_axes(x, y, width, height), row[i])
            y += height + _CLOSE
        canvas.add_text(x + width / 2, y + 0.02, shorten(times[i], letters), **style)
    style = {"va": "center", "fontsize": 8.5, "color": INK}
    for index, name in enumerate(names):
        y = _TITLE + index * (height + _CLOSE) + height / 2
        canvas.add_text(MARGIN, y, shorten(name, 17), **style)
    if with_key:
        _draw_key(canvas)
        if len(shown) < len(times):
            text = f"{len(shown)} of {len(times)} frames"
            x, y = total_width - MARGIN, total_height - 0.2
            canvas.add_text(x, y, text, ha="right", **_KEY_STYLE)
    return canvas.figure


def _draw_key(canvas: Canvas) -> None:
    """Draw the colours from least to greatest, in the foot."""
    left, y, length = MARGIN + 0.36, canvas.height - 0.2, 1.1
    axes = canvas.add_axes(left, y - 0.05, length, 0.1)
    axes.imshow(HEAT(np.linspace(0, 1, 128))[None, :, :3], aspect="auto")
    canvas.add_text(MARGIN, y, "least", **_KEY_STYLE)
    text = "greatest value of the map over all frames"
    canvas.add_text(left + length + 0.06, y, text, **_KEY_STYLE)


def _render_page(pixels: Float[np.ndarray, "h w 3"], share: float) -> Image.Image:
    """Render one page of a GIF, with the bar at its foot."""
    picture = Image.fromarray((255 * pixels).round().astype(np.uint8))
    page = Image.new("RGB", (picture.width, picture.height + 2 * _BAR), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    top, bottom = picture.height + _BAR, page.height - 1
    draw.rectangle((0, top, page.width - 1, bottom), fill=FAINT)
    draw.rectangle((0, top, round(share * page.width) - 1, bottom), fill=ACCENT)
    return page


def _durations(seconds: Sequence[float]) -> list[int]:
    """Return the milliseconds of each page; the last page repeats the one before."""
    steps = list(np.diff(np.asarray(seconds, dtype=np.float64))) or [SLOWEST]
    steps.append(steps[-1])
    return [round(1000 * float(np.clip(s, QUICKEST, SLOWEST))) for s in steps]


def _describe_span(times: Sequence[str]) -> str:
    if len(times) == 1:
        return f"one frame ({times[0]})"
    return f"{len(times)} frames of a clip, {times[0]} to {times[-1]}"


def _summary(heats: ArrayLike, times: Sequence[str]) -> str:
    """Describe the greatest value of a map and the share of its strongest frame."""
    patches = check_clip_map(heats)
    if not patches.any():
        return "The map is zero everywhere."
    frame, row, column = map(
        int, np.unravel_index(int(patches.argmax()), patches.shape)
    )
    text = (
        f"Greatest at {times[frame]}, row {row}, column {column} of "
        f"{patches.shape[1]} x {patches.shape[2]} patches (from 0)"
    )
    if patches.min() >= 0:
        share = patches.sum(axis=(1, 2)) / patches.sum()
        most = int(share.argmax())
        text += f"; the frame at {times[most]} has most of it, {share[most]:.0%}"
    return text + "."
