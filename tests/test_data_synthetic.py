"""vitral.data.sources.synthetic: the label is in the motion or in the pattern, nowhere
else."""

import numpy as np
import pytest

from vitral.data.sources.synthetic import draw_patterns, moving_squares
from vitral.errors import ConfigError


def test_the_square_moves_by_the_step():
    made = moving_squares(20, (16, 41), 3, label="motion", frames=5, side=8, step=6)
    assert made.clips.shape == (20, 5, 16, 41, 3)
    assert made.classes == ("left", "right")
    assert set(made.labels) == {0, 1}
    looks = moving_squares(20, (16, 41), 3, label="appearance", frames=5, step=6)
    assert np.array_equal(looks.clips, made.clips)
    assert set(looks.labels) == {0, 1}
    for clip, right, look in zip(made.clips, made.labels, looks.labels, strict=True):
        rows, columns = zip(
            *(find(f, draw_patterns(8)[look]) for f in clip), strict=True
        )
        assert len(set(rows)) == 1
        assert set(np.diff(columns)) == {6 if right else -6}


def find(frame, pattern):
    """Top and left of the pattern, by trying every place."""
    height, width = frame.shape[:2]
    found = [
        (top, left)
        for top in range(height - 7)
        for left in range(width - 7)
        if np.array_equal(frame[top : top + 8, left : left + 8], pattern)
    ]
    (place,) = found
    return place


def test_frames_in_no_order_say_nothing_about_the_direction():
    made = moving_squares(4000, (8, 24), 0, label="motion", frames=3, step=4)
    red = made.clips[..., 0].astype(float) - made.clips[..., 2]
    # Both patterns are darker than the noise; where is the square, in sum over frames?
    dark = (red.sum(axis=2) - red.sum(axis=2).mean()).sum(axis=1)
    left, right = (dark[made.labels == way].mean(axis=0) for way in (0, 1))
    spread = dark.std(axis=0) * np.sqrt(2 / 2000)
    assert (abs(left - right) < 5 * spread).all()
    # In order, the first frame alone tells it.
    first = red[:, 0].sum(axis=1)
    left, right = (first[made.labels == way].mean(axis=0) for way in (0, 1))
    assert (abs(left - right) > 5 * spread).any()
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
        ({"frames": 1}, "2 frames"),
        ({"step": 0}, "a step of 0"),
        ({"side": 10}, "multiple of 4"),
        ({"side": 12}, "12 x 24 .height x width. or more: got 16 x 20"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        moving_squares(2, (16, 20), 0, label="motion", **changes)
