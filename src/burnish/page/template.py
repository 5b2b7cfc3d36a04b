"""How a page is rendered: undefined names are errors, every value is escaped, and what cannot be shown is shown as such."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from burnish import __version__

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of surrogate pairs and overrides of the writing direction: a text may hold them, and a
page that shows them as they are is not valid, cannot be written as UTF-8, or lies about the order of its words."""


def render_page(room: str, template: str, /, **values: Any) -> str:
    """Return the page of a template that lies in a room, such as ("burnish.evaluate", "report.html.j2").

    The template also knows `css`, the style of all pages, and `version`.
    """
    css = Markup(resources.files("burnish.page").joinpath("style.css").read_text(encoding="utf-8"))
    page = _template(room, template).render(version=__version__, css=css, **values)
    return UNPRINTABLE.sub("\ufffd", page)


@cache
def _template(room: str, name: str) -> Template:
    # Only our own plots and style sheet are Markup; everything else is escaped.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: resources.files(room).joinpath(name).read_text(encoding="utf-8")),
    )
    return environment.get_template(name)
