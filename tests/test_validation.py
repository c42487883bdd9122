"""vitral.validation: the sentence names the setting, the bound and the value."""

import pytest

from vitral.errors import ConfigError
from vitral.validation import (
    above_zero,
    at_least,
    between,
    fraction,
    nearest_names,
    not_negative,
    one_of,
    suggestion,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "good", "bad", "sentence"),
    [
        (lambda v: at_least(2, n=v), 2, 1, "`n` must be at least 2: got 1."),
        (lambda v: not_negative(n=v), 0, -3, "`n` must not be negative: got -3."),
        (lambda v: above_zero(lr=v), 1e-9, 0, "`lr` must be above 0: got 0."),
        (
            lambda v: fraction(ema=v),
            0.0,
            1.0,
            "`ema` must be at least 0 and below 1: got 1.0.",
        ),
        (
            lambda v: between(3, 5, k=v),
            5,
            6,
            "`k` must lie between 3 and 5: got 6.",
        ),
        (
            lambda v: one_of(("a", "b", "c"), kind=v),
            "b",
            "d",
            "`kind` must be 'a', 'b' or 'c': got 'd'.",
        ),
        (lambda v: one_of(["a"], kind=v), "a", "", "`kind` must be 'a': got ''."),
    ],
)
def test_a_bound_is_named_with_the_setting_and_the_value(check, good, bad, sentence):
    check(good)
    with pytest.raises(ConfigError) as error:
        check(bad)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "check",
    [
        lambda v: at_least(1, x=v),
        lambda v: not_negative(x=v),
        lambda v: above_zero(x=v),
        lambda v: fraction(x=v),
        lambda v: between(0, 1, x=v),
    ],
)
def test_no_bound_lets_a_value_pass_that_is_not_a_number(check):
    with pytest.raises(ConfigError, match="got nan"):
        check(NAN)


def test_the_first_setting_that_fails_is_named():
    with pytest.raises(ConfigError, match="`second` must be at least 1: got 0"):
        at_least(1, first=4, second=0, third=-1)


def test_the_nearest_names():
    assert nearest_names("vit_b61", ["vit_b16", "vit_l16", "deit"]) == [
        "vit_b16",
        "vit_l16",
    ]
    assert suggestion("dipth", ["depth", "width"]) == " Did you mean depth or width?"
    assert suggestion("zzz", ["depth", "width"]) == ""
