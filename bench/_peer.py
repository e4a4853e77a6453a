"""Runs one peer from file to file: `python _peer.py onnxslim IN.onnx OUT.onnx`, with the peers' own interpreter."""

import sys

import onnx


def main() -> None:
    tool, source, out = sys.argv[1:]
    if tool == "onnxslim":
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


if __name__ == "__main__":
    main()
