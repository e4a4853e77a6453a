"""Runs a model once, as a deployed process does: `python -m bench._cold WAY MODEL INPUTS.npz`."""

import sys

import numpy as np


def main() -> None:
    way, model, path = sys.argv[1:]
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if way == "planc":
        import planc

        planc.load(model)(**arrays)
    elif way == "onnxruntime":
        import onnxruntime

        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, arrays)
    elif way == "openvino":
        import openvino

        compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        compiled.create_infer_request().infer(arrays)
    else:
        import torch

        from . import models

        net = getattr(models, model)().eval()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with torch.inference_mode():
            net(**tensors) if len(tensors) > 1 else net(*tensors.values())


main()
