"""What the site needs beyond Markdown as it is read elsewhere."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Have code in tables highlighted, and leave out what the tests read behind a fence's language."""
    markdown = re.sub(r"<(table|tr|td)(?=[ >])", r"<\1 markdown", markdown)
    return re.sub(r"^(```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)
