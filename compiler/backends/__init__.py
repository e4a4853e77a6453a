"""One file per backend, with `Options`, `why_not`, `unverifiable`, `fingerprint`, `build`, `load`: CONTRIBUTING.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shapes import Dim, TensorSpec
from ..target import Precision, Target


@dataclass(frozen=True)
class Request:
    """What a backend is to build.

    Attributes:
        model: the ONNX file, optimized, and lowered where the backend wants the precision in the graph.
        precision: what the user asked for.
        options: an instance of the backend's `Options`.
        folder: where the payload goes; it exists and is empty.
        target: what the payload is for.
        inputs: specs of the graph's inputs, in order; empty where nobody named sizes.
        dims: sizes of their symbolic dimensions.
    """

    model: Path
    precision: Precision
    options: Any
    folder: Path
    target: Target
    inputs: tuple[TensorSpec, ...] = ()
    dims: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Built:
    """What a backend says of the payload that it wrote.

    Attributes:
        session: settings that `load` takes; they are part of the artifact.
        effective_precision: counted from the graph or the engine.
        requires: facts of a machine without which the payload must not run.
        semantic_sha256: file of the payload whose bytes may differ from build to build -> digest of all that it is
            made of.
        placement: where a runtime hands nodes to providers, which of them run where; empty where it was not loaded.
    """

    session: Mapping[str, Any]
    effective_precision: Mapping[str, Any]
    requires: Mapping[str, str] = field(default_factory=dict)
    semantic_sha256: Mapping[str, str] = field(default_factory=dict)
    placement: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A layer as the runtime's profiler tells it.

    Attributes:
        names: of the layer, and of the nodes and values of the graph that are in it, the most telling first.
        op: kind of layer.
        kernel: what runs it, where the runtime says.
        provider: who runs it.
        precision: what it computes in.
        ms: median of its time in a call.
        product: whether it is a convolution or a matrix product.
        conversion: whether it only changes layouts or types.
    """

    names: tuple[str, ...]
    op: str
    kernel: str
    provider: str
    precision: str
    ms: float
    product: bool
    conversion: bool
