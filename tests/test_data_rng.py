"""vitral.data.rng: NumPy's own streams, made more quickly."""

import numpy as np

from vitral.data.rng import generator_for, seed_for


def test_the_stream_is_that_of_philox_with_the_key():
    for number in range(50):
        found = generator_for("some", number)
        key = seed_for("some", number)
        expected = np.random.Generator(np.random.Philox(key=key))
        assert found.random(5).tolist() == expected.random(5).tolist()
        assert found.integers(1000, size=5).tolist() == (
            expected.integers(1000, size=5).tolist()
        )
        assert found.normal() == expected.normal()


def test_keys_are_apart_and_stay():
    keys = [seed_for("a", number) for number in range(1000)]
    assert len(set(keys)) == 1000
    assert all(0 <= key < 2**64 for key in keys)
    assert seed_for("augment", 0, 0, "cat/1.jpg") == 0xEC3E9627249E9E3A
