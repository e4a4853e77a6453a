"""Runs an ONNX graph as it is: what every lowered form of it is held against, and what calibration watches."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import host
from ._ort import runtime

if TYPE_CHECKING:
    import numpy as np

_FOLDER = "model_external_initializers_file_folder_path"


def runner(path: Path) -> "Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]":
    """Returns a function from inputs by name to outputs by name that runs the graph in ONNX Runtime on the CPU."""
    session = _session(str(path))
    names = [value.name for value in session.get_outputs()]

    def run(inputs: "Mapping[str, np.ndarray]") -> "dict[str, np.ndarray]":
        return dict(zip(names, session.run(None, dict(inputs)), strict=True))

    return run


def watcher(
    path: Path, names: "Sequence[str]", *, streams: int = 1
) -> "Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]":
    """Returns a function from inputs by name to the inner float32 tensors called `names`, in that order.

    ONNX Runtime optimizes the graph around them. Its weights are read where they lie.

    Args:
        path: the ONNX file.
        names: of the tensors.
        streams: threads that call the function at once; together they take all cores.
    """
    import onnx

    from .storage import load_pointing

    proto = onnx.ModelProto.FromString(load_pointing(path))
    given = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in given
    )
    threads = max(host.cores() - streams + 1, 1)  # a pool of one less, which all who call share
    session = _session(proto.SerializeToString(), {_FOLDER: str(path.parent)}, optimize=True, threads=threads)
    fed = {value.name for value in proto.graph.input}
    wanted = [name for name in names if name not in fed]

    def run(inputs: "Mapping[str, np.ndarray]") -> "list[np.ndarray]":
        inner = iter(session.run(wanted, dict(inputs)))
        return [inputs[name] if name in fed else next(inner) for name in names]

    return run


def refusal(path: Path) -> Exception | None:
    """Returns why ONNX Runtime does not load the graph; None where it does. Its weights are not read."""
    from .storage import load_pointing

    settings = {_FOLDER: str(path.parent), "disable_prepacking": "1"}
    try:
        _session(load_pointing(path), settings)
    except Exception as error:
        return error
    return None


def _session(
    model: str | bytes, entries: "Mapping[str, str] | None" = None, *, optimize: bool = False, threads: int = 0
) -> Any:
    onnxruntime = runtime()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.enable_mem_pattern = not threads  # each run at once would plan a block of memory of its own
    levels = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    for key, value in (entries or {}).items():
        settings.add_session_config_entry(f"session.{key}", value)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
