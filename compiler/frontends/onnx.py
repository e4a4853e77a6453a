"""ONNX files: any opset from 9, external data beside the file. Nothing in the file is trusted."""

import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from ...passes import all_nodes, all_tensors, all_values
from .. import golden, host, shapes
from ..errors import BuildFailed, UsageError, did_you_mean
from ..golden import Golden
from ..recipe import Source
from ..shapes import Dim, TensorSpec
from ..worker import Emit
from . import Exported
from ._graph import input_specs, output_specs, rename_symbols, save

OLDEST_OPSET = 9
MOST_ELEMENTS = 2**31 - 1
"""TensorRT's limit for one tensor; no deployable graph comes near."""


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
    data = sorted({tensor.path for tensor in all_tensors(model) if isinstance(tensor, ir.ExternalTensor)})
    specs, dims = _bind(model, source)
    emit("memory", _needs(model, path, dims))
    exported = folder / "model.onnx"
    save(model, exported)
    seconds["load"] = time.perf_counter() - start

    emit("stage", "reference")
    start = time.perf_counter()
    goldens = _reference(source, exported, specs, dims)
    seconds["reference"] = time.perf_counter() - start
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
    )


def read(path: Path) -> ir.Model:
    """Reads and checks an ONNX file; its weights stay on disk, memory-mapped.

    Raises:
        UsageError: it is not a valid ONNX model, or its external data is not a plain file in its own folder.
    """
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise UsageError(f"{path} is not an ONNX file or is cut short: {error}", hint="Export it again") from error
    if not proto.graph.output:
        raise UsageError(f"{path} is not an ONNX model: its graph has no output", hint="Export it again")
    _check_calls(path, proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise UsageError(f"{path} is not a valid ONNX model: {_chain(error)}", hint="Export it again") from error
    _check_opset(path, model)
    for tensor in all_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(path, tensor)
            tensor.base_dir = str(path.parent)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise UsageError(f"{path} is not a valid ONNX model: {error}", hint="Export it again") from error
    return model


def _check_calls(path: Path, proto: object) -> None:
    """Refuses functions that call themselves: every library that inlines them overflows its stack."""
    functions = {(function.domain, function.name): function for function in proto.functions}  # type: ignore[attr-defined]

    def called(nodes: Sequence[object]) -> Iterator[tuple[str, str]]:
        pending = list(nodes)
        while pending:
            node = pending.pop()
            yield node.domain, node.op_type  # type: ignore[attr-defined]
            for attribute in node.attribute:  # type: ignore[attr-defined]
                for graph in (attribute.g, *attribute.graphs):
                    pending.extend(graph.node)

    calls = {key: [name for name in called(function.node) if name in functions] for key, function in functions.items()}
    done: set[tuple[str, str]] = set()
    for root in calls:
        trail, pending = [root], [iter(calls[root])]
        while pending:
            following = next(pending[-1], None)
            if following is None:
                done.add(trail.pop())
                pending.pop()
            elif following in trail:
                raise UsageError(
                    f"{path}: the function {following[1]!r} calls itself",
                    hint="ONNX allows no recursion: export it again",
                )
            elif following not in done:
                trail.append(following)
                pending.append(iter(calls[following]))


def _check_opset(path: Path, model: ir.Model) -> None:
    opset = model.opset_imports.get("")
    if opset is None and any(node.domain == "" for node in all_nodes(model)):
        raise UsageError(f"{path} does not say which opset it uses", hint="Export it again")
    if opset is not None and opset < OLDEST_OPSET:
        raise UsageError(
            f"{path} has opset {opset}; planc reads opset {OLDEST_OPSET} and newer",
            hint="Export it with a newer opset",
        )


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    """Refuses external data that is not a plain file inside the model's folder, or ends too early."""
    where = Path(tensor.location)
    folder = path.parent.resolve()
    name = f"{path}: external data {str(where)!r} of {tensor.name!r}"
    if where.is_absolute() or ".." in where.parts:
        raise UsageError(f"{name} points outside the model's folder", hint="Save the model with its data beside it")
    file = folder / where
    try:
        facts = file.lstat()
    except OSError:
        raise UsageError(f"{name} is missing", hint=f"Put it into {path.parent}") from None
    if file.resolve() != file:
        raise UsageError(f"{name} is a link", hint="Save the model with its data beside it")
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{name} is not a regular file", hint="Save the model with its data beside it")
    offset, length = tensor.offset or 0, tensor.length if tensor.length is not None else tensor.nbytes
    if offset < 0 or length < 0 or length < tensor.nbytes or offset + length > facts.st_size:
        raise UsageError(
            f"{name} should have {length} bytes at offset {offset}; the file has {facts.st_size}",
            hint="Copy the data file again",
        )


def _bind(model: ir.Model, source: Source) -> tuple[tuple[TensorSpec, ...], tuple[Dim, ...]]:
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


def _needs(model: ir.Model, path: Path, dims: Sequence[Dim]) -> int:
    """Estimates the bytes that running the graph takes, from its inferred shapes at the largest sizes.

    Raises:
        UsageError: one tensor alone has more elements than any backend takes.
    """
    import onnx_ir.passes.common as common

    largest = {dim.name: dim.max for dim in dims}
    common.ShapeInferencePass(data_prop=True, strict_mode=False)(model)
    total = path.stat().st_size
    for tensor in all_tensors(model):
        total += tensor.nbytes
    for value in all_values(model):
        if value.shape is None or value.dtype is None:
            continue
        elements = 1
        for size in value.shape:
            elements *= size if isinstance(size, int) else largest.get(str(size.value), 1)
        if elements > MOST_ELEMENTS:
            raise UsageError(
                f"{path}: {value.name!r} would have {elements:.3g} elements; {MOST_ELEMENTS} is the most",
                hint="Mend the model's shapes",
            )
        total += int(elements * value.dtype.itemsize)
    return 4 * total + (1 << 30)


def _reference(source: Source, path: Path, specs: Sequence[TensorSpec], dims: Sequence[Dim]) -> list[Golden]:
    from ..artifact import check_arrays
    from ..files import load_arrays
    from ..reference import runner

    real = None
    if source.data is not None:
        arrays = load_arrays(source.data)
        real = dict(zip([spec.name for spec in specs], check_arrays(specs, arrays), strict=True))
    try:
        run = runner(path)
    except Exception as error:
        raise BuildFailed(f"ONNX Runtime cannot load {source.text}: {error}") from error
    goldens = []
    for point in shapes.points(dims):
        inputs = golden.draw(specs, point)
        if real and all(real[spec.name].shape == spec.at(point.sizes) for spec in specs):
            inputs = real
        try:
            outputs = run(inputs)
        except Exception as error:
            raise BuildFailed(f"ONNX Runtime cannot run {source.text} at {point.label}: {error}") from error
        made = Golden(point.label, inputs, outputs)
        golden.check(made)
        goldens.append(made)
    return goldens


def _chain(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
