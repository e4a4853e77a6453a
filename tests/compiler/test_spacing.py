"""Spacing, against what is worked out by hand, and its two promises on many."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from planc.compiler.spacing import apart


def test_by_hand() -> None:
    assert apart([], [], 1) == []
    assert apart([3.0], [2], 1) == [3.0]
    assert apart([0.0, 10.0], [2, 2], 1) == [0.0, 10.0], "nothing moves that need not"
    assert apart([5.0, 5.0], [2, 2], 1) == [3.5, 6.5]
    assert apart([9.0, 0.0], [2, 4], 0) == [3.0, 6.0], "the order is kept"


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 10)), max_size=20))
def test_nothing_overlaps_and_all_together_stay(items: list[tuple[float, float]]) -> None:
    wished, widths = [one for one, _ in items], [two for _, two in items]
    found = apart(wished, widths, 1)
    assert abs(sum(found) - sum(wished)) < 1e-6
    for (one, wide), (two, next_wide) in pairwise(zip(found, widths, strict=True)):
        assert two - one >= (wide + next_wide) / 2 + 1 - 1e-6
