"""What the site does with a page before it is made."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to files beside docs/, which are not on the site, become names."""
    return re.sub(r"\[([^\]]*)\]\(\.\./(?:\.\./)*(\w[^)]*)\)", _named, markdown)


def _named(link: re.Match[str]) -> str:
    words, path = link.groups()
    return f"`{path}`" if path in words else f"{words} (`{path}`)"
