"""Strips and GIFs of clips: one scale for all frames, bytes that repeat, sentences."""

import io

import numpy as np
import pytest
from PIL import Image

from vitral import plots
from vitral.errors import DataError
from vitral.plots.primitives.arrays import upsample, upsample_frames

FRAMES, HEIGHT, WIDTH, ROWS, COLUMNS = 3, 24, 40, 2, 5
TIMES = ("0.00 s", "0.25 s", "2.50 s")
SECONDS = (0.0, 0.25, 2.5)


def clip(frames: int = FRAMES) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


def heats(frames: int = FRAMES) -> np.ndarray:
    """Each frame has half of what the one before has, in the last column."""
    maps = np.zeros((frames, ROWS, COLUMNS))
    maps[:, 1, 4] = 0.5 ** np.arange(frames)
    return maps


def shown(plot: plots.Plot) -> list[np.ndarray]:
    axes = [a for a in plot.figure.axes if a.images]
    return [np.asarray(a.images[0].get_array()) for a in axes]


def texts(plot: plots.Plot) -> list[str]:
    return [text.get_text() for text in plot.figure.texts]


def test_frames_share_one_scale() -> None:
    grown = upsample_frames(heats(), HEIGHT, WIDTH, blur=0.0)
    assert grown.shape == (FRAMES, HEIGHT, WIDTH)
    peaks = grown.max(axis=(1, 2))
    assert peaks == pytest.approx([1.0, 0.5, 0.25], abs=0.02)
    # Of one frame it is what an image gets.
    alone = upsample_frames(heats()[:1], HEIGHT, WIDTH)[0]
    np.testing.assert_array_equal(alone, upsample(heats()[0], HEIGHT, WIDTH))
    flat = upsample_frames(np.full((FRAMES, ROWS, COLUMNS), 0.3), 4, 6)
    assert (flat == 1).all()
    assert (upsample_frames(0 * heats(), 4, 6) == 0).all()


def test_a_strip_has_frames_maps_and_times() -> None:
    plot = plots.filmstrip(clip(), {"rollout": heats()}, TIMES, title="Rollout: a.mp4")
    pictures = shown(plot)
    assert len(pictures) == 2 * FRAMES + 1  # and the key of the colours
    # 40 pixels become 160.
    assert {p.shape for p in pictures[:-1]} == {(4 * HEIGHT, 4 * WIDTH, 3)}
    np.testing.assert_allclose(pictures[0][::4, ::4], clip()[0] / 255)
    np.testing.assert_allclose(pictures[2][::4, ::4], clip()[1] / 255)
    bright = [pictures[2 * i + 1].mean(axis=2)[-20:, -20:].mean() for i in range(3)]
    assert bright[0] > bright[1] > bright[2]
    assert [t for t in texts(plot) if t in TIMES] == list(TIMES)
    assert plot.alt == (
        "Rollout: a.mp4 over 3 frames of a clip, 0.00 s to 2.50 s. Greatest at 0.00 s, "
        "row 1, column 4 of 2 x 5 patches (from 0); the frame at 0.00 s has most of "
        "it, 57%."
    )


def test_bytes_repeat() -> None:
    made = [plots.filmstrip(clip(), {"a": heats()}, TIMES).figure for _ in range(2)]
    assert plots.to_png(made[0], 60) == plots.to_png(made[1], 60)
    assert plots.to_pdf(made[0]) == plots.to_pdf(made[1])
    moving = [plots.animation(clip(), heats(), SECONDS) for _ in range(2)]
    assert moving[0] == moving[1]


def test_several_maps_have_names_and_long_clips_are_thinned() -> None:
    several = {"rollout": heats(20), "Grad-CAM": 0 * heats(20)}
    times = [f"frame {3 * i}" for i in range(20)]
    plot = plots.filmstrip(clip(20), several, times)
    assert len(shown(plot)) == 3 * 8 + 1
    found = texts(plot)
    assert found.index("rollout") == found.index("input") + 1
    assert "8 of 20 frames" in found
    assert found[1] == "frame 0"
    assert "frame 57" in found
    assert "Grad-CAM: The map is zero everywhere." in plot.alt
    assert "rollout: Greatest at frame 0, row 1" in plot.alt
    one = plots.filmstrip(clip(20), {"rollout": heats(20)}, times)
    assert len(shown(one)) == 2 * 16 + 1
    assert "16 of 20 frames" in texts(one)


def test_colours_of_patches() -> None:
    colours = np.random.default_rng(1).random((FRAMES, ROWS, COLUMNS, 3))
    plot = plots.color_strip(clip(), colours, TIMES, title="Features")
    pictures = shown(plot)
    assert len(pictures) == 2 * FRAMES
    np.testing.assert_allclose(pictures[3][0, 0], colours[1, 0, 0])
    np.testing.assert_allclose(pictures[5][-1, -1], colours[2, 1, 4])
    np.testing.assert_allclose(pictures[5][-1, 33], colours[2, 1, 1])


def test_a_gif_has_every_frame_for_its_time() -> None:
    with Image.open(io.BytesIO(plots.animation(clip(), heats(), SECONDS))) as moving:
        assert moving.n_frames == FRAMES
        assert moving.info["loop"] == 0
        # 8 times as large, side by side, 5 pixels between; 10 below for the bar.
        assert moving.size == (2 * 8 * WIDTH + 5, 8 * HEIGHT + 10)
        stays, bars = [], []
        for number in range(FRAMES):
            moving.seek(number)
            stays.append(moving.info["duration"])
            page = np.asarray(moving.convert("RGB")).astype(int)
            bars.append((page[-1, :, 0] < 100).mean())
            left = page[4 : 8 * HEIGHT : 8, 4 : 8 * WIDTH : 8]
            assert np.abs(left - clip()[number]).mean() < 25
    # 0.25 s, then 2.25 cut to 1, and the last as long as the one before.
    assert stays == [250, 1000, 1000]
    assert bars == pytest.approx([1 / 3, 2 / 3, 1], abs=0.01)
    with Image.open(io.BytesIO(plots.animation(clip(1), heats(1), [0.0]))) as still:
        assert getattr(still, "n_frames", 1) == 1


def test_a_strip_of_bare_pixels() -> None:
    pixels = plots.filmstrip_pixels(clip(9), heats(9), 80)
    # Eight of nine frames, twice as large, 2 pixels between.
    assert pixels.shape == (2 * 2 * HEIGHT + 2, 8 * 2 * WIDTH + 7 * 2, 3)
    np.testing.assert_allclose(pixels[:48:2, :80:2], clip(9)[0] / 255)
    np.testing.assert_allclose(pixels[:48:2, -80::2], clip(9)[8] / 255)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.filmstrip(clip(), {}, TIMES),
            "no map to draw: give at least one",
        ),
        (
            lambda: plots.filmstrip(clip(), {"a": heats(2)}, TIMES),
            "frames of `a` must be one for each image: got 2, not 3",
        ),
        (
            lambda: plots.filmstrip(clip(), {"a": heats()}, TIMES[:2]),
            "the times must be one for each image: got 2, not 3",
        ),
        (lambda: plots.filmstrip([], {"a": heats()}, TIMES), "the clip is empty"),
        (
            lambda: plots.filmstrip(
                [*clip(2), clip()[0][:, :30]], {"a": heats()}, TIMES
            ),
            "of one size",
        ),
        (
            lambda: plots.animation(clip(), heats()[0], SECONDS),
            r"must be \[frames, rows, columns\]: got the shape \[2, 5\]",
        ),
        (
            lambda: plots.animation(clip(), heats(), SECONDS[:1]),
            "the times must be one for each image: got 1, not 3",
        ),
    ],
    ids=range(7),
)
def test_what_cannot_be_drawn_is_said(draw, message) -> None:
    with pytest.raises(DataError, match=message):
        draw()
