"""Recognizes scaled dot-product attention, with or without the heads' transpositions around it."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ._base import Miss
from ._constants import scalar
from ._fusion import Fused, Fusion
from ._match import maker, only_use, orders, producer, require, source, text, user

_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class FuseAttention(Fusion):
    """Fuses attention: MatMul(Softmax(MatMul(q, k^T) * scale + mask), v) -> Attention(q, k, v, mask).

    Where q, k, v and the result are split into heads and joined again by Reshape and Transpose, these go too. Grouped
    keys and values are left to group-queries. The mask must have the size of the weights in its last two dimensions.

    In no preset: the operator is of opset 23, and no faster on a CPU. ViT-S has half the nodes, and takes 0.99 to 1.02
    of the time on one thread in ONNX Runtime 1.31 and 1.03 in OpenVINO 2026.4. MultiHeadAttention of ONNX Runtime
    takes 0.99 to 1.03. To have it, on a graph that planc has optimized: --pass upgrade-opset{least=23}
    --pass infer-shapes --pass fold-shapes --pass fuse-attention --pass remove-unused.

    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """

    anchors: ClassVar[frozenset[str]] = frozenset({"Softmax"})
    opset: ClassVar[int] = 23

    def match(self, anchor: ir.Node, _opset: int, /) -> Fused:
        """Goes up from the weights to queries, keys and mask, then down through the values."""
        weights = anchor.outputs[0]
        sizes = _sizes(weights)
        require(len(sizes) == 4, f"{text(weights)} has not four dimensions")
        require(anchor.attributes.get_int("axis", -1) in (-1, 3), "Softmax is not over the last axis")
        require(weights.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16), f"{text(weights)} is of another dtype")
        scores, mask = _unmasked(anchor.inputs[0])
        scores, scale = _unscaled(scores)
        product = maker(scores, "MatMul")
        (query, left), (key, right) = map(_unscaled, product.inputs)
        last = user(weights, "MatMul")
        require(last.inputs[0] is weights, f"{text(weights)} is the right side of its product")
        if mask is not None:
            _check_mask(mask, sizes)
        key, perm = _untransposed(key)
        _check_heads(query, [_sizes(key)[axis] for axis in perm], last.inputs[1])
        return _build(last, (query, key, last.inputs[1]), perm, mask, scale * left * right)


def _build(
    last: ir.Node,
    operands: tuple[ir.Value | None, ir.Value | None, ir.Value | None],
    perm: list[int],
    mask: ir.Value | None,
    scale: float,
) -> Fused:
    """Returns Attention on values without heads where all of them come so, else on heads."""
    query, key, value = operands
    joined = _joined(last.outputs[0])
    whole = [_whole(query), _whole(value), _whole_key(key, perm)]
    if joined is not None and None not in whole:
        heads = _sizes(query)[1]
        assert isinstance(heads, int)  # as `_splits` found
        end = joined.outputs[0]
        inputs = [whole[0], whole[2], whole[1]]
        more = {"q_num_heads": heads, "kv_num_heads": heads}
        nodes: list[ir.Node] = []
    else:
        joined, end, more, nodes = last, last.outputs[0], {}, []
        if perm != sorted(perm):
            nodes = [ir.node("Transpose", [key], attributes={"perm": perm})]
            nodes[0].outputs[0].type = key.type if key is not None else None
            key = nodes[0].outputs[0]
        inputs = [query, key, value]
    new = ir.node("Attention", [*inputs, mask] if mask is not None else inputs, attributes={"scale": scale, **more})
    return Fused((*nodes, new), {end: new.outputs[0]}, joined)


def _check_heads(query: ir.Value | None, key: list[object], value: ir.Value | None) -> None:
    """Raises Miss where batch or heads of keys or values are broadcast, which the operator does not do."""
    wanted = _sizes(query)[:2]
    for sizes in (key, _sizes(value)):
        require(
            sizes[:2] == wanted, f"batch and heads are not surely the same: {_shown(wanted)} and {_shown(sizes[:2])}"
        )


def _shown(sizes: list[object]) -> str:
    return str([size if isinstance(size, int | str) else "?" for size in sizes])


def _sizes(value: ir.Value | None) -> list[object]:
    """Returns the sizes of a value; one without a number or a name equals no other."""
    shape = value.shape if value is not None else None
    require(shape is not None, f"the rank of {text(value)} is not known")
    sizes = [size if isinstance(size, int) else size.value for size in shape or ()]
    return [size if size is not None else object() for size in sizes]


def _unmasked(scores: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Returns the scaled product and the mask that is added to it, or None."""
    if producer(scores, "Add") is None:
        return scores, None
    add = maker(scores, "Add")
    for product, mask in orders(add):
        if producer(_peeled(product), "MatMul") is not None and producer(_peeled(mask), "MatMul") is None:
            return product, mask
    raise Miss(f"{text(scores)} is not a product and a mask")


def _peeled(value: ir.Value | None) -> ir.Value | None:
    try:
        return _unscaled(value)[0]
    except Miss:
        return value


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Returns x and the factor for x * factor or x / (1 / factor); the value itself and 1 elsewhere."""
    node = producer(value, "Mul") or producer(value, "Div")
    if node is None:
        return value, 1.0
    pairs = orders(node) if node.op_type == "Mul" else [(node.inputs[0], node.inputs[1])]
    for x, other in pairs:
        number = scalar(other)
        if number and x is not None and x.shape is not None and len(x.shape) == 4:
            require(only_use(value), f"{text(value)} is needed outside of the pattern")
            return x, number if node.op_type == "Mul" else 1 / number
    return value, 1.0


def _untransposed(key: ir.Value | None) -> tuple[ir.Value, list[int]]:
    """Returns x and the permutation that makes keys [batch, heads, length, width] of it."""
    node = source(key, "Transpose")
    perm = list(node.attributes.get_ints("perm", (3, 2, 1, 0)))
    x = node.inputs[0]
    require(x is not None and len(perm) == 4, f"{text(key)} has not four dimensions")
    assert x is not None
    return x, [perm[0], perm[1], perm[3], perm[2]]


def _check_mask(mask: ir.Value, weights: list[object]) -> None:
    sizes = _sizes(mask)
    require(2 <= len(sizes) <= 4 and mask.dtype is not None, f"the mask {text(mask)} has {len(sizes)} dimensions")
    require(sizes[-2:] == weights[-2:], f"the mask {text(mask)} is not of the size {_shown(weights[-2:])}")
    pairs = zip(sizes[:-2][::-1], weights[:-2][::-1], strict=False)
    require(all(one in (1, size) for one, size in pairs), f"the mask {text(mask)} does not fit {_shown(weights)}")


def _whole(value: ir.Value | None) -> ir.Value | None:
    """Returns x [batch, length, heads * width] for heads that are split off it; None elsewhere."""
    node = producer(value, "Transpose")
    if node is None or tuple(node.attributes.get_ints("perm", ())) != _HEADS:
        return None
    return _unsplit(node.inputs[0])


def _whole_key(key: ir.Value | None, perm: list[int]) -> ir.Value | None:
    return _unsplit(key) if tuple(perm) == _HEADS else _whole(key) if perm == sorted(perm) else None


def _unsplit(value: ir.Value | None) -> ir.Value | None:
    """Returns x for Reshape(x) of [batch, length, heads * width] to [batch, length, heads, width]."""
    node = producer(value, "Reshape")
    if node is None or value is None or value.shape is None or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    return node.inputs[0] if _splits(_sizes(node.inputs[0]), _sizes(value)) else None


def _joined(value: ir.Value) -> ir.Node | None:
    """Returns the Reshape that joins the heads of the result again."""
    try:
        transpose = user(value, "Transpose")
        reshape = user(transpose.outputs[0], "Reshape")
        split, joined = _sizes(transpose.outputs[0]), _sizes(reshape.outputs[0])
    except Miss:
        return None
    right = tuple(transpose.attributes.get_ints("perm", ())) == _HEADS and _splits(joined, split)
    return reshape if right else None


def _splits(whole: list[object], split: list[object]) -> bool:
    """Whether [batch, length, heads * width] is split into four sizes: the batch is equal where the others are."""
    if len(whole) != 3 or len(split) != 4:
        return False
    heads, width = split[2:]
    return isinstance(heads, int) and isinstance(width, int) and whole[1:] == [split[1], heads * width]
