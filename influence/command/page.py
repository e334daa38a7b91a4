"""Pages of HTML from templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def rendered(template: Path, **parts: Any) -> str:
    """The page that a template makes of its parts, whose texts stay texts.

    Args:
        template: beside those that it extends or imports.
        parts: by their names; one that is missing is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**parts)
