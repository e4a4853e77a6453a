"""ONNX files: any opset from 9, external data beside the file. Nothing in the file is trusted."""

import logging
import math
import stat
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...passes import all_nodes, all_tensors
from .. import golden, host, protos, shapes, storage
from ..errors import BuildFailed, UsageError, did_you_mean, named
from ..golden import Golden
from ..recipe import Source
from ..shapes import Dim, Point, TensorSpec
from ..worker import Emit
from . import Exported
from ._graph import input_specs, output_specs, rename_symbols, require_space

if TYPE_CHECKING:
    import numpy as np
    import onnx

log = logging.getLogger(__name__)

OLDEST_OPSET = 9
MOST_ELEMENTS = 2**31 - 1
"""TensorRT's limit for one tensor; no deployable graph comes near."""
MOST_NODES = 2_000_000
MOST_NAME = 1000
MOST_RANK = 64  # NumPy's

_LIBRARIES = 512 << 20


def export(source: Source, folder: Path, *, emit: Emit) -> Exported:
    """Checks the file, binds its dimensions, and runs it unoptimised in ONNX Runtime at each point.

    Raises:
        UsageError: the file is damaged, reaches outside its folder, asks for tensors that no machine holds, or its
            inputs do not fit what the user gave.
        BuildFailed: ONNX Runtime cannot run it.
    """
    seconds = {}
    emit("stage", "load")
    start = time.perf_counter()
    path = Path(source.text)
    model = read(path)
    tensors = list(all_tensors(model))
    data = sorted({tensor.path for tensor in tensors if isinstance(tensor, ir.ExternalTensor)} - {str(path.resolve())})
    specs, dims = bind(model, source)
    exported = folder / "model.onnx"
    weights = sum(tensor.nbytes for tensor in tensors)
    require_space(folder, weights)
    storage.save(model, exported)
    inferred = _infer_shapes(exported)
    needs = _needs(inferred, path, weights, dims)
    emit("memory", needs)
    seconds["load"] = time.perf_counter() - start

    emit("stage", "reference")
    start = time.perf_counter()
    goldens = _reference(source, exported, specs, dims)
    seconds["reference"] = time.perf_counter() - start
    for value, known in zip(model.graph.outputs, inferred.graph.output, strict=True):
        value.shape = ir.serde.deserialize_type_proto_for_shape(known.type) or value.shape
    return Exported(
        path=exported,
        inputs=specs,
        outputs=output_specs(model, goldens[0].outputs),
        dims=dims,
        goldens=tuple(goldens),
        reference=f"onnxruntime {host.version('onnxruntime')} on the source, optimizations off",
        sources=(path, *map(Path, data), *((source.data,) if source.data else ())),
        versions={"onnx": host.version("onnx") or "", "onnx-ir": host.version("onnx-ir") or ""},
        seconds=seconds,
        needs=needs,
    )


def read(path: Path, *, shapes: bool = True) -> ir.Model:
    """Reads and checks an ONNX file; its weights stay on disk, memory-mapped.

    Args:
        path: the file.
        shapes: whether the shapes that it states for inner values are kept.

    Raises:
        UsageError: it is not a valid ONNX model, or its external data is not a plain file in its own folder.
    """
    import onnx

    try:
        proto, spans = protos.load_light(path)
    except Exception as error:
        raise UsageError(f"{path} is not an ONNX file or is cut short: {error}", hint="Export it again") from error
    if not proto.graph.output:
        raise UsageError(f"{path} is not an ONNX model: its graph has no output", hint="Export it again")
    _check_border(path, proto)
    _check_calls(path, proto)
    for tensor in protos.tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, tensor)
            if tensor.HasField("raw_data") or tensor.name in spans:
                raise UsageError(f"{path}: {tensor.name!r} is in the file and beside it", hint="Export it again")
    for tensor in proto.graph.initializer:
        if tensor.name in spans and spans[tensor.name].length != (needed := _bytes_of(path, tensor)):
            raise UsageError(
                f"{path}: {tensor.name!r} has {spans[tensor.name].length} bytes; its shape asks for {needed}",
                hint="Export it again",
            )
    try:
        onnx.checker.check_model(_without_data(proto, spans))
        if not shapes:
            storage.drop_shapes(proto)
        model = storage.attach(ir.from_proto(proto), path, spans)
    except Exception as error:
        raise UsageError(f"{path} is not a valid ONNX model: {named(error)}", hint="Export it again") from error
    _check_opset(path, model)
    return model


def _without_data(proto: "onnx.ModelProto", spans: "Container[str]") -> "onnx.ModelProto":
    """Returns the model with no elements in the tensors whose bytes lie in a file: ONNX's checker wants to see them."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(proto)
    for tensor in protos.tensors(light):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.name in spans:
            for name in ("external_data", "data_location", "raw_data", "dims"):
                tensor.ClearField(name)
            tensor.dims.append(0)
    return light


def _check_border(path: Path, proto: "onnx.ModelProto") -> None:
    """Refuses inputs and outputs that are no tensors of sane rank and size, or whose names no archive can hold."""
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type.tensor_type
        if len(value.name) > MOST_NAME:
            short = f"{value.name[:20]}..."
            raise UsageError(f"{path}: the name {short!r} is longer than {MOST_NAME}", hint="Give it a shorter name")
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            raise UsageError(f"{path}: {value.name!r} is not a tensor", hint="planc takes tensors only: split it up")
        if len(kind.shape.dim) > MOST_RANK:
            raise UsageError(
                f"{path}: {value.name!r} has {len(kind.shape.dim)} dimensions; {MOST_RANK} is the most",
                hint="Reshape it in the model",
            )
        if any(size.dim_value < 0 for size in kind.shape.dim):
            raise UsageError(f"{path}: {value.name!r} has a negative size", hint="Export it again")
    if any(graph.sparse_initializer for graph in protos.graphs(proto)):
        raise UsageError(f"{path} has sparse weights, which planc does not read", hint="Store them as dense tensors")


def _check_calls(path: Path, proto: "onnx.ModelProto") -> None:
    """Refuses functions that call themselves, or that unfold to more nodes than any machine holds.

    Every library that inlines them overflows its stack with the first, and its memory with the second: 40 functions
    that call the next one twice are 10^12 nodes.
    """
    functions = {(one.domain, one.name, one.overload): one for one in proto.functions}
    if not functions:
        return

    def called(nodes: "Iterable[onnx.NodeProto]") -> tuple[int, list[tuple[str, str, str]]]:
        names = [(node.domain, node.op_type, node.overload) for node in protos.nodes_in(nodes)]
        return len(names), [name for name in names if name in functions]

    own = {key: called(function.node) for key, function in functions.items()}
    unfolded: dict[tuple[str, str, str], int] = {}
    for root in functions:
        trail, pending = [root], [iter(own[root][1])]
        while pending:
            following = next(pending[-1], None)
            if following is None:
                done = trail.pop()
                pending.pop()
                unfolded[done] = own[done][0] + sum(unfolded[name] for name in own[done][1])
            elif following in trail:
                raise UsageError(
                    f"{path}: the function {following[1]!r} calls itself",
                    hint="ONNX allows no recursion: export it again",
                )
            elif following not in unfolded:
                trail.append(following)
                pending.append(iter(own[following][1]))
    count, calls = called(proto.graph.node)
    total = count + sum(unfolded[name] for name in calls)
    if total > MOST_NODES:
        raise UsageError(
            f"{path}: its functions unfold to {total:.3g} nodes; {MOST_NODES} is the most", hint="Export it again"
        )


def _check_opset(path: Path, model: ir.Model) -> None:
    opset = model.opset_imports.get("")
    if opset is None and any(node.domain == "" for node in all_nodes(model)):
        raise UsageError(f"{path} does not say which opset it uses", hint="Export it again")
    if opset is not None and opset < OLDEST_OPSET:
        raise UsageError(
            f"{path} has opset {opset}; planc reads opset {OLDEST_OPSET} and newer",
            hint="Export it with a newer opset",
        )


def _check_external(path: Path, tensor: "onnx.TensorProto") -> None:
    """Refuses external data that is not a plain file inside the model's folder, or ends too early."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    where = facts.get("location", "")
    name = f"{path}: external data {where!r} of {tensor.name!r}"
    beside = "Save the model with its data beside it"
    if not where or not where.isprintable():
        raise UsageError(f"{name} has no file name", hint=beside)
    if Path(where).is_absolute() or ".." in Path(where).parts:
        raise UsageError(f"{name} points outside the model's folder", hint=beside)
    file = path.parent.resolve() / where
    try:
        found = file.lstat()
    except OSError:
        raise UsageError(f"{name} is missing", hint=f"Put it into {path.parent}") from None
    if file.resolve() != file:
        raise UsageError(f"{name} is a link", hint=beside)
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{name} is not a regular file", hint=beside)
    needed = _bytes_of(path, tensor)
    offset, length = (facts.get("offset") or "0"), facts.get("length") or str(needed)
    if not offset.isdecimal() or not length.isdecimal():
        raise UsageError(f"{name} has offset {offset!r} and length {length!r}", hint="Export it again")
    if int(length) < needed or int(offset) + int(length) > found.st_size:
        raise UsageError(
            f"{name} should have {max(needed, int(length))} bytes at {int(offset)}; the file has {found.st_size}",
            hint="Copy the data file again",
        )


def _bytes_of(path: Path, tensor: "onnx.TensorProto") -> int:
    """Bytes that a tensor's shape and dtype ask for."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        raise UsageError(
            f"{path}: {tensor.name!r} has the unknown dtype {tensor.data_type}", hint="Export it again"
        ) from None
    if any(size < 0 for size in tensor.dims) or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        raise UsageError(
            f"{path}: {tensor.name!r} of {dtype} {list(tensor.dims)} cannot lie in a file", hint="Export it again"
        )
    return math.ceil(math.prod(int(size) for size in tensor.dims) * dtype.itemsize)


def bind(model: ir.Model, source: Source) -> tuple[tuple[TensorSpec, ...], tuple[Dim, ...]]:
    """Gives the inputs the shapes and dimension names of the user; returns specs and dims."""
    import onnx_ir.passes.common as common

    common.RemoveInitializersFromInputsPass()(model)
    specs = input_specs(model)
    given = {spec.name: spec for spec in source.inputs}
    for name in given:
        if name not in {spec.name for spec in specs}:
            raise UsageError(
                f"--input {name}: {source.text} has no such input",
                hint=did_you_mean(name, [spec.name for spec in specs]),
            )
    renamed: dict[str, str | int] = {}
    for value, spec in zip(model.graph.inputs, specs, strict=True):
        want = given.get(spec.name, spec)
        if want.dtype != spec.dtype or len(want.shape) != len(spec.shape):
            raise UsageError(
                f"--input {want} does not fit {source.text}, which has {spec}", hint=f"Write --input '{spec}'"
            )
        for have, wanted in zip(spec.shape, want.shape, strict=True):
            if isinstance(have, int) and have != wanted:
                raise UsageError(
                    f"--input {want} does not fit {source.text}, which has {spec}",
                    hint=f"Write --input '{spec}'",
                )
            if isinstance(have, str) and have != wanted:
                renamed[have] = wanted
        value.shape = ir.Shape(want.shape)
    rename_symbols(model, renamed)
    specs = tuple(given.get(spec.name, spec) for spec in specs)
    shapes.check_dims(specs, source.dims)
    fixed = {dim.name: dim.min for dim in source.dims if dim.min == dim.max}
    rename_symbols(model, dict(fixed))
    return tuple(_fix(spec, fixed) for spec in specs), tuple(dim for dim in source.dims if dim.name not in fixed)


def _fix(spec: TensorSpec, fixed: dict[str, int]) -> TensorSpec:
    shape = tuple(fixed.get(size, size) if isinstance(size, str) else size for size in spec.shape)
    return TensorSpec(spec.name, spec.dtype, shape, spec.low, spec.high)


def _infer_shapes(path: Path) -> "onnx.ModelProto":
    """Adds the shapes that can be known to the file, large weights aside; gives the graph."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    try:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:
        log.debug("shape inference: %s", error)
        return proto
    return proto


def _needs(proto: "onnx.ModelProto", path: Path, weights: int, dims: Sequence[Dim]) -> int:
    """Estimates the bytes that running the graph takes, from its inferred shapes at the largest sizes.

    Raises:
        UsageError: one tensor alone has more elements than any backend takes.
    """
    largest = {dim.name: dim.max for dim in dims}
    total = weights + path.stat().st_size
    for value in (
        value for graph in protos.graphs(proto) for value in (*graph.input, *graph.output, *graph.value_info)
    ):
        kind = value.type.tensor_type
        sizes = (size.dim_value or largest.get(size.dim_param, 1) for size in kind.shape.dim)
        elements = math.prod(max(size, 1) for size in sizes)
        if elements > MOST_ELEMENTS:
            raise UsageError(
                f"{path}: {value.name!r} would have {elements:.3g} elements; {MOST_ELEMENTS} is the most",
                hint="Mend the model's shapes",
            )
        with suppress(ValueError, TypeError):
            total += int(elements * ir.DataType(kind.elem_type).itemsize)
    return 4 * total + _LIBRARIES


def _reference(source: Source, path: Path, specs: Sequence[TensorSpec], dims: Sequence[Dim]) -> list[Golden]:
    from ..artifact import read_inputs
    from ..reference import runner

    real = None
    if source.data is not None:
        real = read_inputs(source.data, specs)
    try:
        run = runner(path)
    except Exception as error:
        text = str(error).replace(str(path), source.text)
        raise BuildFailed(f"ONNX Runtime cannot load {source.text}: {text}") from error

    def run_at(inputs: "Mapping[str, np.ndarray]", point: Point) -> "Mapping[str, np.ndarray]":
        try:
            return run(inputs)
        except Exception as error:
            raise BuildFailed(f"ONNX Runtime cannot run {source.text} at {point.label}: {error}") from error

    proven = shapes.points(dims)[: 1 if source.brief else None]
    return golden.at_points(proven, specs, real, run_at)
