"""A small classifier of handwritten digits."""

from layers import block
from torch import nn


def digits() -> nn.Module:
    """Images float32[batch,1,8,8] with values 0..16 -> logits of the ten digits."""
    return nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(128, 10))
