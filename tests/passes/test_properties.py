"""Random graphs through the whole preset: same results at each batch, same signature, and soon nothing left to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.printer
import onnx_ir as ir
import onnxruntime
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from planc.passes import PRESETS, SCHEMES, ConvertPrecision, InsertQdq, check, observed, signature

Shape = tuple[int | str, ...]
Draw = Callable[[Any], Any]
UNARY = ("Neg", "Relu", "Tanh", "Sigmoid", "Abs", "Identity", "Dropout", "Clip", "Exp")
BATCHES = (3, 1)


@dataclass
class Builder:
    """A graph in the making: values by name with their shapes, the first dimension of x being n."""

    draw: Draw
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    defaults: list[onnx.ValueInfoProto] = field(default_factory=list)
    values: dict[str, Shape] = field(default_factory=dict)
    count: int = 0

    def one_of(self, things: Any) -> Any:
        return self.draw(st.sampled_from(list(things)))

    def any_value(self, rank: int = 0) -> str:
        return self.one_of([name for name, shape in self.values.items() if len(shape) >= rank])

    def name(self) -> str:
        self.count += 1
        return f"val_{self.count}"

    def node(self, op: str, inputs: list[str], shape: Shape | None, **attributes: Any) -> str:
        name = self.name()
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        if shape is not None:
            self.values[name] = shape
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """An initializer, the output of a Constant, or a graph input with a default."""
        tensor = numpy_helper.from_array(np.asarray(array, dtype))
        how = self.draw(st.integers(0, 9))
        if how < 3:
            return self.node("Constant", [], None, value=tensor)
        tensor.name = self.name()
        self.weights.append(tensor)
        if how == 9:
            self.defaults.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        return tensor.name

    def ints(self, *numbers: int) -> str:
        return self.constant(numbers, np.int64)

    def mean(self, value: str) -> str:
        """Over the last axis, which becomes 1."""
        shape = (*self.values[value][:-1], 1)
        if self.opset < 18:
            return self.node("ReduceMean", [value], shape, axes=[-1])
        return self.node("ReduceMean", [value, self.ints(-1)], shape)

    def random(self, *shape: int) -> str:
        seed = self.draw(st.integers(0, 2))  # few: equal weights happen
        return self.constant(np.random.default_rng(seed).uniform(-1, 1, shape))


def unary(build: Builder) -> None:
    value = build.any_value()
    build.node(build.one_of(UNARY), [value], build.values[value])


def binary(build: Builder) -> None:
    left = build.any_value()
    right = build.one_of([name for name, shape in build.values.items() if shape == build.values[left]])
    build.node(build.one_of(("Add", "Sub", "Mul", "Max")), [left, right], build.values[left])


def with_number(build: Builder) -> None:
    value = build.any_value()
    op, number = build.one_of([("Add", 0), ("Mul", 1), ("Sub", 0), ("Div", 1), ("Pow", 1), ("Mul", 2), ("Add", 3)])
    shape = build.one_of([(), (1,), (build.values[value][-1],)])
    constant = build.constant(np.full([size for size in shape if size != "n"], number))
    build.node(op, [value, constant], build.values[value])


def transpose(build: Builder) -> None:
    value = build.any_value()
    shape = build.values[value]
    perm = build.draw(st.permutations(range(len(shape))))
    build.node("Transpose", [value], tuple(shape[axis] for axis in perm), perm=perm)


def unsqueeze(build: Builder) -> None:
    value = build.any_value()
    shape = build.values[value]
    if len(shape) < 4:
        axis = build.draw(st.integers(0, len(shape)))
        made = build.node("Unsqueeze", [value, build.ints(axis)], (*shape[:axis], 1, *shape[axis:]))
        if build.draw(st.booleans()):
            build.node("Squeeze", [made, build.ints(axis)], shape)


def concat(build: Builder) -> None:
    value = build.any_value()
    shape, axis = build.values[value], len(build.values[value]) - 1
    if isinstance(shape[-1], int) and shape[-1] < 20:
        build.node("Concat", [value, value], (*shape[:-1], 2 * shape[-1]), axis=build.one_of([axis, -1]))


def cut(build: Builder) -> None:
    value = build.any_value()
    shape = build.values[value]
    axis = len(shape) - 1
    if isinstance(shape[axis], int):
        start, end, step = build.one_of([(0, 2**63 - 1, 1), (0, shape[axis], 1), (0, 1, 1), (-1, -99, -1), (0, 99, 2)])
        size = len(range(shape[axis])[start : None if end == -99 else end : step])
        bounds = [build.ints(number) for number in (start, end, axis, step)]
        build.node("Slice", [value, *bounds], (*shape[:-1], size))


def reshape(build: Builder) -> None:
    """To two dimensions or as it was, by numbers or by arithmetic on its sizes."""
    value = build.any_value(2)
    shape = build.values[value]
    if shape[0] != "n" or "n" in shape[1:]:
        return
    rest = int(np.prod(shape[1:]))
    how = build.draw(st.integers(0, 3))
    if how == 0:
        build.node("Reshape", [value, build.ints(0, -1)], ("n", rest))
    elif how == 1:
        build.node("Reshape", [value, build.ints(-1, rest)], ("n", rest))
    elif how == 2:
        build.node("Reshape", [value, build.node("Shape", [value], None)], shape)
    else:
        sizes = build.node("Shape", [value], None)
        batch = build.node("Gather", [sizes, build.constant([0], np.int64)], None)
        wanted = build.node("Concat", [batch, build.ints(1), build.ints(-1)], None, axis=0)
        build.node("Reshape", [value, wanted], ("n", 1, rest))


def project(build: Builder) -> None:
    value = build.any_value(2)
    shape = build.values[value]
    if not isinstance(shape[-1], int):
        return
    for _ in range(build.one_of([1, 3])):
        width = build.one_of([4, 6])
        made = build.node("MatMul", [value, build.random(shape[-1], width)], (*shape[:-1], width))
        if build.draw(st.booleans()):
            build.node("Add", [made, build.random(width)], (*shape[:-1], width))


def convolve(build: Builder) -> None:
    """A value of two dimensions as an image, through a convolution and back."""
    value = build.any_value(2)
    shape = build.values[value]
    if len(shape) != 2 or shape[0] != "n" or not isinstance(shape[1], int):
        return
    image = build.node("Reshape", [value, build.ints(0, 1, 1, -1)], ("n", 1, 1, shape[1]))
    pads = build.one_of([[0, 0, 0, 0], [0, 1, 0, 1]])
    width = shape[1] - 2 + sum(pads)
    if width < 1:
        return
    operands = [image, build.random(2, 1, 1, 3), *build.one_of([[], [build.random(2)]])]
    made = build.node("Conv", operands, ("n", 2, 1, width), pads=pads, kernel_shape=[1, 3])
    if build.draw(st.booleans()):
        made = build.node("Relu", [made], build.values[made])
    if build.draw(st.booleans()):
        made = build.node("Add", [made, made], build.values[made])
    build.node("Reshape", [made, build.ints(0, -1)], ("n", 2 * width))


def gelu(build: Builder) -> None:
    value = build.any_value()
    shape = build.values[value]
    scaled = build.node("Div", [value, build.constant(2**0.5)], None)
    gate = build.node("Add", [build.node("Erf", [scaled], None), build.constant(1)], None)
    product = build.node("Mul", [value, gate], None)
    build.node("Mul", [product, build.constant(0.5)], shape)


def norm(build: Builder) -> None:
    """Layer normalization, or its half without the mean."""
    value = build.any_value(2)
    shape = build.values[value]
    if not isinstance(shape[-1], int):
        return
    kept = (*shape[:-1], 1)
    base = value
    if build.draw(st.booleans()):
        base = build.node("Sub", [value, build.mean(value)], shape)
    mean = build.mean(build.node("Mul", [base, base], shape))
    root = build.node("Sqrt", [build.node("Add", [mean, build.constant(1e-2)], kept)], kept)
    if build.draw(st.booleans()):
        made = build.node("Div", [base, root], shape)
    else:
        made = build.node("Mul", [base, build.node("Reciprocal", [root], kept)], shape)
    scaled = build.node("Mul", [made, build.random(shape[-1])], shape)
    build.node("Add", [scaled, build.random(shape[-1])], shape)


def hard_swish(build: Builder) -> None:
    value = build.any_value()
    shape = build.values[value]
    moved = build.node("Add", [value, build.constant(3)], None)
    clipped = build.node("Clip", [moved, build.constant(0), build.constant(6)], None)
    build.node("Div", [build.node("Mul", [value, clipped], None), build.constant(6)], shape)


def twice(build: Builder) -> None:
    """The same computation once more."""
    known = [node for node in build.nodes if node.op_type != "If" and node.output[0] in build.values]
    if known:
        node = build.one_of(known)
        name = build.name()
        again = onnx.NodeProto()
        again.CopyFrom(node)
        again.output[0] = name
        build.nodes.append(again)
        build.values[name] = build.values[node.output[0]]


def branch(build: Builder) -> None:
    """An If whose branches use values from outside and call their own like any other branch may."""
    value = build.any_value()
    shape = build.values[value]
    graphs = []
    for number in (0.0, 1.0):
        inner, last = f"local_{build.draw(st.integers(0, 1))}", build.name()
        tensor = numpy_helper.from_array(np.array(number, np.float32))
        op, first = build.one_of(["Add", "Mul"]), build.one_of(UNARY)
        nodes = [
            helper.make_node("Constant", [], [f"c_{inner}"], value=tensor),
            helper.make_node(first, [value], [inner]),
            helper.make_node(op, [inner, f"c_{inner}"], [f"s_{inner}"]),
            helper.make_node(build.one_of(["Identity", "Neg"]), [f"s_{inner}"], [last]),
        ]
        output = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
        graphs.append(helper.make_graph(nodes, "branch", [], [output]))
    build.node("If", ["which"], shape, then_branch=graphs[0], else_branch=graphs[1])


STEPS = (
    unary, binary, with_number, transpose, unsqueeze, concat, cut, reshape, project, convolve, gelu, norm, hard_swish,
    twice, branch,
)  # fmt: skip


@st.composite
def models(draw: Draw) -> onnx.ModelProto:
    build = Builder(draw, draw(st.sampled_from((17, 20))), values={"x": ("n", 4), "z": ("n", 4)})
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=14)):
        step(build)
    made = [name for name in build.values if name not in ("x", "z")]
    if not made:
        made = [build.node("Neg", ["x"], ("n", 4))]
    outputs = sorted({made[-1], *draw(st.lists(st.sampled_from(made), max_size=3))})
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 4)) for name in ("x", "z")]
    inputs += [helper.make_tensor_value_info("which", TensorProto.BOOL, ()), *build.defaults]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, build.values[name]) for name in outputs]
    graph = helper.make_graph(build.nodes, "g", inputs, infos, build.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", build.opset)], ir_version=8)


def _feeds(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """Two batches, both branches; floats that are defaults get other values the second time."""
    defaults = {tensor.name: tensor for tensor in model.graph.initializer}
    feeds = []
    for index, batch in enumerate(BATCHES):
        rng = np.random.default_rng(index)
        feed = {name: rng.uniform(-1, 1, (batch, 4)).astype(np.float32) for name in ("x", "z")}
        feed["which"] = np.array(index == 0)
        if index:
            for value in model.graph.input[3:]:
                if defaults[value.name].data_type == TensorProto.FLOAT:
                    feed[value.name] = np.asarray(numpy_helper.to_array(defaults[value.name]) + np.float32(0.5))
        feeds.append(feed)
    return feeds


def _outputs(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in feeds]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_a_preset_changes_no_result_and_is_done(source: onnx.ModelProto) -> None:
    note(onnx.printer.to_text(source))
    onnx.checker.check_model(source)
    feeds = _feeds(source)
    before = _outputs(source, feeds)
    model = ir.from_proto(source)
    wanted = signature(model)
    merged = False
    for one in PRESETS["onnx"]:
        modified = one(model).modified
        merged |= modified and one.name == "merge-duplicates"
        check(model, wanted)
    made = ir.to_proto(model)
    note(onnx.printer.to_text(made))
    onnx.checker.check_model(made)
    for then, now in zip(before, _outputs(made, feeds), strict=True):
        for was, has in zip(then, now, strict=True):
            np.testing.assert_allclose(has, was, rtol=1e-4, atol=1e-5)
    again = [one.name for one in PRESETS["onnx"] if one(model).modified]
    if again:  # computations that became one at the end may leave a chain or a no-op
        assert merged
        assert [one.name for one in PRESETS["onnx"] if one(model).modified] == []


def _ranges(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> tuple[tuple[str, float, float], ...]:
    names = observed(model)
    made = ir.to_proto(model)
    outputs = [value.name for value in made.graph.output]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    known = [value.name for value in made.graph.output]
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for results in _outputs(made, feeds):
        for name, array in zip(known, results, strict=True):
            if name in arrays:
                arrays[name].append(array)
    return tuple((name, min(map(np.min, some)), max(map(np.max, some))) for name, some in arrays.items())


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_int8_is_valid_and_near(source: onnx.ModelProto) -> None:
    feeds = _feeds(source)
    model = ir.from_proto(source)
    for one in PRESETS["onnx"]:
        one(model)
    wanted, made = signature(model), ir.to_proto(model)
    note(onnx.printer.to_text(made))
    before, ranges = _outputs(made, feeds), _ranges(model, feeds)
    steep = any(node.op_type in ("Exp", "Div", "Reciprocal", "Sqrt", "Pow") for node in model.graph.all_nodes())
    for family in SCHEMES:
        model = ir.from_proto(made)
        one = InsertQdq(family=family, ranges=ranges)
        modified = one(model).modified
        check(model, wanted)
        again = ir.to_proto(model)
        note(onnx.printer.to_text(again))
        onnx.checker.check_model(again, full_check=True)
        for then, now in zip(before, _outputs(again, feeds), strict=True):
            for was, has in zip(then, now, strict=True):
                assert was.shape == has.shape
                if not modified:
                    np.testing.assert_array_equal(has, was)
                elif not steep:
                    np.testing.assert_allclose(has, was, atol=0.1 * float(abs(was).max(initial=1)))
        assert not one(model).modified


def _all_ranges(model: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> tuple[tuple[str, float, float], ...]:
    """Lowest and highest number of each float32 value that a node of the main graph computes."""
    every = onnx.ModelProto()
    every.CopyFrom(model)
    del every.graph.output[:]
    infos = onnx.shape_inference.infer_shapes(model).graph
    found = {value.name: value for value in (*infos.value_info, *infos.output)}
    names = [name for node in model.graph.node for name in node.output if name in found]
    names = [name for name in names if found[name].type.tensor_type.elem_type == TensorProto.FLOAT]
    every.graph.output.extend(found[name] for name in names)
    columns = zip(*_outputs(every, feeds), strict=True)
    return tuple(
        (name, float(min(array.min() for array in arrays)), float(max(array.max() for array in arrays)))
        for name, arrays in zip(names, columns, strict=True)
    )


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(), st.booleans())
def test_half_the_precision_gives_nearly_the_same(source: onnx.ModelProto, optimized: bool) -> None:
    """With calibrated ranges, so that nothing overflows; error is counted in parts of an output's greatest number."""
    note(onnx.printer.to_text(source))
    feeds = _feeds(source)
    model = ir.from_proto(source)
    for one in PRESETS["onnx"] if optimized else ():
        one(model)
    wide, wanted = ir.to_proto(model), signature(model)
    before = _outputs(wide, feeds)
    half = ConvertPrecision(ranges=_all_ranges(wide, feeds))
    event(f"modified: {half(model).modified}")
    check(model, wanted)
    made = ir.to_proto(model)
    note(onnx.printer.to_text(made))
    onnx.checker.check_model(made, full_check=True)
    for then, now in zip(before, _outputs(made, feeds), strict=True):
        for was, has in zip(then, now, strict=True):
            assert has.dtype == was.dtype
            np.testing.assert_allclose(has, was, rtol=2e-2, atol=2e-2 * max(1, float(np.abs(was).max(initial=0))))
    assert not half(model).modified
