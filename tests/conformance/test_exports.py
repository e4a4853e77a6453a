"""Small networks of every kind, by both exporters of torch, go through every preset: same outputs, far fewer nodes."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planc.compiler import storage
from planc.compiler.optimize import Recipe, run, write
from planc.compiler.reference import runner
from planc.passes import PRESETS, ConvertPrecision, all_nodes, all_tensors

FAMILIES = {order: family for family, order in reversed(PRESETS.items())}
"""One family for each list of passes; the others would run the same again."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
SIZES = ({"batch": 1, "seq": 5}, {"batch": 3, "seq": 8})
NODES = {
    "bert eager": 105,
    "bert sdpa": 119,
    "decoder step": 133,
    "llama": 171,
    "residual": 8,
    "vit eager": 66,
    "vit sdpa": 66,
}
"""No more than these may be left, whichever exporter wrote the graph."""


def _networks() -> dict[str, Callable[[], Any]]:
    """Makes a module by name; torch and transformers are imported by those who ask."""
    import torch
    import transformers as hf
    from torch import nn

    wide: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }

    class Last(nn.Module):
        """The last hidden state of a model of transformers."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

    class Images(Last):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(pixel_values=x).last_hidden_state

    class Words(Last):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.net(input_ids=ids, attention_mask=mask).last_hidden_state

    class Step(Last):
        def forward(self, ids: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cache = hf.DynamicCache([(keys, values) for keys, values in past])
            logits = self.net(input_ids=ids, past_key_values=cache, use_cache=True).logits
            return logits, torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
            self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
            for norm in self.norms:
                nn.init.uniform_(norm.running_mean, -1, 1)
                nn.init.uniform_(norm.running_var, 0.5, 2)
            self.head = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norms[0](self.one(x)))
            x = nn.functional.hardswish(self.norms[1](self.two(nn.functional.pad(x, (0, 1, 0, 1)))))
            return self.head(nn.functional.silu(x).mean((2, 3)))

    def bert(kind: str) -> nn.Module:
        return Words(
            hf.BertModel(hf.BertConfig(vocab_size=99, attn_implementation=kind, **wide), add_pooling_layer=False)
        )

    def vit(kind: str) -> nn.Module:
        net = hf.ViTModel(
            hf.ViTConfig(image_size=32, patch_size=8, attn_implementation=kind, **wide), add_pooling_layer=False
        )
        return Images(net)

    return {
        "bert eager": lambda: bert("eager"),
        "bert sdpa": lambda: bert("sdpa"),
        "decoder step": lambda: Step(hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=99, n_layer=2, n_embd=32, n_head=2))),
        "llama": lambda: Words(
            hf.LlamaModel(hf.LlamaConfig(vocab_size=99, num_key_value_heads=1, use_cache=False, **wide))
        ),
        "residual": Residual,
        "vit eager": lambda: vit("eager"),
        "vit sdpa": lambda: vit("sdpa"),
    }


def _inputs(name: str, sizes: dict[str, int]) -> tuple[dict[str, np.ndarray], dict[str, dict[int, str]]]:
    """Arrays by input, and its dynamic axes."""
    rng = np.random.default_rng(1)
    batch, seq = sizes["batch"], sizes["seq"]
    if name == "residual" or name.startswith("vit"):
        return {"x": rng.standard_normal((batch, 3, 32, 32), dtype=np.float32)}, {"x": {0: "batch"}}
    if name == "decoder step":
        past = rng.standard_normal((2, 2, batch, 2, seq, 16), dtype=np.float32)
        return {"ids": rng.integers(0, 99, (batch, 1)), "past": past}, {
            "ids": {0: "batch"},
            "past": {2: "batch", 4: "seq"},
        }
    mask = np.ones((batch, seq), np.int64)
    mask[-1, seq - 2 :] = 0
    both = {0: "batch", 1: "seq"}
    return {"ids": rng.integers(0, 99, (batch, seq)), "mask": mask}, {"ids": both, "mask": both}


def _export(name: str, exporter: str, path: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = _networks()[name]().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim < 2 else None
    arrays, axes = _inputs(name, {"batch": 2, "seq": 6})
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            sizes = {size: torch.export.Dim(size, min=1, max=64) for size in ("batch", "seq")}
            dynamic = tuple({axis: sizes[size] for axis, size in axes[key].items()} for key in arrays)
            made = torch.onnx.export(
                net, tensors, dynamo=True, optimize=False, verbose=False, input_names=list(arrays),
                dynamic_shapes=dynamic,
            )  # fmt: skip
            assert made is not None
            ir.save(made.model, path)
            return
        torch.onnx.export(
            net, tensors, str(path), dynamo=False, opset_version=17, do_constant_folding=False,
            input_names=list(arrays), dynamic_axes=axes,
        )  # fmt: skip


def _outputs(path: Path, feeds: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [runner(path)(feed) for feed in feeds]


@pytest.mark.parametrize("exporter", ["dynamo", "TorchScript"])
@pytest.mark.parametrize("name", NODES)
def test_an_export_computes_the_same(
    name: str, exporter: str, tmp_path: Path, tell_export: Callable[[str], None]
) -> None:
    """From file to file: what exporters write beside the nodes, such as shapes of weights, is part of it."""
    source, out = tmp_path / "raw.onnx", tmp_path / "out.onnx"
    _export(name, exporter, source)
    feeds = [_inputs(name, sizes)[0] for sizes in SIZES]
    wanted = _outputs(source, feeds)
    left: Counter[str] = Counter()
    for family in {order: family for family, order in reversed(PRESETS.items())}.values():
        report = run(source, out, Recipe(family, embed=True), {}, emit=lambda _kind, _value: None)
        assert not report.skipped
        for want, have in zip(wanted, _outputs(out, feeds), strict=True):
            assert want.keys() == have.keys()
            for output in want:
                assert want[output].dtype == have[output].dtype
                np.testing.assert_allclose(have[output], want[output], rtol=1e-3, atol=1e-4)
        left[family] = sum(1 for _ in all_nodes(storage.load(out)))
        assert left[family] <= NODES[name]
    counts = ", ".join(f"{family} {count}" for family, count in left.items())
    tell_export(f"{name}, {exporter}: {report.before['nodes']} nodes -> {counts}")


@pytest.mark.parametrize("name", NODES)
def test_half_the_precision_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    source, out = tmp_path / "raw.onnx", tmp_path / "out.onnx"
    _export(name, "TorchScript", source)
    run(source, out, Recipe("tensorrt", embed=True), {}, emit=lambda _kind, _value: None)
    model = storage.load(out)
    wide = sum(tensor.nbytes for tensor in all_tensors(model) if tensor.dtype is ir.DataType.FLOAT)
    assert ConvertPrecision()(model).modified
    narrow = sum(tensor.nbytes for tensor in all_tensors(model) if tensor.dtype in FLOATS)
    assert narrow < 0.51 * wide
    write(model, tmp_path / "half.onnx", embed=True)
    onnx.checker.check_model(tmp_path / "half.onnx", full_check=True)
    for sizes in SIZES:
        feed = _inputs(name, sizes)[0]
        for want, have in zip(runner(out)(feed).values(), runner(tmp_path / "half.onnx")(feed).values(), strict=True):
            one, other = want.astype(np.float64).ravel(), have.astype(np.float64).ravel()
            assert have.dtype == want.dtype
            assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) >= 0.9999
