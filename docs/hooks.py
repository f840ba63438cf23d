"""MkDocs hook: the architecture page from ARCHITECTURE.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text; that of the architecture page is ARCHITECTURE.md."""
    if page.file.src_uri != "concepts/architecture.md":
        return markdown
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return text.replace("](docs/concepts/", "](").replace("](docs/", "](../")
