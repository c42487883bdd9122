"""Learning rates: the numbers of the paper's formulas, then properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import validate_with
from vitral.errors import ConfigError
from vitral.training import ScheduleConfig, lr_at, steps_for
from vitral.training.schedule import SCHEDULES


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (1, 6e-5), (250, 0.015), (500, 0.03), (5250, 0.015), (10_000, 0.0)],
)
def test_cosine(step, rate):
    config = ScheduleConfig(schedule="cosine", warmup=500)
    assert lr_at(step, 10_000, 0.03, config) == pytest.approx(rate, abs=1e-17)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5_000, 4e-4), (505_000, 4.05e-4), (1_000_000, 1e-5)],
)
def test_linear(step, rate):
    config = ScheduleConfig(schedule="linear", warmup=10_000, end_lr=1e-5)
    assert lr_at(step, 1_000_000, 8e-4, config) == pytest.approx(rate, rel=1e-12)


def test_rsqrt_halves_after_three_timescales_and_cools_down():
    config = ScheduleConfig(schedule="rsqrt", warmup=100, timescale=1_000, cooldown=500)
    assert lr_at(0, 10_000, 8e-4, config) == 0
    assert lr_at(50, 10_000, 8e-4, config) == pytest.approx(4e-4)
    assert lr_at(100, 10_000, 8e-4, config) == pytest.approx(8e-4)
    assert lr_at(3_100, 10_000, 8e-4, config) == pytest.approx(4e-4)
    undamped = 8e-4 / math.sqrt(1 + 9_650 / 1_000)
    assert lr_at(9_750, 10_000, 8e-4, config) == pytest.approx(undamped / 2)
    assert lr_at(10_000, 10_000, 8e-4, config) == 0


def test_rsqrt_of_the_giant_models():
    """arXiv 2106.04560: 8e-4, a million updates, warm-up and timescale 10,000."""
    config = ScheduleConfig(
        schedule="rsqrt", warmup=10_000, timescale=10_000, cooldown=50_000
    )
    golden = {
        0: 0.0,
        5_000: 4e-4,
        10_000: 8e-4,
        20_000: 5.656854e-4,
        40_000: 4e-4,
        110_000: 2.412091e-4,
        950_000: 8.207827e-5,
        975_000: 4.050957e-5,
        1_000_000: 0.0,
    }
    for step, rate in golden.items():
        assert lr_at(step, 1_000_000, 8e-4, config) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "parts", "edges"),
    [
        ("step", 10, (3, 6, 9)),
        ("step_of_90", 90, (30, 60, 80)),
        ("step_of_40", 40, (10, 23, 30, 37)),
    ],
)
def test_stairs(schedule, parts, edges):
    """arXiv 1912.11370: a tenth after each edge, and at the edge still the old rate."""
    config = ScheduleConfig(schedule=schedule, warmup=5)
    total = 7 * parts
    for number, edge in enumerate(edges):
        for step, falls in ((7 * edge, number), (7 * edge + 1, number + 1)):
            assert lr_at(step, total, 0.48, config) == pytest.approx(0.48 / 10**falls)
    assert lr_at(1, total, 0.48, config) == pytest.approx(0.096)
    with pytest.raises(ConfigError, match=f"constant: {schedule} ends low by itself"):
        ScheduleConfig(schedule=schedule, cooldown=5)


def test_constant_without_warmup_starts_at_the_base():
    config = ScheduleConfig(schedule="constant")
    assert [lr_at(step, 7, 0.1, config) for step in range(8)] == [0.1] * 8


def test_constant_with_warmup_and_cooldown():
    config = ScheduleConfig(schedule="constant", warmup=2, cooldown=4)
    rates = [lr_at(step, 10, 1.0, config) for step in range(11)]
    assert rates == [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@given(
    schedule=st.sampled_from(SCHEDULES),
    total=st.integers(2, 3_000),
    share=st.floats(0, 0.9),
    step=st.integers(0, 4_000),
)
def test_rates_stay_between_zero_and_the_base(schedule, total, share, step):
    config = ScheduleConfig(schedule=schedule, warmup=int(total * share))
    assert 0 <= lr_at(step, total, 0.5, config) <= 0.5


def test_steps_of_the_paper():
    assert steps_for(int(1_281_167 * 0.99), 90, 1024) == 111_477
    assert steps_for(int(1_281_167 * 0.99), 300, 4096) == 92_897
    assert steps_for(303_000_000, 7, 4096) == 517_822
    assert steps_for(14_197_122, 90, 4096) == 311_948


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match="one of cosine, linear, rsqrt, constant"):
        validate_with(ScheduleConfig(), "schedule", "stairs")
    with pytest.raises(ConfigError, match="`warmup` must not be negative: got -1"):
        ScheduleConfig(warmup=-1)
    with pytest.raises(ConfigError, match="`timescale` must be at least 1"):
        ScheduleConfig(timescale=0)
    with pytest.raises(ConfigError, match="cosine ends low by itself"):
        ScheduleConfig(schedule="cosine", cooldown=5)
    with pytest.raises(ConfigError, match=r"warmup` \(500 steps\) must be shorter"):
        lr_at(0, 300, 0.1, ScheduleConfig(warmup=500))
