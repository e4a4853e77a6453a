"""Graphs made to kill a compiler: each gets an answer in time and memory, never a dead command line.

Every case runs the real command line. It may give a result, which ONNX Runtime then must load, or a clear error.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ._run import TABLE, Answer, ahead, check_refusal, names_in, planc, slowness

pytestmark = pytest.mark.alone

MOST_SECONDS = 20
MOST_BYTES = 10**9
INT64_MIN = -(2**63)
HUGE = 10**5  # squared: 10^10 elements

Build = Callable[[Path], ModelProto | bytes]
_CASES: dict[str, tuple[Build, frozenset[int], tuple[str, ...], tuple[str, ...]]] = {}

COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "hostile.onnx"),
    "export": ("export", "hostile.onnx", "-o", "../out/export/model.onnx"),
    "onnxruntime": ("compile", "hostile.onnx", "-t", "onnxruntime-cpu", "-o", "../out/onnxruntime"),
    "openvino": ("compile", "hostile.onnx", "-t", "openvino-cpu", "-o", "../out/openvino"),
}


def case(*codes: int, flags: Sequence[str] = (), openvino: bool = False) -> Callable[[Build], Build]:
    """Registers a graph with the exit codes that export and compile may give, their flags, and whether OpenVINO too.

    Most graphs end before a backend sees them; OpenVINO is asked where it would see them.
    """

    def register(build: Build) -> Build:
        targets = ("onnxruntime", "openvino") if openvino else ("onnxruntime",)
        _CASES[build.__name__] = (build, frozenset(codes), tuple(flags), targets)
        return build

    return register


# --- building blocks ---------------------------------------------------------------------------------------------


def value(
    name: str, dtype: int = TensorProto.FLOAT, shape: Sequence[int | str | None] | None = (2, 3)
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, values: object, dtype: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=dtype), name)


def model(
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[FunctionProto] = (),
    opset: int = 18,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", list(inputs) or [value("x")], list(outputs) or [value("y")], list(initializers)
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def big(rank: int = 2, dtype: int = TensorProto.FLOAT) -> list[onnx.ValueInfoProto]:
    """An output whose sizes the graph does not tell."""
    return [value("y", dtype, [None] * rank)]


def branch(name: str, nodes: Sequence[NodeProto], output: str) -> GraphProto:
    return helper.make_graph(list(nodes), name, [], [value(output, shape=None)])


def function(name: str, nodes: Sequence[NodeProto]) -> FunctionProto:
    return helper.make_function("own", name, ["a"], ["b"], list(nodes), [helper.make_opsetid("", 18), OWN])


OWN = helper.make_opsetid("own", 1)

# --- arithmetic that traps ---------------------------------------------------------------------------------------


def _arithmetic(op: str, left: int, right: int, dtype: type = np.int64) -> ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model(
        [node(op, ["l", "r"], ["y"])],
        outputs=[value("y", kind, [1])],
        initializers=[constant("l", [left], dtype), constant("r", [right], dtype)],
    )


@case(4)
def div_int64_min(_folder: Path) -> ModelProto:
    return _arithmetic("Div", INT64_MIN, -1)


@case(4)
def mod_int64_min(_folder: Path) -> ModelProto:
    return _arithmetic("Mod", INT64_MIN, -1)


@case(4)
def div_int32_min(_folder: Path) -> ModelProto:
    return _arithmetic("Div", -(2**31), -1, np.int32)


@case(4)
def div_by_zero(_folder: Path) -> ModelProto:
    return _arithmetic("Div", 7, 0)


@case(4)
def mod_by_zero(_folder: Path) -> ModelProto:
    return _arithmetic("Mod", 7, 0)


@case(4)
def div_int64_min_in_constant_nodes(_folder: Path) -> ModelProto:
    nodes = [
        node("Constant", [], ["l"], value=constant("", [INT64_MIN])),
        node("Constant", [], ["r"], value=constant("", [-1])),
        node("Div", ["l", "r"], ["q"]),
        node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    return model(nodes)


@case(4)
def div_int64_min_from_the_input(_folder: Path) -> ModelProto:
    nodes = [
        node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        node("Mul", ["i", "zero"], ["none"]),
        node("Add", ["none", "least"], ["l"]),
        node("Div", ["l", "minus"], ["y"]),
    ]
    initializers = [constant("zero", [0]), constant("least", [INT64_MIN]), constant("minus", [-1])]
    return model(nodes, outputs=[value("y", TensorProto.INT64)], initializers=initializers)


@case(4)
def range_with_step_zero(_folder: Path) -> ModelProto:
    numbers = [constant("a", 0), constant("b", 10), constant("s", 0)]
    return model([node("Range", ["a", "b", "s"], ["y"])], outputs=big(1, TensorProto.INT64), initializers=numbers)


# --- convolutions and pools that divide by zero ------------------------------------------------------------------

IMAGE = [value("x", shape=[1, 1, 8, 8])]


def _window(op: str, **attributes: object) -> ModelProto:
    weights = [constant("w", np.ones((1, 1, 3, 3)), np.float32)] if "Conv" in op else []
    names = ["x", *(tensor.name for tensor in weights)]
    if not weights:
        attributes = {"kernel_shape": [3, 3], **attributes}
    return model([node(op, names, ["y"], **attributes)], inputs=IMAGE, outputs=big(4), initializers=weights)


@case(4)
def conv_stride_zero(_folder: Path) -> ModelProto:
    return _window("Conv", strides=[0, 0])


@case(4)
def conv_stride_negative(_folder: Path) -> ModelProto:
    return _window("Conv", strides=[-1, -1])


@case(4)
def conv_transpose_stride_zero(_folder: Path) -> ModelProto:
    return _window("ConvTranspose", strides=[0, 0])


@case(4)
def conv_dilation_zero(_folder: Path) -> ModelProto:
    return _window("Conv", dilations=[0, 0])


@case(4)
def conv_group_zero(_folder: Path) -> ModelProto:
    return _window("Conv", group=0)


@case(2)
def conv_pads_huge(_folder: Path) -> ModelProto:
    return _window("Conv", pads=[2**40] * 4)


@case(4)
def max_pool_stride_zero(_folder: Path) -> ModelProto:
    return _window("MaxPool", strides=[0, 0])


@case(4)
def average_pool_stride_zero(_folder: Path) -> ModelProto:
    return _window("AveragePool", strides=[0, 0])


@case(4)
def max_pool_kernel_zero(_folder: Path) -> ModelProto:
    return _window("MaxPool", kernel_shape=[0, 0])


# --- small files that ask for much -------------------------------------------------------------------------------


@case(2)
def ten_billion_floats(_folder: Path) -> ModelProto:
    return model([node("ConstantOfShape", ["n"], ["y"])], outputs=big(), initializers=[constant("n", [HUGE, HUGE])])


@case(2)
def ten_billion_int8(_folder: Path) -> ModelProto:
    fill = numpy_helper.from_array(np.array([1], dtype=np.int8))
    nodes = [node("ConstantOfShape", ["n"], ["y"], value=fill)]
    return model(nodes, outputs=big(2, TensorProto.INT8), initializers=[constant("n", [HUGE, HUGE])])


@case(2)
def ten_billion_at_run_time(_folder: Path) -> ModelProto:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Mul", ["s", "n"], ["wide"]),
        node("ConstantOfShape", ["wide"], ["z"]),
        node("ReduceSum", ["z"], ["y"], keepdims=0),
    ]
    return model(nodes, outputs=[value("y", shape=[])], initializers=[constant("n", [50_000, 40_000])])


@case(4)
def ten_billion_from_values(_folder: Path) -> ModelProto:
    nodes = [
        node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        node("Mul", ["i", "zero"], ["none"]),
        node("Add", ["none", "n"], ["s"]),
        node("ConstantOfShape", ["s"], ["y"]),
    ]
    return model(
        nodes,
        inputs=[value("x", shape=[2])],
        outputs=big(),
        initializers=[constant("zero", [0, 0]), constant("n", [HUGE, HUGE])],
    )


@case(2)
def ten_billion_by_tile(_folder: Path) -> ModelProto:
    return model([node("Tile", ["x", "n"], ["y"])], outputs=big(), initializers=[constant("n", [HUGE, HUGE])])


@case(2)
def ten_billion_by_expand(_folder: Path) -> ModelProto:
    initializers = [constant("one", [1], np.int8), constant("n", [HUGE, HUGE])]
    return model([node("Expand", ["one", "n"], ["y"])], outputs=big(2, TensorProto.INT8), initializers=initializers)


@case(2)
def ten_billion_by_range(_folder: Path) -> ModelProto:
    numbers = [constant("a", 0), constant("b", HUGE * HUGE), constant("s", 1)]
    return model([node("Range", ["a", "b", "s"], ["y"])], outputs=big(1, TensorProto.INT64), initializers=numbers)


@case(2)
def ten_billion_by_doubling(_folder: Path) -> ModelProto:
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(34)]
    return model([node("Identity", ["x"], ["v0"]), *nodes, node("ReduceMax", ["v34"], ["y"], keepdims=0)],
                 outputs=[value("y", shape=[])])  # fmt: skip


@case(2)
def ten_billion_by_random(_folder: Path) -> ModelProto:
    return model([node("RandomNormal", [], ["y"], shape=[HUGE, HUGE])], outputs=big())


@case(2)
def ten_billion_input(_folder: Path) -> ModelProto:
    return model([node("ReduceMax", ["x"], ["y"], keepdims=0)], inputs=[value("x", shape=[HUGE, HUGE])],
                 outputs=[value("y", shape=[])])  # fmt: skip


@case(2, flags=("--input", "x=float32[n,n]", "--dim", "n=1..100000"))
def ten_billion_by_the_dim(_folder: Path) -> ModelProto:
    return model([node("ReduceMax", ["x"], ["y"], keepdims=0)], inputs=[value("x", shape=["n", "n"])],
                 outputs=[value("y", shape=[])])  # fmt: skip


@case(2)
def input_of_negative_size(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=[-1, 3])], outputs=big())


@case(0, openvino=True)
def input_of_size_zero(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=[0, 3])], outputs=big())


@case(2)
def input_of_size_2_to_62(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=[2**62, 4])], outputs=big())


@case(2)
def input_of_rank_1000(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x", shape=[1] * 1000)], outputs=big(1000))


@case(4, flags=("--time-limit", "6"))
def loop_without_end(_folder: Path) -> ModelProto:
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["v", "v"], ["w"])], "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v")],
        [value("d", TensorProto.BOOL, []), value("w")],
    )  # fmt: skip
    numbers = [constant("n", 2**62), constant("t", True, np.bool_)]
    return model([node("Loop", ["n", "t", "x"], ["y"], body=body)], initializers=numbers)


# --- functions and subgraphs -------------------------------------------------------------------------------------


def _calls(*functions: FunctionProto) -> ModelProto:
    return model([node("F", ["x"], ["y"], domain="own")], functions=functions)


@case(2)
def function_calls_itself(_folder: Path) -> ModelProto:
    return _calls(function("F", [node("F", ["a"], ["b"], domain="own")]))


@case(2)
def functions_call_each_other(_folder: Path) -> ModelProto:
    return _calls(
        function("F", [node("G", ["a"], ["b"], domain="own")]), function("G", [node("F", ["a"], ["b"], domain="own")])
    )


@case(2)
def function_calls_itself_in_an_if(_folder: Path) -> ModelProto:
    again = branch("again", [node("F", ["a"], ["p"], domain="own")], "p")
    stop = branch("stop", [node("Identity", ["a"], ["q"])], "q")
    body = [
        node("Constant", [], ["t"], value=constant("", False, np.bool_)),
        node("If", ["t"], ["b"], then_branch=again, else_branch=stop),
    ]
    return _calls(function("F", body))


@case(2)
def functions_that_double_40_times(_folder: Path) -> ModelProto:
    chain = [function("F40", [node("Relu", ["a"], ["b"])])]
    for depth in reversed(range(40)):
        name = "F" if depth == 0 else f"F{depth}"
        below = f"F{depth + 1}"
        body = [node(below, ["a"], ["m"], domain="own"), node(below, ["m"], ["b"], domain="own")]
        chain.append(function(name, body))
    return _calls(*reversed(chain))


@case(2)
def functions_1000_deep(_folder: Path) -> ModelProto:
    chain = [function("F", [node("F1", ["a"], ["b"], domain="own")])]
    chain += [function(f"F{i}", [node(f"F{i + 1}", ["a"], ["b"], domain="own")]) for i in range(1, 1000)]
    return _calls(*chain, function("F1000", [node("Relu", ["a"], ["b"])]))


def _nested(depth: int) -> ModelProto:
    inner = branch("leaf", [node("Relu", ["x"], ["y0"])], "y0")
    for level in range(1, depth):
        other = branch("other", [node("Identity", ["x"], [f"o{level}"])], f"o{level}")
        inner = branch("nest", [node("If", ["t"], [f"y{level}"], then_branch=inner, else_branch=other)], f"y{level}")
    other = branch("other", [node("Identity", ["x"], ["o"])], "o")
    return model(
        [node("If", ["t"], ["y"], then_branch=inner, else_branch=other)],
        initializers=[constant("t", True, np.bool_)],
    )


@case(0, openvino=True)
def if_20_deep(_folder: Path) -> ModelProto:
    return _nested(20)


@case(0, openvino=True)
def if_9_deep_in_both_branches(_folder: Path) -> ModelProto:
    def tree(depth: int, path: str) -> GraphProto:
        if not depth:
            return branch("leaf", [node("Relu", ["x"], [f"y{path}"])], f"y{path}")
        sides = {"then_branch": tree(depth - 1, path + "t"), "else_branch": tree(depth - 1, path + "e")}
        return branch("nest", [node("If", ["t"], [f"y{path}"], **sides)], f"y{path}")

    top = node("If", ["t"], ["y"], then_branch=tree(8, "t"), else_branch=tree(8, "e"))
    return model([top], initializers=[constant("t", True, np.bool_)])


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited protobuf field."""
    length, size = b"", len(content)
    while True:
        size, low = size >> 7, size & 127
        length += bytes([low | (128 if size else 0)])
        if not size:
            return bytes([number << 3 | 2]) + length + content


@case(2)
def if_2000_deep(_folder: Path) -> bytes:
    graph = _field(1, node("Relu", ["x"], ["y"]).SerializeToString())
    for _ in range(2000):
        attribute = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01" + bytes([AttributeProto.GRAPH])
        graph = _field(1, _field(1, b"t") + _field(2, b"y") + _field(4, b"If") + _field(5, attribute))
    return model([]).SerializeToString() + _field(7, graph)


@case(2)
def type_2000_deep(_folder: Path) -> bytes:
    kind = value("x").type.SerializeToString()
    for _ in range(2000):
        kind = _field(4, _field(1, kind))
    graph = _field(11, _field(1, b"z") + _field(2, kind))
    return model([node("Relu", ["x"], ["y"])]).SerializeToString() + _field(7, graph)


# --- many things -------------------------------------------------------------------------------------------------


@case(0)
def chain_of_50000(_folder: Path) -> ModelProto:
    names = ["x", *(f"v{i}" for i in range(49_999)), "y"]
    return model([node("Relu", [a], [b]) for a, b in itertools.pairwise(names)])


@case(0)
def outputs_5000(_folder: Path) -> ModelProto:
    names = [f"y{i}" for i in range(5000)]
    return model([node("Relu", ["x"], [name]) for name in names], outputs=[value(name) for name in names])


@case(0)
def split_in_5000(_folder: Path) -> ModelProto:
    names = [f"y{i}" for i in range(5000)]
    nodes = [node("Split", ["x"], names, axis=0, num_outputs=5000)]
    return model(nodes, inputs=[value("x", shape=[5000])], outputs=[value(name, shape=[1]) for name in names])


@case(2, 4)
def constants_that_double_60_times(_folder: Path) -> ModelProto:
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(60)]
    return model([*nodes, node("Size", ["v60"], ["y"])], outputs=[value("y", TensorProto.INT64, [])],
                 initializers=[constant("v0", [1, 2])])  # fmt: skip


# --- broken structure --------------------------------------------------------------------------------------------


@case(2)
def cycle(_folder: Path) -> ModelProto:
    return model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])


@case(2)
def node_feeds_itself(_folder: Path) -> ModelProto:
    return model([node("Add", ["x", "y"], ["y"])])


@case(2)
def nodes_in_wrong_order(_folder: Path) -> ModelProto:
    return model([node("Relu", ["a"], ["y"]), node("Relu", ["x"], ["a"])])


@case(0, 2, openvino=True)
def output_named_twice(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], outputs=[value("y"), value("y")])


@case(2)
def value_made_twice(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])])


@case(2)
def input_named_twice(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], inputs=[value("x"), value("x")])


@case(2)
def output_without_a_node(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["z"])])


@case(0, openvino=True)
def no_nodes(_folder: Path) -> ModelProto:
    return model([], outputs=[value("x")])


@case(0, openvino=True)
def output_is_an_initializer(_folder: Path) -> ModelProto:
    return model([], outputs=[value("c", shape=[2])], initializers=[constant("c", [1.0, 2.0], np.float32)])


@case(2)
def no_outputs(_folder: Path) -> ModelProto:
    graph = model([node("Relu", ["x"], ["y"])])
    del graph.graph.output[:]
    return graph


@case(0, openvino=True)
def no_inputs(_folder: Path) -> ModelProto:
    graph = model([node("Relu", ["c"], ["y"])], initializers=[constant("c", np.ones((2, 3)), np.float32)])
    del graph.graph.input[:]
    return graph


@case(2)
def unknown_operator(_folder: Path) -> ModelProto:
    return model([node("Rleu", ["x"], ["y"])])


@case(2)
def unknown_domain(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"], domain="com.nobody")])


@case(2, 4)
def opset_a_million(_folder: Path) -> ModelProto:
    return model([node("Relu", ["x"], ["y"])], opset=10**6)


@case(2)
def opset_missing(_folder: Path) -> ModelProto:
    graph = model([node("Relu", ["x"], ["y"])])
    del graph.opset_import[:]
    return graph


@case(2)
def ir_version_a_million(_folder: Path) -> ModelProto:
    graph = model([node("Relu", ["x"], ["y"])])
    graph.ir_version = 10**6
    return graph


@case(0, 2, openvino=True)
def names_with_control_characters(_folder: Path) -> ModelProto:
    name = "y\n\x1b[31m/../../y"
    return model([node("Relu", ["x"], [name])], outputs=[value(name)])


@case(2)
def name_of_a_million_characters(_folder: Path) -> ModelProto:
    name = "y" * 10**6
    return model([node("Relu", ["x"], [name])], outputs=[value(name)])


@case(2)
def text_input(_folder: Path) -> ModelProto:
    return model(
        [node("Identity", ["x"], ["y"])],
        inputs=[value("x", TensorProto.STRING)],
        outputs=[value("y", TensorProto.STRING)],
    )


@case(2)
def sequence_output(_folder: Path) -> ModelProto:
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return model([node("SequenceConstruct", ["x"], ["y"])], outputs=[output])


@case(4)
def division_of_the_shape_by_zero(_folder: Path) -> ModelProto:
    nodes = [node("Shape", ["x"], ["s"]), node("Div", ["s", "zero"], ["n"]), node("Reshape", ["x", "n"], ["y"])]
    return model(nodes, outputs=big(), initializers=[constant("zero", [0, 0])])


@case(4)
def gather_out_of_bounds(_folder: Path) -> ModelProto:
    return model([node("Gather", ["x", "i"], ["y"])], outputs=big(), initializers=[constant("i", [2**40])])


@case(0, 2, 4, openvino=True)
def axis_out_of_bounds(_folder: Path) -> ModelProto:
    return model([node("Softmax", ["x"], ["y"], axis=2**40)])


@case(4)
def transpose_out_of_bounds(_folder: Path) -> ModelProto:
    return model([node("Transpose", ["x"], ["y"], perm=[2**40, -(2**40)])], outputs=big())


# --- initializers ------------------------------------------------------------------------------------------------


def _weights(dims: Sequence[int], *, raw: bytes = bytes(24), dtype: int = TensorProto.FLOAT) -> ModelProto:
    graph = model([node("Add", ["x", "w"], ["y"])], outputs=big())
    graph.graph.initializer.append(TensorProto(name="w", dims=dims, data_type=dtype, raw_data=raw))
    return graph


@case(2)
def weights_whose_size_overflows(_folder: Path) -> ModelProto:
    return _weights([2**32, 2**32])


@case(2)
def weights_of_negative_size(_folder: Path) -> ModelProto:
    return _weights([-2, -3])


@case(2)
def weights_that_are_cut_short(_folder: Path) -> ModelProto:
    return _weights([2, 3], raw=bytes(20))


@case(2, 4)
def weights_that_are_too_long(_folder: Path) -> ModelProto:
    return _weights([2, 3], raw=bytes(4000))


@case(2)
def weights_of_unknown_dtype(_folder: Path) -> ModelProto:
    return _weights([2, 3], dtype=999)


@case(2)
def weights_of_no_dtype(_folder: Path) -> ModelProto:
    return _weights([2, 3], dtype=0)


@case(2)
def weights_twice(_folder: Path) -> ModelProto:
    graph = _weights([2, 3])
    graph.graph.initializer[0].float_data.extend([1.0] * 6)
    return graph


@case(2)
def weights_sparse_and_huge(_folder: Path) -> ModelProto:
    graph = model([node("Add", ["x", "w"], ["y"])], outputs=big())
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    graph.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=values, indices=constant("i", [5]), dims=[HUGE, HUGE])
    )
    return graph


# --- external data -----------------------------------------------------------------------------------------------


def _external(location: str, *, offset: object = 0, length: object = 24) -> ModelProto:
    graph = _weights([2, 3], raw=b"")
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": offset, "length": length}.items():
        if text is not None:
            tensor.external_data.add(key=key, value=str(text))
    return graph


@case(2)
def data_missing(_folder: Path) -> ModelProto:
    return _external("none.bin")


@case(2)
def data_is_a_fifo(folder: Path) -> ModelProto:
    os.mkfifo(folder / "pipe.bin")
    return _external("pipe.bin")


@case(2)
def data_is_a_folder(folder: Path) -> ModelProto:
    (folder / "folder.bin").mkdir()
    return _external("folder.bin")


@case(2)
def data_is_a_device(folder: Path) -> ModelProto:
    try:
        os.mknod(folder / "device.bin", 0o600 | 0o020000, os.makedev(1, 5))  # reads zeros without end
    except OSError:
        pytest.skip("cannot make a device here")
    return _external("device.bin")


@case(2)
def data_is_dev_zero(_folder: Path) -> ModelProto:
    return _external("/dev/zero")


@case(2)
def data_is_above(folder: Path) -> ModelProto:
    (folder.parent / f"{folder.name}.bin").write_bytes(bytes(24))
    return _external(f"../{folder.name}.bin")


@case(2)
def data_is_above_through_a_folder(folder: Path) -> ModelProto:
    (folder / "down").mkdir()
    (folder.parent / f"{folder.name}.bin").write_bytes(bytes(24))
    return _external(f"down/../../{folder.name}.bin")


@case(2)
def data_is_a_link(folder: Path) -> ModelProto:
    (folder / "link.bin").symlink_to("/etc/passwd")
    return _external("link.bin")


@case(2)
def data_is_in_a_linked_folder(folder: Path) -> ModelProto:
    (folder / "etc").symlink_to("/etc")
    return _external("etc/passwd")


@case(2)
def data_starts_beyond_the_end(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(24))
    return _external("w.bin", offset=2**40)


@case(2)
def data_ends_beyond_the_end(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(23))
    return _external("w.bin")


@case(2)
def data_without_length_is_short(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(20))
    return _external("w.bin", length=None)


@case(2)
def data_at_a_negative_offset(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(24))
    return _external("w.bin", offset=-8)


@case(2)
def data_at_no_number(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(24))
    return _external("w.bin", offset="none")


@case(2)
def data_at_an_offset_that_overflows(folder: Path) -> ModelProto:
    (folder / "w.bin").write_bytes(bytes(24))
    return _external("w.bin", offset=2**64 - 8)


@case(2)
def data_with_a_nul_in_its_name(_folder: Path) -> ModelProto:
    return _external("w\0.bin")


@case(2)
def data_without_a_name(_folder: Path) -> ModelProto:
    return _external("")


@case(2)
def data_is_the_model_itself(_folder: Path) -> ModelProto:
    return _external("hostile.onnx", offset=0, length=10**6)


@case(2)
def data_of_a_constant_is_a_fifo(folder: Path) -> ModelProto:
    os.mkfifo(folder / "pipe.bin")
    tensor = _external("pipe.bin").graph.initializer[0]
    return model([node("Constant", [], ["w"], value=tensor), node("Add", ["x", "w"], ["y"])])


# --- the test ----------------------------------------------------------------------------------------------------


def _loads(path: Path) -> None:
    """Asserts that ONNX Runtime loads a file: in a process of its own, as it may die of it."""
    code = f"import onnxruntime; onnxruntime.InferenceSession({str(path)!r}, providers=['CPUExecutionProvider'])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"}, check=False)
    assert done.returncode == 0, f"exit code 0, but ONNX Runtime cannot load {path}"


def _check(verb: str, answer: Answer) -> None:
    assert answer.code in TABLE, f"{verb}: exit code {answer.code}\n{answer.stderr}"
    allowed = MOST_SECONDS * slowness()
    assert answer.seconds <= allowed, f"{verb}: {answer.seconds:.1f} s, not {allowed:.1f} s"
    assert answer.peak <= MOST_BYTES, f"{verb}: {answer.peak / 1e6:.0f} MB"
    assert not answer.left
    if answer.code:
        check_refusal(answer, answer.code)
        assert verb not in names_in(answer.cwd.parent / "out")
    elif verb in ("export", "onnxruntime"):
        _loads(answer.cwd.parent / "out" / verb / "model.onnx")


def _answer_all(name: str, folder: Path) -> dict[str, Answer]:
    """Makes one graph and runs the command lines on it."""
    build, _, flags, targets = _CASES[name]
    folder = folder / "model"
    folder.mkdir()
    graph = build(folder)
    (folder / "hostile.onnx").write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    before = names_in(folder)
    inspected = planc(*COMMANDS["inspect"], cwd=folder, timeout=MOST_SECONDS * 6)
    # What cannot even be read is refused alike by all: one more command line shows that nothing is written.
    verbs = ("onnxruntime",) if inspected.code else ("export", *targets)
    answers = {verb: planc(*COMMANDS[verb], *flags, cwd=folder, timeout=MOST_SECONDS * 6) for verb in verbs}
    assert names_in(folder) == before
    return {"inspect": inspected, **answers}


@pytest.fixture(scope="module")
def answers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[dict[str, Answer]]"]]:
    with ahead(request, tmp_path_factory, _answer_all) as futures:
        yield futures


@pytest.mark.parametrize("name", _CASES)
def test_hostile_graph(name: str, answers: dict[str, "Future[dict[str, Answer]]"]) -> None:
    """An answer in 20 s and 1 GB, with an exit code of the table; what is written with exit code 0 loads."""
    codes = _CASES[name][1]
    for verb, answer in answers[name].result().items():
        _check(verb, answer)
        wrong = f"{verb}: exit code {answer.code}, not one of {sorted(codes)}:\n{answer.stderr}"
        assert verb == "inspect" or answer.code in codes, wrong
