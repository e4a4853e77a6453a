"""Bugs that users reported of other optimizers: none of them may be one of ours.

Each case is the smallest graph of the kind that the thread describes. It goes through every preset; the outputs must
be those of ONNX Runtime on the source without optimizations, the signature must stay, and the result must be valid.
Where a thread's own model was an attachment, the graph is one of the kind that its text names.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from planc.compiler.optimize import apply
from planc.passes import PRESETS

Arrays = Mapping[str, np.ndarray]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def make(text: str, /, opset: int = 18, **arrays: np.ndarray) -> onnx.ModelProto:
    text = text.strip()
    head = f'<ir_version: 10, opset_import: ["": {opset}]>\n'
    model = onnx.parser.parse_model(text if text.startswith("<") else head + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, feed: Arrays) -> list[np.ndarray]:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings).run(None, dict(feed))


@pytest.fixture(params=PRESETS)
def optimized(request: pytest.FixtureRequest) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """Runs a whole preset: no pass may fail, the signature stays, and the ONNX checker accepts the result."""

    def optimize(source: onnx.ModelProto) -> onnx.ModelProto:
        model, _, left_out = apply(lambda: ir.from_proto(source), PRESETS[request.param])
        assert left_out == {}
        made = ir.to_proto(model)
        onnx.checker.check_model(made, full_check=True)
        assert [value.name for value in made.graph.output] == [value.name for value in source.graph.output]
        assert list(made.graph.input) == list(source.graph.input)
        for was, now in zip(source.graph.output, made.graph.output, strict=True):
            assert now.type.tensor_type.elem_type == was.type.tensor_type.elem_type
        return made

    return optimize


@pytest.fixture
def same(optimized: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """Optimizes, and holds the outputs of source and result side by side for every feed."""

    def compare(source: onnx.ModelProto, *feeds: Arrays) -> onnx.ModelProto:
        made = optimized(source)
        for feed in feeds:
            for was, now in zip(run(source, feed), run(made, feed), strict=True):
                assert (was.dtype, was.shape) == (now.dtype, now.shape)
                np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-5)
        return made

    return compare


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


Same = Callable[..., onnx.ModelProto]


@pytest.mark.parametrize(
    "bounds",
    [
        ((1, 7, 1, 1), (1, 4, 1, 1)),
        ((1, 7, 1, 1), (0, 2, 0, 1)),
        ((0, 8, 1, 2), (1, 3, 1, 1)),
        ((-3, 99, 1, 1), (0, -1, 1, 1)),
        ((7, -99, 1, -1), (1, 3, 1, 1)),
    ],
    ids=["one axis", "two axes", "steps", "negative", "backwards"],
)
def test_slices_of_slices(bounds: tuple[tuple[int, ...], ...], same: Same) -> None:
    """OnnxSlim's EliminationSlice changed outputs: https://github.com/inisis/OnnxSlim/issues/277."""
    names = ("start", "end", "axis", "step")
    arrays = {
        f"{name}{index}": np.array([number])
        for index in (0, 1)
        for name, number in zip(names, bounds[index], strict=True)
    }
    source = make(
        """g (float[4,8] x) => (float[p,q] y, float[p,r] z) {
          a = Slice(x, start0, end0, axis0, step0)
          y = Slice(a, start1, end1, axis1, step1)
          z = Neg(a)
        }""",
        **arrays,
    )
    same(source, {"x": draw(4, 8)})


def test_a_slice_before_and_after_a_concat_is_an_output(same: Same) -> None:
    """Outputs lost their producer where a Concat was removed: https://github.com/inisis/OnnxSlim/issues/329."""
    source = make("""g (float[n,4] x) => (float[n,4] a, float[n,4] y, float[n,4] z) {
      a = Neg(x)
      y = Concat<axis=1>(a)
      b = Exp(x)
      z = Concat<axis=0>(b)
    }""")
    assert ops(same(source, {"x": draw(3, 4)}))["Concat"] <= 1


def test_an_input_that_is_passed_on(same: Same) -> None:
    """Input -> Identity -> output became nothing: https://github.com/inisis/OnnxSlim/pull/314."""
    source = make("g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Identity(x) z = Dropout(x) }")
    same(source, {"x": draw(3, 4)})


def test_the_same_computation_gives_two_outputs(same: Same) -> None:
    """A duplicate that was an output was removed: https://github.com/inisis/OnnxSlim/pull/308."""
    source = make("""g (float[n,4] x) => (float[n,4] y, float[n,4] z, float[n,4] w) {
      a = Relu(x)
      y = Relu(x)
      z = Relu(x)
      w = Neg(a)
    }""")
    same(source, {"x": draw(3, 4)})


def test_a_padding_of_two_convolutions(same: Same) -> None:
    """The second one lost its input: https://github.com/inisis/OnnxSlim/pull/21."""
    source = make(
        """g (float[n,3,8,8] x) => (float[n,4,a,b] y, float[n,4,c,d] z) {
          q = Pad(x, pads)
          y = Conv<kernel_shape=[3,3], pads=[0,0,0,0]>(q, w1)
          z = Conv<kernel_shape=[5,5], pads=[0,0,0,0]>(q, w2)
        }""",
        pads=np.array([0, 0, 2, 2, 0, 0, 2, 2]),
        w1=draw(4, 3, 3, 3),
        w2=draw(4, 3, 5, 5),
    )
    same(source, {"x": draw(2, 3, 8, 8)})


def test_a_padding_of_batch_and_channels(same: Same) -> None:
    """The reproduction of the thread pads other axes than the two last: https://github.com/inisis/OnnxSlim/pull/21."""
    source = make(
        "g (float[n,3,8,8] x) => (float[a,b,c,d] y) { q = Pad(x, pads) y = Conv(q, w) }",
        pads=np.array([2, 0, 2, 0, 2, 0, 2, 0]),
        w=draw(4, 3, 3, 3),
    )
    same(source, {"x": draw(1, 3, 8, 8)})


def test_a_padding_that_is_computed(same: Same) -> None:
    """It was taken for a constant: https://github.com/tsingmicro-toolchain/OnnxSlim/issues/4."""
    source = make(
        "g (float[n,3,8,8] x, int64[8] p) => (float[n,4,c,d] y) { q = Pad(x, p) y = Conv(q, w) }", w=draw(4, 3, 3, 3)
    )
    same(source, {"x": draw(1, 3, 8, 8), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])})


@pytest.mark.parametrize("auto_pad", ["VALID", "NOTSET", "SAME_UPPER"])
def test_a_padding_before_auto_pad(auto_pad: str, same: Same) -> None:
    """The padding of a convolution with auto_pad got lost: https://github.com/onnx/onnx/issues/3259."""
    source = make(
        f"""g (float[n,3,8,8] x) => (float[n,4,c,d] y) {{
          q = Pad(x, p)
          y = Conv<auto_pad="{auto_pad}", strides=[2,2]>(q, w)
        }}""",
        p=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        w=draw(4, 3, 3, 3),
    )
    same(source, {"x": draw(1, 3, 8, 8)})


@pytest.mark.parametrize(
    ("pool", "number"),
    [
        ("AveragePool", 0.0),
        ("AveragePool", 1.0),
        ("AveragePool<count_include_pad=1>", 0.0),
        ("AveragePool<count_include_pad=1>", 1.0),
        ("MaxPool", 0.0),
        ("MaxPool", 1.0),
        ("MaxPool", -np.inf),
    ],
)
def test_a_padding_before_a_pool(pool: str, number: float, same: Same) -> None:
    """The pass fuse_pad_into_pool changed outputs: https://github.com/onnx/optimizer/issues/269."""
    words = pool.replace(">", ", kernel_shape=[3,3]>") if "<" in pool else f"{pool}<kernel_shape=[3,3]>"
    source = make(
        f"g (float[n,3,8,8] x) => (float[n,3,c,d] y) {{ q = Pad(x, p, v) y = {words}(q) }}",
        p=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        v=np.array(number, np.float32),
    )
    same(source, {"x": -np.abs(draw(1, 3, 8, 8))})


@pytest.mark.parametrize("attributes", ["start=2", "start=-2", "end=2", "end=-1", "start=1, end=3", "start=3, end=1"])
def test_a_part_of_a_shape(attributes: str, same: Same) -> None:
    """start and end of Shape were ignored: https://github.com/tsingmicro-toolchain/OnnxSlim/issues/38."""
    source = make(f"g (float[n,3,8,6] x) => (int64[k] y) {{ s = Shape<{attributes}>(x) y = Add(s, s) }}")
    same(source, {"x": draw(2, 3, 8, 6)})


def test_a_product_that_is_the_second_summand_and_is_used_twice(same: Same) -> None:
    """Other users of the sum lost their input: https://github.com/inisis/OnnxSlim/issues/160."""
    source = make(
        """g (float[n,4] x) => (float[n,5] y, float[n,5] z) {
          a = MatMul(x, w)
          b = Add(c, a)
          d = Mul(b, s)
          y = Add(d, b)
          z = Neg(a)
        }""",
        w=draw(4, 5),
        c=draw(5, seed=1),
        s=draw(5, seed=2),
    )
    same(source, {"x": draw(3, 4)})


def test_states_of_an_lstm_that_are_sized_by_the_batch(same: Same) -> None:
    """Folding broke a speech model with a dynamic batch: https://github.com/inisis/OnnxSlim/issues/15.

    Its model is not public: this is the part of such an export that folding touches, states of zeros by Shape.
    """
    source = make(
        """g (float[t,b,4] x) => (float[t,d,b,3] y) {
          s = Shape(x)
          one = Constant<value = int64 {1}>()
          batch = Gather<axis=0>(s, one)
          first = Constant<value_ints = [0]>()
          column = Unsqueeze(batch, first)
          ones = Constant<value_ints = [1]>()
          three = Constant<value_ints = [3]>()
          sizes = Concat<axis=0>(ones, column, three)
          zeros = ConstantOfShape(sizes)
          y, h, c = LSTM<hidden_size=3>(x, w, r, , , zeros, zeros)
        }""",
        w=draw(1, 12, 4),
        r=draw(1, 12, 3, seed=1),
    )
    made = same(source, {"x": draw(5, 2, 4)}, {"x": draw(3, 7, 4)}, {"x": draw(3, 1, 4)})
    assert made.graph.input[0].type.tensor_type.shape.dim[1].dim_param == "b"


def test_an_empty_part_of_a_concat(same: Same) -> None:
    """A roll by nothing: https://github.com/inisis/OnnxSlim/issues/327."""
    source = make(
        """g (float[n,4] x) => (float[n,4] y) {
          left = Slice(x, four, four, axis)
          right = Slice(x, zero, four, axis)
          y = Concat<axis=1>(left, right)
        }""",
        zero=np.array([0]),
        four=np.array([4]),
        axis=np.array([1]),
    )
    same(source, {"x": draw(3, 4)})


def test_a_folded_concat_of_several_reshapes(same: Same) -> None:
    """Consumers kept a name that nothing produced: https://github.com/inisis/OnnxSlim/issues/305."""
    source = make(
        """g (float[n,4] x, float[n,4] z) => (float[a,2,2] u, float[b,2,2] v, float[c,2,2] w) {
          s = Concat<axis=0>(m, two, two)
          u = Reshape(x, s)
          v = Reshape(z, s)
          p = Neg(x)
          w = Reshape(p, s)
        }""",
        m=np.array([-1]),
        two=np.array([2]),
    )
    same(onnx.shape_inference.infer_shapes(source), {"x": draw(3, 4), "z": draw(3, 4, seed=1)})


def test_a_tile_does_not_bloat_the_file(same: Same) -> None:
    """Folded Tiles made files larger than 2 GB: https://github.com/onnxsim/onnxsim/issues/178."""
    source = make(
        "g (float[1000,1000] x) => (float[1000,1000] y) { t = Tile(c, r) y = Add(x, t) }",
        c=draw(1, 1000),
        r=np.array([1000, 1]),
    )
    made = same(source, {"x": draw(1000, 1000)})
    assert made.ByteSize() < 20_000


def test_folded_weights_are_not_kept_twice(same: Same) -> None:
    """Transposed weights stayed beside the originals: https://github.com/onnxsim/onnxsim/issues/174."""
    source = make(
        "g (float[n,100] x) => (float[n,100] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }", w=draw(100, 100)
    )
    made = same(source, {"x": draw(3, 100)})
    assert made.ByteSize() < 1.2 * source.ByteSize()


def test_dynamic_sizes_stay_dynamic(same: Same) -> None:
    """Outputs were no longer dynamic: https://github.com/onnxsim/onnxsim/issues/101."""
    source = make(
        """g (float[n,4] x) => (float[n,2,2] y) {
          s = Shape(x)
          i = Constant<value_ints = [0]>()
          b = Gather(s, i)
          t = Constant<value_ints = [2]>()
          z = Concat<axis=0>(b, t, t)
          y = Reshape(x, z)
        }"""
    )
    made = same(source, *({"x": draw(batch, 4)} for batch in (1, 3, 8)))
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (made.graph.input[0], made.graph.output[0])] == [
        "n",
        "n",
    ]


def test_quantized_weights_stay_quantized(same: Same) -> None:
    """DequantizeLinear of weights became float weights: https://github.com/onnxsim/onnxsim/issues/216."""
    source = make(
        """g (float[n,3,8,8] x) => (float[n,4,6,6] y) {
          q = QuantizeLinear(x, sx, zx)
          d = DequantizeLinear(q, sx, zx)
          f = DequantizeLinear<axis=0>(w, sw, zw)
          y = Conv(d, f)
        }""",
        sx=np.array(0.02, np.float32),
        zx=np.array(128, np.uint8),
        w=np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3), dtype=np.int8),
        sw=np.array([0.01, 0.02, 0.03, 0.04], np.float32),
        zw=np.zeros(4, np.int8),
    )
    made = same(source, {"x": draw(1, 3, 8, 8)})
    assert ops(made) == ops(source)
    assert initializers(made)["w"].data_type == TensorProto.INT8


def test_a_scalar_bias_of_a_convolution(same: Same) -> None:
    """The bias can be a scalar: https://github.com/onnx/optimizer/issues/3."""
    source = make(
        "g (float[n,3,8,8] x) => (float[n,4,6,6] y) { a = Conv(x, w) y = Add(a, b) }",
        w=draw(4, 3, 3, 3),
        b=np.array(0.5, np.float32),
    )
    same(source, {"x": draw(1, 3, 8, 8)})


def test_transposes_that_do_not_commute(same: Same) -> None:
    """They were merged in the wrong order: https://github.com/onnx/onnx/issues/2446."""
    source = make("""g (float[2,3,4] x) => (float[3,4,2] z) {
      y = Transpose<perm=[1,0,2]>(x)
      z = Transpose<perm=[0,2,1]>(y)
    }""")
    assert ops(same(source, {"x": draw(2, 3, 4)})) == {"Transpose": 1}


@pytest.mark.parametrize(
    ("shape", "first", "second", "result"),
    [
        ("1,1,3,1", [0], [0], "3,1"),
        ("3,1,2,1", [1], [2], "3,2"),
        ("1,1,3,1", [-1], [0], "1,3"),
        ("1,1,1,3", [0, 2], [0], "3"),
    ],
)
def test_squeezes_of_squeezes(shape: str, first: list[int], second: list[int], result: str, same: Same) -> None:
    """Merged ones mixed up their axes: https://github.com/onnx/optimizer/issues/253."""
    source = make(
        f"g (float[{shape}] x) => (float[{result}] y) {{ a = Squeeze(x, f) y = Squeeze(a, s) }}",
        f=np.array(first),
        s=np.array(second),
    )
    same(source, {"x": draw(*map(int, shape.split(",")))})


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("bias", ["c", ""])
def test_beta_of_a_gemm_before_batch_normalization(beta: float, bias: str, same: Same) -> None:
    """beta was applied twice or not at all: https://github.com/microsoft/onnxscript/pull/3027."""
    operands = ", ".join(filter(None, ("x", "w", bias)))
    source = make(
        f"""g (float[n,6] x) => (float[n,4] y) {{
          a = Gemm<beta={beta}, alpha=0.5>({operands})
          y = BatchNormalization(a, scale, shift, mean, var)
        }}""",
        w=draw(6, 4),
        c=draw(4, seed=1),
        scale=draw(4, seed=2),
        shift=draw(4, seed=3),
        mean=draw(4, seed=4),
        var=np.abs(draw(4, seed=5)) + 0.5,
    )
    assert ops(same(source, {"x": draw(3, 6)})) == {"Gemm": 1}


def test_weights_of_two_convolutions_before_batch_normalization(same: Same) -> None:
    """A fused weight took the name of the other's: https://github.com/onnx/optimizer/issues/174."""
    norm = {"scale": draw(4, seed=2), "shift": draw(4, seed=3), "mean": draw(4, seed=4), "var": np.abs(draw(4)) + 0.5}
    source = make(
        """g (float[n,3,8,8] x) => (float[n,4,6,6] y, float[n,4,6,6] z, float[4] b) {
          a = Conv(x, w)
          y = BatchNormalization(a, scale, shift, mean, var)
          c = Conv(x, v)
          z = BatchNormalization(c, scale, shift, mean, var)
          b = Neg(w_bias)
        }""",
        w=draw(4, 3, 3, 3),
        v=draw(4, 3, 3, 3, seed=1),
        w_bias=draw(4, seed=7),
        **norm,
    )
    same(source, {"x": draw(1, 3, 8, 8)})


def test_reshapes_of_reshapes_share_their_operand(same: Same) -> None:
    """Two matches clobbered one initializer: https://github.com/microsoft/onnxscript/issues/2945."""
    source = make(
        """g (float[2,12] x, float[3,8] z) => (float[2,2,6] y, float[2,3,4] u) {
          a = Reshape(x, first)
          y = Reshape(a, shared)
          b = Reshape(z, first)
          d = Reshape(b, shared)
          u = Reshape(d, last)
        }""",
        first=np.array([-1]),
        shared=np.array([2, 2, -1]),
        last=np.array([2, 3, 4]),
    )
    same(source, {"x": draw(2, 12), "z": draw(3, 8)})


def _branches(then: list[onnx.NodeProto], other: list[onnx.NodeProto], **arrays: np.ndarray) -> dict[str, Any]:
    """The two graphs of an If whose last nodes give the output; the arrays are initializers of the first."""
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    output = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None) for nodes in (then, other)]
    return {
        "then_branch": helper.make_graph(then, "then", [], [output[0]], weights),
        "else_branch": helper.make_graph(other, "else", [], [output[1]]),
    }


def test_axes_of_a_squeeze_in_a_branch(same: Same) -> None:
    """Inlining an If lost the branch's initializer: https://github.com/microsoft/onnxscript/issues/2810."""
    squeeze = helper.make_node("Squeeze", ["a", "axes"], ["s"])
    keep = helper.make_node("Identity", ["a"], ["k"])
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "i"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["c"]),
        helper.make_node("If", ["c"], ["r"], **_branches([squeeze], [keep], axes=np.array([1]))),
        helper.make_node("Exp", ["r"], ["y"]),
    ]
    weights = {"i": np.array(1), "one": np.array(1)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made = same(source, {"x": draw(3, 1, 4)})
    assert "If" not in ops(made)


def test_an_output_of_a_branch_is_folded(same: Same) -> None:
    """The branch's output was no longer computed: https://github.com/microsoft/onnxscript/issues/2728."""
    source = make("""g (bool c, float[n,4] x) => (float[a,b] y, float[2] z) {
      y = If(c) <
        then_branch = t () => (float[a,b] p) {
          two = Constant<value = int64[2] {2, 3}>()
          p = ConstantOfShape<value = float[1] {1.0}>(two)
        },
        else_branch = e () => (float[a,b] q) { q = Neg(x) }
      >
      s = Constant<value = int64[1] {2}>()
      z = ConstantOfShape<value = float[1] {3.0}>(s)
    }""")
    same(source, *({"c": np.array(condition), "x": draw(3, 4)} for condition in (True, False)))


def test_constants_inside_a_function(same: Same) -> None:
    """What was folded in a function was missing from the graph: https://github.com/microsoft/onnxscript/issues/2673."""
    source = make("""<ir_version: 9, opset_import: ["this" : 1, "" : 19]>
    model (float x) => (float return_val) { [n0] return_val = this.function (x) }
    <domain: "this", opset_import: ["" : 19]>
    function (x) => (return_val)
    {
      [n0] tmp = Constant <value_int: int = 1> ()
      [n1] tmp_0 = Cast <to: int = 1> (tmp)
      [n2] return_val = Sub (tmp_0, x)
    }""")
    same(source, {"x": np.array(3, np.float32)})


def test_a_resize_of_a_constant(same: Same) -> None:
    """Folding it never ended: https://github.com/microsoft/onnxscript/issues/2859."""
    source = make(
        """g (float[1,1,8,8] x) => (float[1,1,8,8] y) {
          r = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(c, , , sizes)
          y = Add(x, r)
        }""",
        c=draw(1, 1, 4, 4),
        sizes=np.array([1, 1, 8, 8]),
    )
    same(source, {"x": draw(1, 1, 8, 8)})


@pytest.mark.parametrize(
    ("dtype", "number"), [(ml_dtypes.bfloat16, TensorProto.BFLOAT16), (np.float16, TensorProto.FLOAT16)]
)
def test_constants_of_few_bits(dtype: Any, number: int, same: Same) -> None:
    """bfloat16 became uint16: https://github.com/microsoft/onnxscript/issues/2187 and /issues/1893."""
    source = make(
        f"""g (float[n,4] x) => (float[n,4] y) {{
          t = Cast<to={number}>(two)
          c = Concat<axis=0>(t, p)
          r = Reshape(c, s)
          f = Cast<to=1>(r)
          y = Mul(x, f)
        }}""",
        two=np.array([2.1, 3.3], np.float32),
        p=np.array([1.7, 5], dtype),
        s=np.array([1, 4]),
    )
    assert ops(same(source, {"x": draw(3, 4)})) == {"Mul": 1}


def test_bfloat16_stays_bfloat16(optimized: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """The graph of https://github.com/microsoft/onnxscript/issues/2187, which ONNX Runtime does not run on the CPU."""
    source = make(
        """g (bfloat16[1,10] x) => (bfloat16[1,10] y) {
          one = Cast<to=16>(c)
          a = Mul(x, one)
          y = Mul(a, param)
        }""",
        c=np.array(1.5, np.float32),
        param=np.array(2, ml_dtypes.bfloat16),
    )
    made = optimized(source)
    assert {tensor.data_type for tensor in made.graph.initializer} == {TensorProto.BFLOAT16}
    assert sorted(float(numpy_helper.to_array(tensor)) for tensor in made.graph.initializer) == [1.5, 2]


def test_a_sequence_of_one_part(same: Same) -> None:
    """A split into one part failed: https://github.com/microsoft/onnxscript/pull/1872."""
    source = make(
        """g (float[3,4] x) => (float[3,4] y) {
          s = SplitToSequence<axis=1>(x, sizes)
          y = SequenceAt(s, i)
        }""",
        sizes=np.array([4]),
        i=np.array(0),
    )
    same(source, {"x": draw(3, 4)})


def test_a_sequence_without_sizes(same: Same) -> None:
    """split is optional: https://github.com/microsoft/onnxscript/pull/2550."""
    source = make(
        """g (float[3,4] x) => (float[1,4] y, float[4] z) {
          s = SplitToSequence(x)
          y = SequenceAt(s, i)
          t = SplitToSequence<keepdims=0>(x)
          z = SequenceAt(t, i)
        }""",
        i=np.array(1),
    )
    same(source, {"x": draw(3, 4)})


def test_zeros_of_both_signs(same: Same) -> None:
    """-0 and 0 became one initializer: https://github.com/pytorch/pytorch/pull/192607."""
    source = make(
        """g (float[n,2] x) => (float[n,2] y, float[n,2] z) {
          p = Add(x, plus)
          a = Div(x, plus)
          y = Mul(a, a)
          z = Div(x, minus)
        }""",
        plus=np.array([0.0, 1.0], np.float32),
        minus=np.array([-0.0, 1.0], np.float32),
    )
    same(source, {"x": np.array([[2, 3]], np.float32)})


def test_two_runs_give_the_same_bytes(optimized: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Rules applied in some runs only: https://github.com/microsoft/onnxscript/issues/2878."""
    source = make(
        """g (float[n,4] x) => (float[m,2] y) {
          a = Reshape(x, first)
          b = Reshape(a, second)
          c = Transpose<perm=[1,0]>(b)
          d = Transpose<perm=[1,0]>(c)
          e = Cast<to=11>(d)
          y = Cast<to=1>(e)
        }""",
        first=np.array([-1]),
        second=np.array([-1, 2]),
    )
    assert len({optimized(source).SerializeToString(deterministic=True) for _ in range(3)}) == 1


def test_outputs_are_not_deleted(same: Same) -> None:
    """One output was gone: https://github.com/onnxsim/onnxsim/issues/227."""
    source = make(
        "g (float[n,4] x) => (float[n,4] y, float[2] c, float[2] d) { y = Neg(x) d = Add(e, e) }",
        c=np.array([1, 2], np.float32),
        e=np.array([3, 4], np.float32),
    )
    same(source, {"x": draw(3, 4)})


def test_names_of_branches_may_be_alike(same: Same) -> None:
    """A name was an output several times after inlining: https://github.com/onnxsim/onnxsim/issues/53."""
    branches = [
        _branches(
            [helper.make_node("Neg", ["x"], ["t"]), helper.make_node("Exp", ["t"], ["out"])],
            [helper.make_node("Abs", ["x"], ["t"]), helper.make_node("Sqrt", ["t"], ["out"])],
        )
        for _ in range(2)
    ]
    nodes = [
        helper.make_node("If", ["yes"], ["p"], **branches[0]),
        helper.make_node("If", ["no"], ["q"], **branches[1]),
        helper.make_node("Relu", ["x"], ["u"]),
        helper.make_node("Sum", ["p", "q", "u"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.array(flag), name) for name, flag in (("yes", True), ("no", False))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    made = same(source, {"x": draw(3, 4)})
    assert ops(made) == {"Neg": 1, "Exp": 1, "Abs": 1, "Sqrt": 1, "Relu": 1, "Sum": 1}


def test_a_transpose_that_does_nothing_before_a_product(same: Same) -> None:
    """ONNX Runtime takes it for a real one: https://github.com/microsoft/onnxruntime/issues/32228; it must be gone."""
    source = make(
        "g (float[4,4] x) => (float[4,4] y) { t = Transpose<perm=[0,1]>(x) m = MatMul(t, w) y = Add(m, b) }",
        w=draw(4, 4),
        b=draw(4, seed=1),
    )
    made = same(source, {"x": draw(4, 4, seed=2)})
    assert "Transpose" not in ops(made)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    now = onnxruntime.InferenceSession(made.SerializeToString(), settings).run(None, {"x": draw(4, 4, seed=2)})
    np.testing.assert_allclose(now[0], run(source, {"x": draw(4, 4, seed=2)})[0], rtol=1e-4, atol=1e-5)
