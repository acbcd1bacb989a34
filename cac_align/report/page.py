"""The evidence page: one HTML file that needs nothing else, neither a server nor the network.

Prompts, model answers and file names are data: jinja2 escapes all of them, control characters are made visible, and a
content security policy allows only the two inline blocks of this package, by their hash.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.report.view import candidate_view, flatten, probability, score_digits, signed
from reward_model.schema import Verdict
from reward_model.video.clip import resize_frames, shrunk_size
from reward_model.video.writing import data_uri, write_mp4

if TYPE_CHECKING:
    from jinja2 import Template

READOUT_TEXTS = {
    "direct": "read before its reasoning",
    "paper": "read after its reasoning",
    "log_odds": "read before its reasoning and tempered",
}


def render_page(result: Mapping[str, Any], videos: Sequence[bytes], frames: Sequence[np.ndarray]) -> str:
    """The page of one result.

    Args:
        result: the content of ``result.json``.
        videos: the MP4 bytes of every candidate, in drawing order.
        frames: (T, H, W, 3) uint8 of every candidate, for stills.

    Returns:
        HTML text.
    """
    cards = _cards(result, videos, frames)
    scores = [c["score"] for c in cards]
    low, high = score_axis(scores)
    readout = cards[0]["verdict"].readout if cards[0]["verdict"] else ""
    members = list(dict.fromkeys(m["name"] for card in cards for m in card["members"]))
    style, script = page_file(__package__, "report.css"), page_file(__package__, "report.js")
    return page_template(__package__, "report.html.j2").render(
        result=result,
        cards=cards,
        axis=[_minus(f"{v:.3g}") for v in (low, (low + high) / 2, high)],
        facts=_facts(result),
        reward=result["settings"].get("reward"),
        # Members of a composite; their own parts, written "member/part", are not named again.
        members=[name for name in members if name.partition("/")[0] not in members or "/" not in name],
        demo=any(is_demo(card["verdict"], result["settings"]) for card in cards),
        ties=scores.count(scores[0]) > 1,
        players=[
            {
                "index": c["index"],
                "boxes": c["boxes"],
                "hold": c["hold"],
                "fps": result["fps"],
                "frames": result["num_frames"][c["index"]],
            }
            for c in cards
        ],
        readout_text=READOUT_TEXTS.get(readout, f"readout {readout}"),
        settings=flatten(result["settings"]),
        costs=flatten(result.get("costs", {})),
        style=style,
        script=script,
        policy=content_policy(style, script),
        wide=result["width"] > 1.2 * result["height"],
        pixelated=any(c["scale"] > 1 for c in cards),
    )


def _cards(result: Mapping[str, Any], videos: Sequence[bytes], frames: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The candidates, best first, with their videos and the lengths of their score bars."""
    order = result["ranking"]
    cards = [candidate_view(result["candidates"][k], frames[k], result["fps"], rank) for rank, k in enumerate(order, 1)]
    scores = [c["score"] for c in cards]
    low, high = score_axis(scores)
    for card, k in zip(cards, order, strict=True):
        score = card["score"]
        card["src"] = data_uri(videos[k], "video/mp4")
        card["bar"] = None if score is None else round(100 * (score - low) / (high - low), 2)
        card["score_text"] = _minus("\u2013" if score is None else f"{score:.{score_digits(scores)}f}")
    return cards


def _minus(text: str) -> str:
    """A number with a true minus."""
    return text.replace("-", "\u2212")


def is_demo(verdict: Verdict | None, settings: Mapping[str, Any]) -> bool:
    """True if one of the embedded demonstration models judged: by what its verdict says of it, or by its name."""
    provenance = verdict.provenance if verdict else {}
    model = provenance.get("model")
    names = f"{model.get('model', '') if isinstance(model, Mapping) else ''} {settings.get('reward', '')}"
    return bool(provenance.get("demo_scale") or settings.get("note")) or any(
        mini in names for mini in ("cac-mini", "unified-mini")
    )


def _facts(result: Mapping[str, Any]) -> list[str]:
    """The line under the title: what drew the videos, what judged them, and their shape."""
    settings = result["settings"]
    seed = settings.get("seed")
    facts = [
        settings.get("pipeline", {}).get("class"),
        settings.get("reward"),
        f"{result['num_frames'][result['best']]} frames at {result['fps']:g} fps",
        f"{result['width']} \u00d7 {result['height']} px",
        None if seed is None else f"seed {seed}",
    ]
    return [fact for fact in facts if fact]


def score_axis(scores: Sequence[float | None]) -> tuple[float, float]:
    """The ends of the score bars: 0 and 1, wider only where a score lies outside."""
    known = [s for s in scores if s is not None]
    return min([0.0, *known]), max([1.0, *known])


def small_copy(frames: np.ndarray, fps: float, height: int) -> str:
    """A video as an inline MP4: what stops or jumps shows in motion only. A large one is made smaller.

    Args:
        frames: (T, H, W, 3) uint8.
        fps: frames per second.
        height: the shorter side of a large video becomes so many pixels.
    """
    size = shrunk_size(frames.shape[1:3], height)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.mp4"
        write_mp4(path, (resize_frames(f[None], size)[0] for f in frames), fps)
        return data_uri(path.read_bytes(), "video/mp4")


def content_policy(style: str, script: str | None = None) -> str:
    """The content security policy of a page in one file: this style, this script or none, nothing from elsewhere."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = "" if script is None else f"script-src {digest(script)}; "
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src {digest(style)}; {scripts}"
        "base-uri 'none'; form-action 'none'"
    )


@cache
def page_file(package: str, name: str) -> str:
    """The text of a file in the ``templates`` folder of a package."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


@cache
def page_template(package: str, name: str) -> Template:
    """A template of a package: what it shows is escaped, made :func:`visible`, and must be given."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=visible
    )
    environment.filters.update(probability=probability, signed=signed)
    return environment.from_string(page_file(package, name))


def visible(value: object) -> object:
    """Text with control characters as their Unicode pictures, and without marks that could reorder the line around
    it."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(map(_visible_character, value))


def _visible_character(character: str) -> str:
    code = ord(character)
    if code < 32 and character not in "\n\t":
        return chr(0x2400 + code)
    if (
        code in (0x061C, 0x200E, 0x200F, 0xFEFF)
        or 0x7F <= code < 0xA0
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or 0xD800 <= code < 0xE000
    ):
        return "\ufffd"
    return character
