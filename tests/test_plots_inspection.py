"""Figures of inspection: their artists hold the arrays, their alt text the numbers."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from figures import noise, pixels, texts
from vitral import plots
from vitral.errors import DataError
from vitral.plots.primitives.panels import even_columns

HEIGHT, WIDTH, ROWS, COLUMNS = 48, 80, 3, 5
STRANGE = "$x_1$ <b>&amp; 猫\n犬"
SHOWN = "$x_1$ <b>&amp; 猫 犬"


def spot(row: int = 1, column: int = 4) -> np.ndarray:
    heat = np.full((ROWS, COLUMNS), 0.1)
    heat[row, column] = 2.0
    return heat


def cosines(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> np.ndarray:
    rows_of = np.random.default_rng(seed).normal(size=(rows * columns, 4))
    unit = rows_of / np.linalg.norm(rows_of, axis=1, keepdims=True)
    return unit @ unit.T


DISTANCES = np.arange(8, dtype=float).reshape(4, 2) * 10 + 5
SHARES = np.linspace(0, 1, 5)
FIT = plots.FittedCurve(
    [10, 100, 1000, 4000],
    [0.5, 0.7, 0.8, 0.85],
    [0.4, 0.6, 0.7, 0.75],
    [0.6, 0.8, 0.9, 0.95],
)


def sizes(**changes: Any) -> plots.Plot:
    given: dict[str, Any] = {
        "sizes": [10, 100, 1000],
        "accuracies": [0.5, 0.69, 0.81],
        "low": [0.4, 0.6, 0.78],
        "high": [0.6, 0.75, 0.84],
    }
    return plots.data_size_curve(**(given | changes))


ALL: dict[str, Callable[[], plots.Plot]] = {
    "overlay": lambda: plots.overlay(noise(), spot(), title=STRANGE),
    "colour_overlay": lambda: plots.color_overlay(noise(), spot(), title=STRANGE),
    "gallery": lambda: plots.gallery(
        [noise(0), noise(1, 64, 40)], [spot(), spot(0, 0)], [STRANGE, "b"]
    ),
    "heads": lambda: plots.heads(noise(), np.stack([spot(), 3 * spot(2, 1)])),
    "comparison": lambda: plots.comparison(
        noise(), {STRANGE: spot(), "other": np.ones((2, 7))}
    ),
    "distance": lambda: plots.distance(DISTANCES, 61.25, image_height=160),
    "filters": lambda: plots.filters(
        np.random.default_rng(0).random((6, 4, 8, 3)), [0.5, 0.2, 0.1, 0.05, 0.02, 0]
    ),
    "positions": lambda: plots.positions(cosines(), (ROWS, COLUMNS)),
    "position_panels": lambda: plots.position_panels(
        {STRANGE: (cosines(), (ROWS, COLUMNS)), "b": (cosines(2, 20), (2, 20))}
    ),
    "colours": lambda: plots.feature_colors(
        [noise(0), noise(1)], np.random.default_rng(1).random((2, ROWS, COLUMNS, 3))
    ),
    "rank_curves": lambda: plots.rank_curves(
        {STRANGE: [1, 1e-3, 1e-9, 0], "skip": [1, 0.9, 0.8, 0.75]}
    ),
    "similarity_curves": lambda: plots.similarity_curves({STRANGE: [0.1, 0.5, 0.99]}),
    "faithfulness_curves": lambda: plots.faithfulness_curves(
        SHARES,
        {STRANGE: [[1, 0.5, 0, 0, 0], [1, 0.7, 0.2, 0, 0]], "random order": 1 - SHARES},
        {STRANGE: [0, 0.5, 1, 1, 1]},
    ),
    "randomisation": lambda: plots.randomization(
        [STRANGE, "blocks.1", "blocks.0"], [[0.9, 0.4, 0.0], [0.7, 0.2, -0.2]]
    ),
    "data_size": lambda: sizes(curve=FIT, verdict=STRANGE),
}


@pytest.mark.parametrize("name", ALL)
def test_bytes_repeat_and_strange_names_are_text(name: str) -> None:
    first, second = ALL[name](), ALL[name]()
    assert first.alt == second.alt
    assert first.alt.endswith(".") or SHOWN in first.alt
    assert plots.to_svg(first.figure) == plots.to_svg(second.figure)
    png = plots.to_png(first.figure, 60)
    assert png == plots.to_png(second.figure, 60)
    assert Image.open(io.BytesIO(png)).width > 100
    if name not in ("heads", "distance", "filters", "positions", "colours"):
        assert SHOWN in texts(first)


def test_a_map_grows_smoothly_to_the_picture() -> None:
    grown = plots.upsample(spot(), HEIGHT, WIDTH)
    assert grown.shape == (HEIGHT, WIDTH)
    assert (grown.min(), grown.max()) == (0, 1)
    # The patch is 16 x 16: rows 16..31, columns 64..79.
    row, column = np.unravel_index(grown.argmax(), grown.shape)
    assert 16 <= row < 32
    assert 64 <= column < 80
    assert abs(np.diff(grown, axis=0)).max() < 0.1
    sharp = plots.upsample(spot(), HEIGHT, WIDTH, blur=0.0)
    assert abs(np.diff(sharp, axis=0)).max() > abs(np.diff(grown, axis=0)).max()
    np.testing.assert_allclose(plots.upsample(5 * spot(), HEIGHT, WIDTH), grown)
    np.testing.assert_allclose(
        plots.upsample(spot(), ROWS, COLUMNS, blur=0.0), spot() > 1, atol=1e-6
    )


def test_the_blur_is_one_patch_in_both_directions() -> None:
    heat = np.zeros((11, 13))
    heat[5, 6] = 1
    grown = plots.upsample(heat, 11 * 4, 13 * 10)
    spread = []
    for axis, centre in ((1, 21.5), (0, 64.5)):
        weights = grown.sum(axis) / grown.sum()
        places = np.arange(len(weights)) - centre
        spread.append(float(np.sqrt((weights * places**2).sum())))
    # The Gaussian is a patch wide (4 pixels here); Lanczos adds a little.
    assert 4.0 < spread[0] < 4.0 * 1.25
    assert spread[1] == pytest.approx(2.5 * spread[0], rel=0.02)


def test_a_map_without_differences() -> None:
    assert (plots.upsample(np.full((2, 3), 0.3), 8, 9) == 1).all()
    assert (plots.upsample(np.zeros((2, 3)), 8, 9) == 0).all()
    nearly = np.float32(0.3) * (1 + np.float32([[1e-7, -1e-7]]))
    assert (plots.upsample(nearly, 8, 9) == 1).all()
    assert plots.upsample(np.ones((1, 1)), 8, 9).shape == (8, 9)
    assert "The map is zero everywhere." in plots.overlay(noise(), np.zeros((2, 3))).alt


def test_shade_multiplies_brightness_by_hand() -> None:
    image = np.full((1, 2, 3), 0.5)
    heat = [[0.0, 4.0]]
    shaded = plots.shade(image, heat, blur=0.0, darkest=0.0)
    np.testing.assert_allclose(shaded[0, :, 0], [0, 0.5], atol=1e-6)
    shaded = plots.shade(image, heat, blur=0.0, darkest=0.2)
    np.testing.assert_allclose(shaded[0, :, 2], [0.1, 0.5], atol=1e-6)
    tinted = plots.tint(image, heat, blur=0.0)
    assert tinted[0, 1].sum() > tinted[0, 0].sum()
    assert tinted[0, 1, 0] > tinted[0, 1, 2]  # yellow: more red than blue


def test_overlay_shows_the_picture_and_the_shaded_one() -> None:
    plot = plots.overlay(noise(), spot())
    np.testing.assert_allclose(pixels(plot, 0), noise() / 255)
    np.testing.assert_allclose(pixels(plot, 1), plots.shade(noise(), spot()))
    assert "row 1, column 4 of 3 x 5 patches" in plot.alt
    plot = plots.color_overlay(noise(), spot())
    np.testing.assert_allclose(pixels(plot, 1), plots.tint(noise(), spot()))


def test_half_of_a_map_by_hand() -> None:
    # 3.4 in all: 2.0 alone is more than half of it.
    assert "half of it on 1 of 15." in plots.overlay(noise(), spot()).alt
    # Four alike: two are half.
    assert "half of it on 2 of 4." in plots.overlay(noise(), np.ones((2, 2))).alt
    negative = np.array([[-1.0, 2.0]])
    assert "half" not in plots.overlay(noise(), negative).alt


def test_tensors_and_floats_are_the_same_picture() -> None:
    tensor = torch.from_numpy(noise())
    given = plots.overlay(tensor / 255, torch.from_numpy(spot()))
    np.testing.assert_allclose(pixels(given, 0), noise() / 255, atol=1e-6)


def test_pixels_that_are_a_rounding_off_are_taken() -> None:
    plot = plots.overlay(noise() / 255 * (1 + 1e-6) - 1e-7, spot())
    assert pixels(plot, 0).min() == 0
    assert pixels(plot, 0).max() == 1


def test_a_large_picture_is_made_smaller() -> None:
    plot = plots.overlay(noise(0, 1500, 2048), spot())
    assert pixels(plot, 0).shape == (750, 1024, 3)
    assert pixels(plot, 0).max() <= 1


def test_gallery_pairs_and_stops() -> None:
    images = [noise(0), noise(1, 64, 40)]
    plot = plots.gallery(images, [spot(), spot(0, 0)], ["cat", "dog"])
    np.testing.assert_allclose(pixels(plot, 2), images[1] / 255)
    np.testing.assert_allclose(pixels(plot, 3), plots.shade(images[1], spot(0, 0)))
    assert "cat" in plot.figure.axes[0].get_title(loc="left")
    assert "2 pictures" in plot.alt
    batch = plots.gallery(
        torch.from_numpy(np.stack([noise(0), noise(1)])), np.stack([spot(), spot()])
    )
    np.testing.assert_allclose(pixels(batch, 2), noise(1) / 255)
    many = plots.gallery([noise()] * 51, [spot()] * 51)
    assert len(many.figure.axes) == 2 * 48
    assert "The first 48 of 51." in texts(many)


def test_pairs_of_another_shape_stay_together() -> None:
    plot = plots.gallery([noise(0), noise(1, 64, 40)], [spot(), spot()])
    plots.to_svg(plot.figure)
    gaps = []
    for i in (0, 2):
        left, right = (plot.figure.axes[i + k].get_position() for k in (0, 1))
        gaps.append((right.x0 - left.x1) * plot.figure.get_figwidth())
    np.testing.assert_allclose(gaps, 0.03, atol=1e-6)


def test_heads_have_their_greatest_weight() -> None:
    maps = np.stack([0.01 * spot(), 0.03 * spot(2, 1), 0.02 * spot(0, 0)])
    plot = plots.heads(noise(), maps)
    np.testing.assert_allclose(
        pixels(plot, 2), plots.shade(noise(), maps[1], blur=0.5), atol=1e-9
    )
    assert "head 1: 0.060" in texts(plot)
    assert "The greatest weight, 0.06, is in head 1." in plot.alt
    assert "row 2, column 1" in plot.alt
    assert "3 heads" in plot.alt


def test_comparison_takes_other_grids() -> None:
    plot = ALL["comparison"]()
    np.testing.assert_allclose(pixels(plot, 1), plots.shade(noise(), spot()))
    np.testing.assert_allclose(pixels(plot, 2), noise() / 255)
    assert "other: Greatest at row 0, column 0 of 2 x 7 patches" in plot.alt


def test_distance_draws_each_head() -> None:
    plot = plots.distance(DISTANCES, 61.25, image_height=160)
    dots, mean, uniform = plot.figure.axes[0].lines
    np.testing.assert_array_equal(dots.get_xdata(), [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(dots.get_ydata(), DISTANCES.ravel())
    np.testing.assert_array_equal(mean.get_ydata(), [10, 30, 50, 70])
    assert list(uniform.get_ydata()) == [61.25, 61.25]
    shares = plot.figure.axes[1].get_ylim()[1]
    assert shares == pytest.approx(plot.figure.axes[0].get_ylim()[1] / 160)
    assert "2 heads in 4 layers. Layer 0: 5.0 to 15.0 pixels" in plot.alt
    assert "layer 3: 65.0 to 75.0, mean 70.0" in plot.alt
    assert "61.2" in plot.alt
    assert len(plots.distance(DISTANCES[:, :1]).figure.axes[0].lines) == 1


def test_filters_are_the_tiles_with_their_share() -> None:
    tiles = np.random.default_rng(0).random((6, 4, 8, 3))
    plot = ALL["filters"]()
    np.testing.assert_array_equal(pixels(plot, 4), tiles[4])
    shown = texts(plot)
    for share in ["50 %", "5.0 %", "< 0.1 %"]:
        assert share in shown
    assert "6 tiles of 4 x 8 pixels. The first explains 50.0" in plot.alt
    assert "all 87.0" in plot.alt


def test_positions_are_tiles_of_rows() -> None:
    values = cosines()
    plot = plots.positions(values, (ROWS, COLUMNS))
    drawn = plot.figure.axes[0].images[0].get_array()
    high, wide = ROWS + 1, COLUMNS + 1
    assert drawn.shape == (ROWS * high - 1, COLUMNS * wide - 1)
    tile = drawn[2 * high : 2 * high + ROWS, 1 * wide : 1 * wide + COLUMNS]
    np.testing.assert_array_equal(
        np.asarray(tile), values[2 * COLUMNS + 1].reshape(ROWS, COLUMNS)
    )
    assert plot.figure.axes[0].images[0].get_clim() == (-1, 1)
    near = np.mean(
        [
            values[r * COLUMNS + c, r * COLUMNS + c + 1]
            for r in range(ROWS)
            for c in range(COLUMNS - 1)
        ]
    )
    assert f"neighbours in a row {near:.2f}" in plot.alt
    assert f"the least similar pair {values.min():.2f}" in plot.alt


def test_large_grids_are_thinned_and_say_so() -> None:
    values = cosines(20, 28)
    plot = plots.positions(values, (20, 28))
    axes = plot.figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [str(i) for i in range(0, 20, 2)]
    drawn = np.asarray(axes.images[0].get_array())
    gap = (drawn.shape[0] - 10 * 20) // 9
    tile = drawn[20 + gap : 2 * 20 + gap, 28 + gap : 2 * 28 + gap]
    np.testing.assert_array_equal(tile, values[2 * 28 + 2].reshape(20, 28))
    assert "Tiles of every second row and column." in texts(plot)
    assert "every" not in texts(plots.positions(cosines(), (ROWS, COLUMNS)))


def test_colours_cover_the_picture() -> None:
    values = np.random.default_rng(1).random((2, ROWS, COLUMNS, 3))
    plot = plots.feature_colors([noise(0), noise(1)], values)
    image = plot.figure.axes[3].images[0]
    np.testing.assert_array_equal(np.asarray(image.get_array()), values[1])
    assert tuple(image.get_extent()) == (-0.5, WIDTH - 0.5, HEIGHT - 0.5, -0.5)
    assert "2 pictures, each beside 3 x 5" in plot.alt


def test_rank_curves_are_logarithmic_with_a_floor() -> None:
    line = [1.0, 1e-3, 1e-9, 0.0]
    plot = plots.rank_curves({"attention": line}, floor=1e-7)
    axes = plot.figure.axes[0]
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1, 1e-3, 1e-9, 1e-8])
    assert "rounding, below 1.0e-07" in texts(plot)
    assert "10⁻⁴" in texts(plot) or "10⁻³" in texts(plot)
    assert "attention: from 1 to 0 after 3 layers." in plot.alt
    below = plots.rank_curves({"a": [1.0, 1e-20]}, floor=1e-7).figure.axes[0]
    np.testing.assert_array_equal(below.lines[0].get_ydata(), [1, 1e-20])
    assert below.get_ylim()[0] < 1e-20
    high = plots.rank_curves({"full": [1.0, 0.9, 0.8], "shorter": [1.0]})
    assert high.figure.axes[0].get_xlim()[1] > 2
    assert "rounding" not in texts(high)
    np.testing.assert_array_equal(high.figure.axes[0].lines[0].get_xdata(), [0, 1, 2])
    assert plots.to_png(plots.rank_curves({"none": [0.0, 0.0]}).figure, 40)


def test_similarity_curves_are_the_values() -> None:
    plot = plots.similarity_curves({"a": [0.1, 0.5], "b": [-0.7, 0.2]})
    np.testing.assert_array_equal(plot.figure.axes[0].lines[1].get_ydata(), [-0.7, 0.2])
    assert plot.figure.axes[0].get_ylim()[0] < -0.7
    assert "b: from -0.7 to 0.2 after 1 layer." in plot.alt


def test_areas_are_in_the_legend() -> None:
    plot = ALL["faithfulness_curves"]()
    deletion, insertion = plot.figure.axes
    mean = [1, 0.6, 0.1, 0, 0]
    np.testing.assert_allclose(deletion.lines[0].get_ydata(), mean)
    np.testing.assert_allclose(deletion.lines[1].get_ydata(), 1 - SHARES)
    # Trapezoids of width 1/4: (0.5 + 0.6 + 0.1) / 4 and (0.5 + 1 + 1 + 0.5) / 4.
    assert f"{SHOWN}, area 0.300" in texts(plot)
    assert "random order, area 0.500" in texts(plot)
    assert "2 images" in plot.alt
    assert f"Insertion: {SHOWN} 0.750." in plot.alt
    assert insertion.get_title(loc="left") == "Insertion: higher is better"
    alone = plots.faithfulness_curves(SHARES, {"a": SHARES}, {})
    assert len(alone.figure.axes) == 1


def test_randomisation_bars_are_means() -> None:
    plot = ALL["randomisation"]()
    axes = plot.figure.axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [0.8, 0.3, -0.1])
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0.9, 0.4, 0, 0.7, 0.2, -0.2])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0, 1, 2, 0, 1, 2])
    assert f"0.80 after {SHOWN}, -0.10 after blocks.0." in plot.alt


def test_data_size_has_points_fit_and_verdict() -> None:
    plot = sizes(curve=FIT, verdict="Flat: nothing to gain.")
    axes = plot.figure.axes[0]
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.lines}
    measured = lines["measured, with interval"]
    np.testing.assert_array_equal(measured.get_ydata(), [0.5, 0.69, 0.81])
    np.testing.assert_array_equal(lines["fitted curve"].get_xdata(), [10, 100, 1000])
    dashed = axes.lines[0]
    np.testing.assert_array_equal(dashed.get_ydata(), FIT.accuracy)
    assert "Flat: nothing to gain." in texts(plot)
    assert plot.alt.endswith(" with 4000. Flat: nothing to gain.")
    for number in ["50.0", "81.0", "85.0", "75.0", "95.0"]:
        assert number in plot.alt
    assert len(sizes().figure.axes[0].lines) == 1


WRONG: list[tuple[Callable[[], object], str]] = [
    (
        lambda: plots.overlay(np.zeros((3, 48, 80)), spot()),
        r"must be \[height, width, 3 colours\]: got the shape \[3, 48, 80\]; move the",
    ),
    (lambda: plots.overlay(np.zeros((48, 80, 1)), spot()), "three equal colours"),
    (lambda: plots.overlay(np.zeros((48, 80)), spot()), r"got the shape \[48, 80\]"),
    (lambda: plots.overlay(noise() / 255 - 0.5, spot()), "undo the normalisation"),
    (
        lambda: plots.overlay(noise(), [spot()]),
        r"a map must be \[rows, columns\]: got the shape \[1, 3, 5\]",
    ),
    (lambda: plots.overlay(noise(), spot() * np.nan), "15 of 15 are not"),
    (lambda: plots.overlay(noise(), [["a", "b"]]), "a map must be numbers"),
    (
        lambda: plots.overlay(torch.zeros(4, 5, 3, requires_grad=True), spot()),
        "must be numbers .* requires grad",
    ),
    (lambda: plots.overlay([[[1, 2, 3]], [[1]]], spot()), "the image must be numbers"),
    (lambda: plots.gallery([], []), "there is no image to draw"),
    (lambda: plots.gallery([noise()], [spot()] * 2), "for each image: got 2, not 1"),
    (lambda: plots.gallery([noise()], [spot()], ["a", "b"]), "the titles must be one"),
    (lambda: plots.gallery([noise(), spot()], [spot()] * 2), "image 1 must be"),
    (lambda: plots.heads(noise(), spot()), r"must be \[heads, rows, columns\]"),
    (lambda: plots.comparison(noise(), {}), "there is no map to compare"),
    (lambda: plots.distance([1.0, 2.0]), r"must be \[layers, heads\]: got the shape"),
    (lambda: plots.distance([[-1.0]]), "cannot be below 0 pixels: got -1"),
    (lambda: plots.filters(np.ones((2, 4, 8))), r"must be \[n, height, width, 3"),
    (lambda: plots.filters(np.ones((2, 4, 8, 1))), r"\[2, 4, 8, 1\]"),
    (lambda: plots.filters(2 * np.ones((2, 4, 8, 3))), "must lie in 0..1: got 2 to 2"),
    (lambda: plots.filters(np.ones((2, 4, 8, 3)), [1.0]), "share for each filter"),
    (
        lambda: plots.positions(cosines(), (5, 4)),
        "of 5 x 4 positions must be 20 x 20: got 15 x 15; leave out the class token",
    ),
    (lambda: plots.positions(9 * cosines(), (ROWS, COLUMNS)), "must lie in -1..1"),
    (lambda: plots.position_panels({}), "there is no model to draw"),
    (
        lambda: plots.feature_colors([noise()], np.ones((2, 3, 5, 3))),
        "one for each image",
    ),
    (lambda: plots.rank_curves({}), "there is no curve to draw"),
    (lambda: plots.rank_curves({"a": [1, -0.5]}), "cannot be below 0: a has -0.5"),
    (lambda: plots.rank_curves({"a": [[1.0]]}), r"curve a must be \[layers \+ 1\]"),
    (lambda: plots.similarity_curves({"a": [1.5]}), "a cosine must lie in -1..1"),
    (
        lambda: plots.faithfulness_curves([0, 0.5, 0.5], {"a": [1, 1, 1]}, {}),
        "the shares must rise",
    ),
    (
        lambda: plots.faithfulness_curves(SHARES, {"a": np.ones((2, 4))}, {}),
        "the scores of a must be one for each share: got 4, not 5",
    ),
    (lambda: plots.faithfulness_curves(SHARES, {}, {}), "there is no score to draw"),
    (lambda: plots.randomization(["head"], [0.1, 0.2]), "each stage: got 2, not 1"),
    (lambda: plots.randomization(["head"], [3.0]), "correlation must lie in -1..1"),
    (lambda: sizes(low=[0.4]), "the lower ends must be one for each size: got 1"),
    (lambda: sizes(sizes=[0, 1, 2]), "must be 1 image or more: got 0"),
    (lambda: sizes(accuracies=[50, 69, 81]), "divide percentages by 100"),
    (
        lambda: sizes(accuracies=[0.5, 0.9, 0.8]),
        "0.9000 with 100 images is outside of 0.6000 to 0.7500",
    ),
    (lambda: sizes(curve=replace(FIT, low=[0.1])), "`low` of the curve must be one"),
    (lambda: sizes(curve=replace(FIT, sizes=[4, 3, 2, 1])), "must rise from above 0"),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG)
def test_wrong_shapes_and_values_are_refused(
    call: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        call()


def test_columns_leave_few_holes() -> None:
    assert [even_columns(n, 6) for n in (1, 2, 4, 7, 13, 17)] == [1, 2, 4, 4, 5, 6]
