"""Places things beside each other, each as near as possible to where it wants to be, without overlaps."""

from collections.abc import Sequence
from itertools import pairwise


def apart(wished: Sequence[float], widths: Sequence[float], gap: float) -> list[float]:
    """Returns the middles, in the given order, with the least squares of their moves (pool adjacent violators)."""
    offsets = [0.0] if wished else []
    for one, two in pairwise(widths):
        offsets.append(offsets[-1] + (one + two) / 2 + gap)
    blocks: list[tuple[float, int]] = []
    for wish, offset in zip(wished, offsets, strict=True):
        total, count = wish - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            before, several = blocks.pop()
            total, count = total + before, count + several
        blocks.append((total, count))
    found = [total / count for total, count in blocks for _ in range(count)]
    return [place + offset for place, offset in zip(found, offsets, strict=True)]
