"""planc: one command from a PyTorch or ONNX model to a verified, deployable artifact."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler.artifact import Session, load

__all__ = ["Session", "load"]


def __getattr__(name: str) -> Any:
    """Imports the public names on first use, so that `import planc` costs nothing."""
    if name in __all__:
        from .compiler import artifact

        return getattr(artifact, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
