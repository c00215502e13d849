"""Text from outside, made harmless in a page."""

from __future__ import annotations

import html

from conntrackd_guard.core.text import printable


def escaped(text: str) -> str:
    """Return `text` for use between tags and in quoted attributes: no tag, no control character, no bidi override."""
    return html.escape(printable(text), quote=True)
