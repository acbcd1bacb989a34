"""Looks of a page in a browser that can be measured: what hangs over the edge, what is too faint, what Tab reaches."""

from __future__ import annotations

import time
from typing import Any

#: Width and height of the two screens, and their schemes.
SCREENS = [(width, height, scheme) for width, height in ((1280, 900), (390, 844)) for scheme in ("light", "dark")]

#: Contrast of all visible text by WCAG 2.2, section 1.4.3: 4.5, or 3 for large text. Colours are laid over each other
#: by the browser itself, so that every form that CSS knows can be read.
_FAINT = """scope => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const laid = colours => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = matchMedia('(prefers-color-scheme: dark)').matches ? '#121212' : '#ffffff';
  const faint = [], seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || seen.has(element) || element.closest('script, style, noscript, option, [aria-hidden=true]')) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (scope && !element.closest(scope)) continue;
    if (element.closest(':disabled, [aria-disabled=true]')) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    seen.add(element);
    const colours = [], style = getComputedStyle(element);
    let pictured = false;
    for (let at = element; at; at = at.parentElement) {
      const under = getComputedStyle(at);
      pictured ||= under.backgroundImage !== 'none';
      colours.unshift(under.backgroundColor);
    }
    if (pictured) continue;
    const ground = [paper, ...colours];
    const [a, b] = [light(laid(ground)), light(laid([...ground, style.color]))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    if (ratio >= (large ? 3 : 4.5)) continue;
    faint.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${text.slice(0, 60)}`);
  }
  return faint;
}"""

_WIDE = """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
  [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
    .map(e => `${e.tagName}.${e.className}`).slice(0, 10).concat('the page is wider than the window')"""

_FOCUSED = """() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  const name = at.getAttribute('aria-label') || at.innerText || at.getAttribute('placeholder') || '';
  const style = getComputedStyle(at);
  const marked = style.outlineStyle !== 'none' || style.boxShadow !== 'none';
  return [at.tagName.toLowerCase(), at.getAttribute('role') || '', name.trim().split('\\n')[0].slice(0, 80), marked];
}"""


def faint_text(page: Any, scope: str | None = None) -> list[str]:
    """Visible texts with too little contrast: the ratio, the element and its beginning.

    Args:
        scope: CSS selector; None: the whole page.
    """
    return page.evaluate(_FAINT, scope)


def wait_until(page: Any, expression: str, argument: object = None, seconds: float = 60) -> None:
    """Waits until a JavaScript expression is true, or a function of the argument. Polls from outside: the policy of our
    pages forbids what Playwright's own waiting would evaluate in them.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
        page.wait_for_timeout(50)


def hangs_over(page: Any) -> list[str]:
    """Elements beyond the right edge, if the page scrolls sideways."""
    return page.evaluate(_WIDE)


def reached_by_tab(page: Any, most: int = 60) -> list[tuple[str, str, str, bool]]:
    """Places that Tab goes to from the top of the page, in order: tag, role, name, and whether one sees it there."""
    page.evaluate("() => { document.activeElement?.blur(); window.getSelection().removeAllRanges(); }")
    found: list[tuple[str, str, str, bool]] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        at = page.evaluate(_FOCUSED)
        if at is None:
            break
        found.append(tuple(at))
    return found
