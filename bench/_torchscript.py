"""Exports a model of bench/models.py by TorchScript: `python -m bench._torchscript NAME OUT.onnx SPEC... DIM...`."""

import inspect
import sys
import warnings
from typing import Any

import torch

from planc.compiler import golden, recipe, shapes

from . import models


class _ByName(torch.nn.Module):
    """Takes inputs in order and gives them to a module by name: decorated forwards want names."""

    def __init__(self, net: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.net(**dict(zip(self.names, tensors, strict=True)))


def main() -> None:
    name, out, *words = sys.argv[1:]
    source = recipe.source(
        "bench/models.py:none",
        inputs=[one for one in words if "[" in one],
        dims=[one for one in words if "[" not in one],
    )
    arrays = golden.draw(source.inputs, next(iter(shapes.points(source.dims))))
    dynamic = {
        spec.name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in source.inputs
    }
    warnings.simplefilter("ignore")
    net = getattr(models, name)().eval()
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    by_name = tensors.keys() <= inspect.signature(net.forward).parameters.keys()
    with torch.no_grad():
        torch.onnx.export(
            _ByName(net, list(tensors)) if by_name else net,
            tuple(tensors.values()),
            out,
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,
            input_names=list(dynamic),
            dynamic_axes=dynamic,
        )


if __name__ == "__main__":
    main()
