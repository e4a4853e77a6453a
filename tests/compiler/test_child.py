"""The process that a worker's function runs in: what it puts off importing still works. More in test_worker.py."""

from collections.abc import Callable

import pytest

START = "import sys; from planc.compiler import child; sys.meta_path[:0] = [child._Later()];"


def _run(python: Callable[..., str], code: str) -> list[str]:
    return python(START + code).split()


@pytest.mark.parametrize(
    ("module", "put_off"),
    [
        ("onnxscript.optimizer._constant_folding", "onnxscript.onnx_opset"),
        ("onnx_ir", "sympy.core"),
    ],
)
def test_what_is_put_off_is_not_imported(module: str, put_off: str, python: Callable[..., str]) -> None:
    assert _run(python, f"import {module}; print({put_off!r} in sys.modules)") == ["False"]


@pytest.mark.parametrize(
    "code",
    [
        "import onnxscript.optimizer._constant_folding, onnxscript; print(onnxscript.opset18.version)",
        "from onnxscript import ir, script, opset18; print(ir is not None and opset18.version)",
        "import onnxscript.optimizer._constant_folding; from onnxscript.optimizer import optimize_ir; print(18)",
        "from onnxscript.version_converter import ConvertVersionPass; print(ConvertVersionPass(18).target_version)",
        "import onnxscript.optimizer._constant_folding, onnxscript; print(onnxscript.__version__[:2] and 18)",
        "import onnxscript.rewriter.rules.common, onnxscript; print(hasattr(onnxscript, 'nothing') or 18)",
    ],
)
def test_it_is_there_once_it_is_wanted(code: str, python: Callable[..., str]) -> None:
    assert _run(python, code) == ["18"]


def test_modules_of_protobuf_too(python: Callable[..., str]) -> None:
    code = "import onnx; from google.protobuf import json_format; print(json_format.MessageToJson(onnx.ModelProto()))"
    assert _run(python, code) == ["{}"]


def test_a_name_that_a_package_lacks_is_an_attribute_error(python: Callable[..., str]) -> None:
    code = """
import onnxscript
try:
    onnxscript.nothing
except AttributeError as error:
    print("nothing" in str(error))"""
    assert _run(python, "\n" + code) == ["True"]


def test_protocols_are_what_they_were(python: Callable[..., str]) -> None:
    code = """
import onnx_ir as ir
from typing import Protocol, runtime_checkable
@runtime_checkable
class Sized(Protocol):
    size: int
class Own:
    size = 3
child._remember_protocols()
for _ in range(2):
    print(isinstance(ir.tensor([1.0]), ir.TensorProtocol), isinstance([], ir.TensorProtocol), isinstance(Own(), Sized))
"""
    assert _run(python, code) == ["True", "False", "True"] * 2
