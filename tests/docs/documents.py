"""What the documents say, for the tests that hold them to it: code blocks, links, anchors, and the notation for blocks
that cannot run.

A block is run unless the line before it is ``<!-- not run: reason -->``. Blocks of a page run in order, in one folder;
its Python blocks share their names, as a reader would type them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: The documents for readers: the front page, the pages of the site, and the cards of the checkpoints.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
]

_FENCE = re.compile(r"^(`{3,}|:{3,})\s*(\S*)")
_REASON = re.compile(r"<!-- not run: ([^>]*\S) *-->")
#: Languages whose blocks are commands or code; others are text to read.
RUN = ("python", "bash")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``reason`` says why it is not run, None if it is. ``line`` is that of its first line of code."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def name(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page with a language, in order; MyST directives such as ``{include}`` are left out."""
    found, before, opened = [], "", None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            reason = _REASON.fullmatch(before.strip())
            opened = (fence[1], fence[2], number + 1, reason[1] if reason else None, [])
        elif opened and line.startswith(opened[0]) and not line.strip(opened[0][0]).strip():
            mark, language, start, why, lines = opened
            if mark.startswith("`") and language and not language.startswith("{"):
                found.append(Block(page, start, language, "\n".join(lines) + "\n", why))
            opened = None
        elif opened:
            opened[4].append(line)
        before = line if line.strip() else before
    if opened is not None:
        raise ValueError(f"{page}: the block of line {opened[2]} is never closed")
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks, except the inside of MyST's ``:::`` blocks."""
    kept, mark = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        if mark is None and fence and fence[1].startswith("`"):
            mark = fence[1]
        elif mark and line.startswith(mark):
            mark = None
        elif mark is None:
            kept.append(line)
    return "\n".join(kept)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them; the second of the same words gets ``-1``."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.*?)\s*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w -]", "", plain.lower()).strip().replace(" ", "-")
        number = sum(1 for a in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a))
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links(page: Path) -> list[str]:
    """Targets of Markdown links and pictures, without those of the web."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", t)]


def mentioned_files(page: Path) -> set[str]:
    """Files of the repository that the text names in code font, such as ``recipes/best_of_n.py``."""
    return set(re.findall(r"`((?:assets|recipes|benchmarks|reward_model|cac_align|tests|docs)/[\w./-]+)`", prose(page)))
