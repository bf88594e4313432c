"""Twice the labels take about twice the time: nothing in the passport compares each with each."""

import pytest
from benchmarks.growth_data import seconds

pytestmark = pytest.mark.fault("load")


def test_the_passport_grows_with_its_labels_and_no_faster():
    few, many = seconds(250), seconds(1_000)
    assert all(after < 3 * (4 * before) + 1 for before, after in zip(few, many))  # quadratic would be 16 times
