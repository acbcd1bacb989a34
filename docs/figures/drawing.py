"""Parts of the documentation's figures: SVG text, no library beyond the project's own."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

INK, SOFT, LINE, RED, GOLD, FILL = "#1b1f24", "#59636e", "#c3cad2", "#d92d20", "#e0a100", "#eef2f6"
#: Colours on a dark ground in the place of those on white.
DARK = {"#fff": "#14181d", INK: "#e6e9ed", SOFT: "#a7b0ba", LINE: "#4a535d", FILL: "#262c33"}
FONT = "font-family='system-ui, Segoe UI, Roboto, Helvetica, Arial, sans-serif'"


def page(width: int, height: int, title: str, parts: list[str], *, dark: bool = False) -> str:
    """A whole SVG file on a white ground, or where ``dark`` is set and the reader's system is dark, on a dark one;
    ``title`` is what a screen reader says.
    """
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {FONT}>"
    arrow = (
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' "
        f"orient='auto-start-reverse'><path d='M0 0L8 4L0 8z' fill='{SOFT}'/></marker></defs>"
    )
    ground = f"<rect width='{width}' height='{height}' fill='#fff'/>"
    style = [_dark_style()] if dark else []
    return "\n".join([head, f"<title>{escape(title)}</title>", *style, arrow, ground, *parts, "</svg>", ""])


def _dark_style() -> str:
    rules = [f"[{kind}='{old}']{{{kind}:{new}}}" for old, new in DARK.items() for kind in ("fill", "stroke")]
    return f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"


def text(
    x: float, y: float, words: str, *, size: float = 14, colour: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    """One line of text; ``y`` is its baseline."""
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' fill='{colour}' text-anchor='{anchor}' "
        f"font-weight='{weight}'>{escape(words)}</text>"
    )


def rect(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str = "none",
    stroke: str = LINE,
    thick: float = 1,
    round_: int = 6,
) -> str:
    """A rectangle."""
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='{round_}' fill='{fill}' "
        f"stroke='{stroke}' stroke-width='{thick:g}'/>"
    )


def arrow(points: list[tuple[float, float]], colour: str = SOFT) -> str:
    """A line through points that ends in a tip."""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    return f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='1.6' marker-end='url(#tip)'/>"


def card(x: float, y: float, width: float, height: float, title: str, lines: list[str]) -> str:
    """A box with a title and small lines below it."""
    parts = [rect(x, y, width, height, fill=FILL), text(x + 14, y + 26, title, size=15, weight=600)]
    parts += [text(x + 14, y + 48 + 19 * k, line, size=13, colour=SOFT) for k, line in enumerate(lines)]
    return "".join(parts)


def picture(frame: np.ndarray, x: float, y: float, side: float) -> str:
    """One frame (H, W, 3) uint8, its pixels kept sharp."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f"<image x='{x:g}' y='{y:g}' width='{side:g}' height='{side:g}' style='image-rendering:pixelated' "
        f"href='data:image/png;base64,{data}'/>"
    )
