"""Runs one peer from file to file, with the peers' own interpreter.

`python _peer.py onnxslim IN.onnx OUT.onnx`, `python _peer.py nncf IN.onnx OUT.xml SAMPLES.npz`
"""

import sys

import onnx


def main() -> None:
    tool, source, out, *data = sys.argv[1:]
    if data:
        quantize(tool, source, out, data[0])
    elif tool == "onnxslim":
        import onnxslim

        onnx.save(onnxslim.slim(source), out)
    elif tool == "onnxsim":
        import onnxsim

        onnx.save(onnxsim.simplify(onnx.load(source))[0], out)
    elif tool == "onnxscript":
        import onnxscript.optimizer

        onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), out)
    elif tool == "onnxruntime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.optimized_model_filepath = out
        onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    else:
        raise SystemExit(f"unknown tool {tool}")


def quantize(tool: str, source: str, out: str, data: str) -> None:
    """Quantizes with one array per input in the .npz `data`, first axis samples."""
    import numpy as np

    with np.load(data) as archive:
        arrays = {name: archive[name] for name in archive.files}
    feeds = [
        {name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(next(iter(arrays.values()))))
    ]
    if tool == "fp32":
        time_inference(source, out, feeds)
    elif tool == "nncf":
        import nncf
        import openvino as ov

        model = ov.Core().read_model(source)
        kind = nncf.ModelType.TRANSFORMER if len(arrays) > 1 or "vit" in source else None
        made = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds), model_type=kind)
        ov.save_model(made, out, compress_to_fp16=False)
    elif tool in ("olive", "olive-dynamic"):
        olive(tool, source, out, data)
    elif tool in ("ort-minmax", "ort-entropy"):
        from onnxruntime import quantization as q
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(q.CalibrationDataReader):
            def __init__(self) -> None:
                self.feeds = iter(feeds)

            def get_next(self) -> dict | None:
                return next(self.feeds, None)

        prepared = out + ".pre.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        method = q.CalibrationMethod.MinMax if tool == "ort-minmax" else q.CalibrationMethod.Entropy
        q.quantize_static(
            prepared,
            out,
            Reader(),
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=method,
        )
    else:
        raise SystemExit(f"unknown tool {tool}")


OLIVE_DATA = """
import numpy as np
from olive.data.registry import Registry

class Samples:
    def __init__(self, path):
        with np.load(path) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
    def __len__(self):
        return len(next(iter(self.arrays.values())))
    def __getitem__(self, i):
        return {name: array[i] for name, array in self.arrays.items()}, 0

@Registry.register_dataset()
def samples(path, **_):
    return Samples(path)
"""
"""Olive takes data from a script of the user's."""


def olive(tool: str, source: str, out: str, data: str) -> None:
    """Static INT8, per channel, or dynamic INT8; the source under another name: Olive refuses one with ".." in it."""
    import os
    import shutil
    from pathlib import Path
    from tempfile import TemporaryDirectory

    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    from olive.workflows import run

    with TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(source, folder / "model.onnx")
        (folder / "samples.py").write_text(OLIVE_DATA)
        given = {
            "name": "given",
            "type": "DataContainer",
            "user_script": str(folder / "samples.py"),
            "load_dataset_config": {"type": "samples", "params": {"path": str(Path(data).resolve())}},
            "dataloader_config": {"batch_size": 1},
        }
        static = {"type": "OnnxStaticQuantization", "data_config": "given", "per_channel": True}
        run({
            "input_model": {"type": "OnnxModel", "model_path": str(folder / "model.onnx")},
            "data_configs": [given],
            "passes": {"int8": static if tool == "olive" else {"type": "OnnxDynamicQuantization"}},
            "output_dir": str(folder / "out"),
            "cache_dir": str(folder / "cache"),
        })  # fmt: skip
        shutil.copy(folder / "out/model.onnx", out)


def time_inference(source: str, out: str, feeds: list) -> None:
    """Writes the seconds that ONNX Runtime takes for the samples, without the start of the process."""
    import json
    import time
    from pathlib import Path

    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    session.run(None, feeds[0])
    start, used = time.perf_counter(), time.process_time()
    for feed in feeds:
        session.run(None, feed)
    Path(out).write_text(json.dumps([time.perf_counter() - start, time.process_time() - used]))


if __name__ == "__main__":
    main()
