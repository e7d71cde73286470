"""A matplotlib figure as SVG within a page: it follows light and dark, and its text is text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from serve.html import Html, safe

_SPACE = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"font: ?([\d.]+)px[^;]*")
_REFERENCE = re.compile(r"(?:url\(#|^#)([\w-]+)")


def inline_svg(
    figure: Figure, name: str, title: str, description: str, colours: Mapping[str, str]
) -> Html:
    """Render a figure for a page.

    name: unique on the page. title, description: for screen readers. colours: by each colour
    that the figure uses, as `#rrggbb`, the variable of the stylesheet that replaces it.
    """
    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    referenced = {
        match[1]
        for element in root.iter()
        for value in element.attrib.values()
        for match in _REFERENCE.finditer(value)
    }
    _clean(root, name, referenced, colours)
    view = root.get("viewBox", "")
    body = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    return Html(
        f'<svg class="plot" role="img" aria-labelledby="{name}-t {name}-d" '
        f'viewBox="{escape(view)}" style="stroke-linejoin: round">'
        f'<title id="{name}-t">{safe(title)}</title><desc id="{name}-d">{safe(description)}</desc>'
        f"{body}</svg>"
    )


def _clean(
    parent: ElementTree.Element, name: str, referenced: set[str], colours: Mapping[str, str]
) -> None:
    """Leave out metadata, styles and unused identifiers; make the others unique on the page."""
    for child in list(parent):
        child.tag = child.tag.removeprefix(_SPACE)
        if child.tag in ("metadata", "style"):
            parent.remove(child)
            continue
        if (identifier := child.get("id")) is not None:
            del child.attrib["id"]
            if identifier in referenced:
                child.set("id", f"{name}-{identifier}")
        if (target := child.attrib.pop(_HREF, None)) is not None:
            child.set("href", f"#{name}-{target[1:]}")
        if (clip := child.get("clip-path")) is not None:
            child.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
        if (style := child.get("style")) is not None:
            style = _FONT.sub(r"font-size: \1px; font-family: inherit", style)
            for colour, variable in colours.items():
                style = style.replace(colour, f"var(--{variable})")
            child.set("style", style)
        _clean(child, name, referenced, colours)
