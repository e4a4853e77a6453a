"""Numbers and templates of the pages."""

import jinja2
import pytest

from planc.compiler import html


def test_numbers() -> None:
    assert [html.size(one) for one in (None, 0, 999, 1000, 2_500_000, 3.2e9)] == [
        "unknown", "0 B", "999 B", "1.0 kB", "2.5 MB", "3.20 GB",
    ]  # fmt: skip
    assert [html.ms(one) for one in (None, 0.01234, 12.345, 1234.5)] == ["unknown", "0.0123", "12.3", "1234"]
    assert [html.cosine(one) for one in (None, 1.0)] == ["unknown", "1.000000"]
    assert [html.share(one) for one in (None, 0.25)] == ["unknown", "25.0%"]
    assert [html.count(one) for one in (0, 1280, 18_900_000, 2e9, 3e12)] == ["0", "1.28 k", "18.9 M", "2 G", "3 T"]


def test_figures_have_ids_of_their_own() -> None:
    svg = '<svg><defs><path id="m1"/></defs><use xlink:href="#m1" clip-path="url(#m1)"/><text>id="</text></svg>'
    made = html.figure(svg.replace('id="<', "<"), "a")
    assert 'id="a-m1"' in made
    assert 'xlink:href="#a-m1"' in made
    assert "url(#a-m1)" in made


def test_what_a_template_does_not_get_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        html.render("report.html.jinja")
