"""Rendering of HTML pages from the templates and style sheets of this folder."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup


def render_page(template: str, *styles: str, **values: Any) -> str:
    """Render a template with its style sheets, which the policy names by their hash."""
    folder = Path(__file__).parent
    style = "".join((folder / name).read_text("utf-8") for name in styles)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        # The only text that is not escaped: our own, and exactly what the hash covers.
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        **values,
    )
