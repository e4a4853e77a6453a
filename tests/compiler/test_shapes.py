"""The shape language."""

import pytest

from planc.compiler.errors import UsageError
from planc.compiler.shapes import Dim, Point, TensorSpec, check_dims, parse_dim, parse_input, points


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x=float32[batch,3,224,224]", TensorSpec("x", "float32", ("batch", 3, 224, 224))),
        (" x = float32[ batch , 3 ]", None),
        ("x=float32[batch, 3]", TensorSpec("x", "float32", ("batch", 3))),
        ("scalar=int64[]", TensorSpec("scalar", "int64", ())),
        ("ids=int64[batch,seq]:0..30521", TensorSpec("ids", "int64", ("batch", "seq"), 0, 30521)),
        ("x=float32[2]:-1.5..2.5", TensorSpec("x", "float32", (2,), -1.5, 2.5)),
        ("a.b/c:0=uint8[1]", TensorSpec("a.b/c:0", "uint8", (1,))),
    ],
)
def test_parse_input(text: str, spec: TensorSpec | None) -> None:
    if spec is None:
        with pytest.raises(UsageError):
            parse_input(text)
    else:
        assert parse_input(text) == spec


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("x", "Write --input 'x=float32[batch,3,224,224]'"),
        ("x=float32", "Write --input"),
        ("x=float31[1]", "Did you mean 'float32'?"),
        ("x=flaot16[1]", "Did you mean 'float16'?"),
        ("x=float32[0]", "Write --input"),
        ("x=float32[-1]", "Write --input"),
        ("x=float32[1,,2]", "Write --input"),
        ("x=int64[1]:5..2", "Write :2..5"),
        ("x=int64[1]:a..b", "Write --input 'ids=int64[batch,seq]:0..30521'"),
        ("x=float32[1]:nan..1", "Write --input"),
        ("x=float32[1]:0..inf", "Write --input"),
        ("x=uint8[1]:0..300", "within 0..255"),
        ("x=uint8[1]:-1..3", "within 0..255"),
        ("x=int8[1]:0..128", "within -128..127"),
        ("x=int64[1]:0..1e30", "within -9223372036854775808..9223372036854775807"),
        ("x=int64[1]:0.5..1.5", "whole numbers"),
    ],
)
def test_bad_input_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    assert hint in caught.value.hint
    assert repr(text) in caught.value.what


@pytest.mark.parametrize(
    ("text", "dim"),
    [
        ("batch=1..32@8", Dim("batch", (1, 8, 32), 8)),
        ("batch=1..32", Dim("batch", (1, 32), 1)),
        ("batch=8", Dim("batch", (8,), 8)),
        ("batch=4..4", Dim("batch", (4,), 4)),
        ("seq=128|512|256", Dim("seq", (128, 256, 512), 128, choice=True)),
        ("seq= 16 | 16", Dim("seq", (16,), 16)),
        ("p2o.DynamicDimension.0=1", Dim("p2o.DynamicDimension.0", (1,), 1)),
        ("2*s0=2..4", Dim("2*s0", (2, 4), 2)),
        ("?=48", Dim("?", (48,), 48)),
    ],
)
def test_parse_dim(text: str, dim: Dim) -> None:
    assert parse_dim(text) == dim


def test_dim_tells_its_bounds() -> None:
    dim = parse_dim("seq=256|128|512")
    assert (dim.min, dim.opt, dim.max) == (128, 256, 512)
    assert str(dim) == "seq=128..512@256"
    assert str(parse_dim("batch=8")) == "batch=8"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("batch", "Write --dim batch=1..32@8"),
        ("=3", "Write --dim batch=1..32@8"),
        ("batch=", "Write --dim"),
        ("batch=0..4", "Write --dim batch=1..4"),
        ("batch=8..2", "Write --dim batch=2..8@8"),
        ("batch=1..4@9", "Write --dim batch=1..4"),
        ("batch=1|x", "batch=128|256"),
        ("batch=0", "batch=8"),
        ("two words=4", "Write --dim"),
    ],
)
def test_bad_dim_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dim(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize("text", ["batch=0..4", "batch=8..2", "batch=1..4@9", "batch=0..0", "batch=3..8@1"])
def test_the_hint_for_bad_bounds_parses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dim(text)
    parse_dim(caught.value.hint.removeprefix("Write --dim "))


def test_points_are_opt_min_max_and_each_choice() -> None:
    dims = (parse_dim("batch=1..8@4"), parse_dim("seq=32|16|64|128"))
    assert points(dims) == (
        Point("opt", {"batch": 4, "seq": 32}),
        Point("min", {"batch": 1, "seq": 16}),
        Point("max", {"batch": 8, "seq": 128}),
        Point("seq=64", {"batch": 4, "seq": 64}),
    )


def test_points_with_equal_sizes_are_given_once() -> None:
    assert [point.label for point in points((parse_dim("batch=8"),))] == ["opt"]
    assert [point.label for point in points((parse_dim("batch=1..8"),))] == ["opt", "max"]
    assert points(()) == (Point("opt", {}),)


def test_spec_at_sizes() -> None:
    spec = parse_input("x=float32[batch,3,seq,seq]")
    assert spec.symbols == ("batch", "seq", "seq")
    assert spec.at({"batch": 2, "seq": 5}) == (2, 3, 5, 5)
    assert str(spec) == "x=float32[batch,3,seq,seq]"


def test_check_dims_accepts_what_fits() -> None:
    check_dims([parse_input("x=float32[batch,3]")], [parse_dim("batch=1..4")])
    check_dims([parse_input("x=float32[3]")], [])


@pytest.mark.parametrize(
    ("inputs", "dims", "what", "hint"),
    [
        (["x=float32[batch]"], [], "'batch' without sizes", "Add --dim batch=1..8@1"),
        (["x=float32[batch]"], ["bach=1..4"], "--dim bach", "Did you mean 'batch'?"),
        (["x=float32[3]"], ["batch=1..4"], "--dim batch", "leave --dim out"),
        (["x=float32[1]", "x=float32[2]"], [], "--input x is given twice", "Keep one"),
        (["x=float32[n]"], ["n=1", "n=2"], "--dim n is given twice", "Keep one"),
    ],
)
def test_check_dims_refuses(inputs: list[str], dims: list[str], what: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_dims([parse_input(text) for text in inputs], [parse_dim(text) for text in dims])
    assert what in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize(("given", "meant"), [("float", "float32"), ("double", "float64"), ("int", "int64")])
def test_names_of_other_languages_are_told(given: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_input(f"x={given}[2]")
    assert caught.value.hint == f"Did you mean {meant!r}?"
