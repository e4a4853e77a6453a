"""Pages of HTML in one file, from Jinja templates beside this file: they need no network and no script."""

import re
from pathlib import Path
from typing import Any

from . import host
from .errors import Unavailable

BEGINS = ("<!doctype html", "<!DOCTYPE html")
"""How a page begins: another may be written in its place."""


def require(*packages: str) -> None:
    """Checks that what draws a page is there.

    Raises:
        Unavailable: it is not installed.
    """
    if missing := [name for name in packages if not host.version(name)]:
        raise Unavailable(f"{missing[0]} is not installed", hint="pip install 'planc[report]'")


def render(template: str, **facts: Any) -> str:
    """Returns a page; whatever is not said to be safe is escaped."""
    import jinja2

    names = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names.filters |= {"size": size, "ms": ms, "share": share, "cosine": cosine, "figure": figure, "count": count}
    return names.get_template(template).render(planc=host.version("planc"), **facts)


def figure(svg: str, name: str) -> str:
    """A figure of `charts` as it is, with ids that no other on the page has."""
    import markupsafe

    return markupsafe.Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg))  # noqa: S704  made by charts


def size(value: float | None) -> str:
    """Bytes as people read them."""
    if value is None:
        return "unknown"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def ms(value: float | None) -> str:
    """Three digits of milliseconds, and all before the point."""
    return "unknown" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def count(value: float) -> str:
    """A number of many, such as of multiplications."""
    for unit in ("", " k", " M", " G"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.4g} T"


def cosine(value: float | None) -> str:
    """Six digits of a cosine."""
    return "unknown" if value is None else f"{value:.6f}"


def share(value: float | None) -> str:
    """A share as per cent."""
    return "unknown" if value is None else f"{value:.1%}"
