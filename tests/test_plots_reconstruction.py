"""Figures of reconstructions: three pictures a row, hidden patches grey."""

import numpy as np
import pytest

from figures import noise, pixels
from vitral import plots
from vitral.errors import DataError

HIDDEN = np.zeros((3, 5), dtype=bool)
HIDDEN[1, 4] = HIDDEN[0, 0] = HIDDEN[2, 2] = True


def test_masked_pictures_are_grey_where_patches_are_hidden():
    shown = plots.mask_patches(noise(), HIDDEN)
    wanted = noise() / 255
    wanted[16:32, 64:80] = wanted[:16, :16] = wanted[32:, 32:48] = 0.62
    np.testing.assert_allclose(shown, wanted)


def test_a_row_is_original_masked_reconstruction():
    images = [noise(i) for i in range(2)]
    drawn = [np.full((48, 80, 3), level) for level in (-0.5, 0.25)]
    drawn[0][0, 0] = 1.5
    plot = plots.reconstructions(images, [HIDDEN, ~HIDDEN], drawn, note="As it is.")
    assert len(plot.figure.axes) == 6
    np.testing.assert_allclose(pixels(plot, 3), images[1] / 255)
    np.testing.assert_allclose(pixels(plot, 4), plots.mask_patches(images[1], ~HIDDEN))
    np.testing.assert_allclose(pixels(plot, 5), 0.25)
    assert pixels(plot, 2)[0, 0].tolist() == [1, 1, 1]
    assert pixels(plot, 2)[0, 1].tolist() == [0, 0, 0]
    titles = [axes.get_title(loc="left") for axes in plot.figure.axes[:4]]
    assert titles == ["original", "masked", "reconstruction", ""]
    assert plot.alt == (
        "Hidden patches, drawn: 2 pictures, each as original, masked, reconstruction. "
        "50.0\N{NO-BREAK SPACE}% of the patches were hidden."
    )
    assert "As it is." in plots.to_svg(plot.figure)


def test_many_images_are_cut_and_the_figure_says_so():
    images = np.stack([noise()] * 25)
    plot = plots.reconstructions(images, [HIDDEN] * 25, images)
    assert len(plot.figure.axes) == 72
    assert "The first 24 of 25." in plots.to_svg(plot.figure)


@pytest.mark.parametrize(
    ("hidden", "restored", "sentence"),
    [
        ([], [noise()], "the masks must be one for each image: got 0, not 1"),
        ([HIDDEN], [], "the reconstructions must be one for each image: got 0, not 1"),
        ([HIDDEN * 2], [noise()], "mask 0 must be True where a patch is hidden"),
        (
            [HIDDEN],
            [noise(height=32)],
            r"as large as its image, \[48, 80, 3\]: got \[32, 80, 3\]",
        ),
    ],
    ids=["masks", "reconstructions", "weights", "size"],
)
def test_what_cannot_be_drawn(hidden, restored, sentence):
    with pytest.raises(DataError, match=sentence):
        plots.reconstructions([noise()], hidden, restored)


def test_names_of_columns_and_no_image():
    with pytest.raises(DataError, match="three columns to name: got 2 names"):
        plots.reconstructions([noise()], [HIDDEN], [noise()], captions=("a", "b"))
    with pytest.raises(DataError, match="there is no image to draw"):
        plots.reconstructions([], [], [])
