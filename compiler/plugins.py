"""The file is the registration: a folder's modules are found by name and imported on first use."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def names(folder: str) -> list[str]:
    """Returns the names of the public modules in `folder` ("backends", "frontends"), sorted."""
    return sorted(path.stem for path in (HERE / folder).glob("*.py") if not path.stem.startswith("_"))


def load(folder: str, name: str) -> ModuleType:
    """Imports module `name` of `folder`.

    Raises:
        LookupError: there is no such file.
    """
    if not name.isidentifier() or name.startswith("_") or not (HERE / folder / f"{name}.py").is_file():
        raise LookupError(f"no {name}.py in {folder}/")
    return import_module(f".{folder}.{name}", __package__)
