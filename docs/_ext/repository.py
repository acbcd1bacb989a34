"""Links of a page to files outside docs/, such as a model card, lead to the page of the site that includes the file.

Pages are written for GitHub, where ``../assets/cac-mini/README.md`` is the right target. ``repository_pages`` in
conf.py says which page of the site holds which file; a Markdown file that is not listed is an error of the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
_LINK = re.compile(r"\]\(((?:\.\./)+[^)\s#]+\.md)(#[^)\s]*)?\)")


def lead_to_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrites the links of one page while it is read."""
    docs = Path(app.srcdir)
    folder = (docs / docname).parent

    def target(found: re.Match[str]) -> str:
        place = Path(os.path.normpath(folder / found[1]))
        if place.is_relative_to(docs):
            return found[0]
        page = app.config.repository_pages.get(place.relative_to(docs.parent).as_posix())
        if page is None:
            logger.warning("%s links to %s, which no page includes; see repository_pages", docname, found[1])
            return found[0]
        return f"]({os.path.relpath(docs / page, folder)}{found[2] or ''})"

    source[0] = _LINK.sub(target, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the setting and the rewriting."""
    app.add_config_value("repository_pages", {}, "env")
    app.connect("source-read", lead_to_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
