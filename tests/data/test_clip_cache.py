"""What was made last is kept as far as the bytes go, whatever is asked in whatever order."""

import random

import pytest
import torch

from cookbook.data.video import Recent, byte_size


def test_what_is_kept_is_not_made_again_and_the_longest_unused_goes_first():
    made, recent = [], Recent(2 * 40)

    def get(name):
        return recent.get(name, lambda: made.append(name) or torch.full((10,), float(len(made))))

    first = get("a")
    assert get("a") is first and made == ["a"]
    get("b"), get("a"), get("c")  # b was not asked for since
    assert list(recent.kept) == ["a", "c"]
    get("b")
    assert made == ["a", "b", "c", "b"]


def test_a_value_that_is_too_large_is_returned_and_not_kept():
    recent = Recent(10)
    assert recent.get("x", lambda: torch.zeros(100)).shape == (100,)
    assert not recent.kept and recent.bytes == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_bytes_are_those_of_what_is_kept_and_never_above_the_limit(seed):
    rng, recent = random.Random(seed), Recent(100)
    for _ in range(60):
        length = rng.randrange(30)
        recent.get(rng.randrange(9), lambda n=length: (torch.zeros(n), torch.zeros(1)))
        assert recent.bytes == sum(map(byte_size, recent.kept.values())) <= 100
