"""Moves a padding into the convolution or the pool after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ._base import Miss, Pass
from ._constants import constant, scalar, without_defaults
from ._fusion import near_rules
from ._match import only_use, producer
from ._walk import all_graphs, all_nodes

_PADDED = ("AveragePool", "Conv", "MaxPool")
_NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")


@dataclass(frozen=True)
class FusePad(Pass):
    """Fuses padding: Conv(Pad(x, p)) -> Conv(x, pads=p); the same for AveragePool and MaxPool.

    Zeros before an AveragePool count as its own padding does where it counts that; a MaxPool pads with -inf, which is
    the same as zeros behind a Relu.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuses pools in place, and applies onnxscript's rules for convolutions."""
        pads = [node for node in all_nodes(model) if node.op_type == "Pad"]
        if not pads or any(map(_is_old, pads)):
            return ir.passes.PassResult(model, modified=False)
        from onnxscript.rewriter import RewritePass

        with without_defaults(model):
            modified = bool(RewritePass(_rules())(model).modified)
        for graph in all_graphs(model):
            for node in graph:
                try:
                    modified |= _fuse_pool(graph, node)
                except Miss:
                    continue
        return ir.passes.PassResult(model, modified=modified)

    def near_misses(self, model: ir.Model, /) -> Iterator[tuple[ir.Node, str]]:
        """Yields each Conv and pool behind a Pad, and what is in the way."""
        padded = [node for node in all_nodes(model) if node.op_type in _PADDED and producer(node.inputs[0], "Pad")]
        old = [node for node in all_nodes(model) if node.op_type == "Pad" and _is_old(node)]
        if old:
            yield from ((node, f"the paddings of {old[0].name!r} are an attribute, as in opset 10") for node in padded)
            return
        convs = [node for node in padded if node.op_type == "Conv"]
        with without_defaults(model):
            missed = near_rules(_rules(), model, convs) if convs else []
        yield from missed
        for node in padded:
            try:
                _match(node)
            except Miss as reason:
                yield node, str(reason)


def _is_old(pad: ir.Node) -> bool:
    """Whether its paddings are an attribute, as up to opset 10; upgrade-opset makes them an input."""
    return len(pad.inputs) < 2


def _rules() -> list[Any]:
    """Those of onnxscript, without that for ConvInteger, which pads with its zero point."""
    from onnxscript.rewriter.pattern import MatchResult
    from onnxscript.rewriter.rules import common as rules
    from onnxscript.rewriter.rules.common._fuse_pad_into_conv import NormalizePadFormatConv

    class SpellOutPads(NormalizePadFormatConv):  # type: ignore[misc]
        """Its sums are those of a dense kernel."""

        def check(self, context: Any, conv: ir.Value, **rest: Any) -> Any:
            node = conv.producer()
            assert node is not None
            if any(step != 1 for step in node.attributes.get_ints("dilations", ())):
                return MatchResult().fail("the kernel is dilated")
            return super().check(context, conv, **rest)

    return [SpellOutPads.rule(), rules.fuse_pad_into_conv_rule]


def _fuse_pool(graph: ir.Graph | ir.Function, node: ir.Node) -> bool:
    match = _match(node)
    if match is None:
        return False
    pad, pads = match
    node.replace_input_with(0, pad.inputs[0])
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    if node.op_type == "AveragePool":
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    graph.remove(pad, safe=True)
    return True


def _match(node: ir.Node) -> tuple[ir.Node, list[int]] | None:
    """Returns the Pad before a pool, and the paddings that the pool gets."""
    if node.domain != "" or node.op_type not in ("AveragePool", "MaxPool"):
        return None
    pad = producer(node.inputs[0], "Pad")
    if pad is None or pad.graph is not node.graph:
        return None
    if not only_use(node.inputs[0]):
        raise Miss("something else needs the padded value")
    kernel = list(node.attributes["kernel_shape"].as_ints())
    own = list(node.attributes.get_ints("pads", [0] * 2 * len(kernel)))
    _check_pool(node, own)
    if not _is_padding_of(node, pad):
        raise Miss("the pool pads with another number")
    pads = [one + more for one, more in zip(own, _spatial(pad, len(kernel)), strict=True)]
    if any(size >= extent for size, extent in zip(pads, kernel * 2, strict=True)):
        raise Miss("a window would see the padding only")
    return pad, pads


def _check_pool(node: ir.Node, own: list[int]) -> None:
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Miss("the pool computes its padding")
    if node.attributes.get_int("ceil_mode", 0) == 1:
        raise Miss("windows may reach beyond the padding")
    if any(step != 1 for step in node.attributes.get_ints("dilations", ())):
        raise Miss("the windows are dilated")
    if len(node.outputs) > 1:
        raise Miss("the indices of the maxima count the padding")
    if node.op_type == "AveragePool" and any(own) and node.attributes.get_int("count_include_pad", 0) == 0:
        raise Miss("the pool does not count its own padding")


def _is_padding_of(node: ir.Node, pad: ir.Node) -> bool:
    """Whether the number that is padded with changes nothing against the pool's own padding."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        raise Miss("the padding is no constant")
    given = pad.inputs[2] if len(pad.inputs) > 2 else None
    number = 0.0 if given is None else scalar(given)
    if number is None:
        raise Miss("the number that is padded with is no constant")
    if node.op_type == "AveragePool":
        return number == 0
    before = pad.inputs[0].producer() if pad.inputs[0] is not None else None
    positive = before is not None and before.domain == "" and before.op_type in _NOT_NEGATIVE
    return number == -np.inf or (number == 0 and positive)


def _spatial(pad: ir.Node, count: int) -> list[int]:
    """The paddings of the last `count` axes, first those at the beginning."""
    array, axes = constant(pad.inputs[1]), pad.inputs[3] if len(pad.inputs) > 3 else None
    chosen = np.arange(count + 2) if axes is None else constant(axes)
    if array is None or chosen is None:
        raise Miss("the paddings are no constants")
    if array.size != 2 * chosen.size:
        raise Miss("the paddings are not those of an image")
    full = np.zeros((2, count + 2), dtype=np.int64)
    full[:, chosen] = array.reshape(2, -1)
    if (full < 0).any() or full[:, :2].any():
        raise Miss("the padding cuts, or is one of batch or channels")
    return [int(size) for size in full[:, 2:].reshape(-1)]
