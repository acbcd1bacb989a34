"""Equations as MathML, made while the site is built: pages need no script, no font and no network to show them.

A formula may end in ``\\tag{7}``, which becomes its number and its anchor (``#equation-7``). GitHub reads the same
notation.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

_TAG = re.compile(r"\\tag\{([^{}]*)\}")


def formula(latex: str, display: str) -> str:
    """MathML of one formula; ``display`` is ``inline`` or ``block``."""
    return convert(latex.strip(), display=display)


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Writes a formula within a sentence."""
    translator.body.append(formula(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """Writes a formula on its own line, with its number beside it."""
    latex = node.astext()
    found = _TAG.search(latex)
    body = formula(_TAG.sub("", latex), "block")
    if found is None:
        translator.body.append(f'<div class="equation">{body}</div>\n')
    else:
        number = translator.encode(found[1])
        translator.body.append(
            f'<div class="equation" id="equation-{number}">{body}'
            f'<a class="equation-number" href="#equation-{number}">({number})</a></div>\n'
        )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer; ``html_math_renderer = "mathml"`` chooses it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
