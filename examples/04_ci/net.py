"""The network that is built: yours goes here."""

from torch import nn


def net() -> nn.Module:
    """Images float32[batch,3,32,32] -> scores of ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
