"""A helper that net.py imports: planc finds it and writes it into the depfile."""

from torch import nn


def block(width: int, out: int) -> nn.Sequential:
    """Convolution, normalisation and pooling: halves the image."""
    return nn.Sequential(nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))
