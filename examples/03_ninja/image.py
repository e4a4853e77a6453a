"""A small network for images, not trained: `weights = "image.safetensors"` in planc.toml would load some."""

from blocks import halved
from torch import nn


def image() -> nn.Module:
    """Images float32[batch,3,32,32] -> scores of ten classes."""
    return nn.Sequential(halved(3, 16), halved(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
