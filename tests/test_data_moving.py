"""vitral.data.moving: the label is in the motion or in the pattern, nowhere else."""

from itertools import pairwise

import numpy as np
import pytest

from vitral.data.generated import patterns
from vitral.data.moving import moving_squares
from vitral.errors import ConfigError


def test_the_square_moves_by_the_step_on_a_torus():
    made = moving_squares(20, (16, 28), 3, label="motion", frames=5, side=8, step=6)
    assert made.clips.shape == (20, 5, 16, 28, 3)
    assert made.classes == ("left", "right")
    looks = moving_squares(20, (16, 28), 3, label="appearance", frames=5, step=6)
    assert np.array_equal(looks.clips, made.clips)
    for clip, way, look in zip(made.clips, made.labels, looks.labels, strict=True):
        pattern = patterns(8)[look]
        places = [find(frame, pattern) for frame in clip]
        rows, columns = zip(*places, strict=True)
        assert len(set(rows)) == 1
        steps = {(b - a) % 28 for a, b in pairwise(columns)}
        assert steps == {6 if way else 28 - 6}


def find(frame, pattern):
    """Top and left of the pattern, by trying every place of the torus."""
    inside = np.arange(8)
    found = [
        (top, left)
        for top in range(frame.shape[0])
        for left in range(frame.shape[1])
        if np.array_equal(
            frame[
                np.ix_(
                    (top + inside) % frame.shape[0], (left + inside) % frame.shape[1]
                )
            ],
            pattern,
        )
    ]
    (place,) = found
    return place


def test_places_say_nothing_about_the_direction():
    made = moving_squares(4000, (8, 16), 0, label="motion", frames=3, step=4)
    red = made.clips[..., 0].astype(float) - made.clips[..., 2]
    column = red.sum(axis=2).argmax(axis=-1)  # [clips, frames]
    for frame in range(3):
        left = np.bincount(column[made.labels == 0, frame], minlength=16)
        right = np.bincount(column[made.labels == 1, frame], minlength=16)
        # Both are about uniform: 2,000 clips on 16 columns, 125 each.
        assert abs(left - right).max() < 6 * np.sqrt(2 * 125)
    assert abs(made.labels.mean() - 0.5) < 0.04


def test_the_same_arguments_give_the_same_clips():
    one = moving_squares(3, (16, 20), 5, label="motion")
    same = moving_squares(3, (16, 20), 5, label="motion")
    other = moving_squares(3, (16, 20), 6, label="motion")
    assert np.array_equal(one.clips, same.clips)
    assert not np.array_equal(one.clips, other.clips)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 1}, "2 frames or more"),
        ({"side": 10}, "multiple of 4"),
        ({"side": 24}, "at most the frame's 16"),
        ({"step": 10}, "same in both directions"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        moving_squares(2, (16, 20), 0, label="motion", **changes)
