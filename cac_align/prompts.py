"""Prompt lists: which texts a generator is trained and evaluated on, read and checked before anything is drawn."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reward_model.digests import text_digest
from reward_model.schema import AnomalyType
from reward_model.shipped import located

#: Wan reads 512 tokens of a prompt and drops the rest without a word; English text stays below with 300 words.
MAX_WORDS = 300
_SHOWN = 5


@dataclass(frozen=True)
class Prompt:
    """One text to draw a video from.

    ``family``: of the anomalies it provokes, where that is known; ``image``: file of the first frame, image-to-video.
    """

    text: str
    family: AnomalyType | None = None
    image: Path | None = None


def read_prompts(path: str | os.PathLike[str], *, max_words: int = MAX_WORDS) -> list[Prompt]:
    """The prompts of a file, in order.

    Args:
        path: ``.txt`` with one prompt per line, or ``.jsonl`` with one object per line: ``prompt``, and if you like
            ``family`` (any spelling that :meth:`reward_model.schema.AnomalyType.parse` knows) and ``image`` (a file,
            relative to this one). Other fields are ignored.
        max_words: more are an error.

    Raises:
        ValueError: if the file is missing, empty or of another kind, or has lines that are empty, broken, too long,
            repeated (letter case and spaces do not make a difference) or name an image that is not there. The message
            lists the first five.

    Example:
        >>> len(read_prompts("assets/prompts/train.jsonl"))                                       # doctest: +SKIP
        240
    """
    path = Path(located(os.fspath(path)))
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(f"{str(path)!r} must end in .txt (one prompt per line) or .jsonl (objects with 'prompt')")
    if not path.is_file():
        raise ValueError(f"no prompt file at {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    if lines == [""]:
        raise ValueError(f"{str(path)!r} holds no prompt")
    prompts: list[Prompt] = []
    wrong: list[str] = []
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        try:
            prompt = _read_line(line.strip(), path, max_words)
            earlier = first_seen.setdefault(_key(prompt.text), number)
            if earlier != number:
                raise ValueError(f"the same prompt as line {earlier}; keep one")
            prompts.append(prompt)
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{str(path)!r}: " + "; ".join(wrong[:_SHOWN]) + more)
    return prompts


def shared_prompts(first: Iterable[Prompt], second: Iterable[Prompt]) -> list[str]:
    """The texts that are in both lists, in the order of ``second``; a training and an evaluation list share none."""
    keys = {_key(p.text) for p in first}
    return [p.text for p in second if _key(p.text) in keys]


def check_unseen(trained: Iterable[Prompt], evaluated: Iterable[Prompt], who: str) -> None:
    """Raises ValueError, in the name of ``who``, if a training has seen evaluation prompts."""
    both = shared_prompts(trained, evaluated)
    if both:
        raise ValueError(f"{who}: {len(both)} evaluation prompts are trained on, such as {both[0][:60]!r}; use others")


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _read_line(line: str, path: Path, max_words: int) -> Prompt:
    if not line:
        raise ValueError("empty; delete it")
    prompt = Prompt(line) if path.suffix == ".txt" else _read_object(line, path.parent)
    words = len(prompt.text.split())
    if words > max_words:
        raise ValueError(f"{words} words, more than max_words={max_words}; text encoders cut long prompts silently")
    return prompt


def _read_object(line: str, folder: Path) -> Prompt:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error})") from None
    text = data.get("prompt") if isinstance(data, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"needs an object with a text under 'prompt', got {line[:60]!r}")
    family = data.get("family")
    if family is not None and not isinstance(family, str):
        raise ValueError(f"family={family!r} must be text, such as 'human'")
    image = data.get("image")
    if image is not None and not (isinstance(image, str) and (folder / image).is_file()):
        raise ValueError(f"image={image!r} is not a file in {str(folder)!r}; name one relative to the prompt file")
    return Prompt(
        text.strip(),
        None if family is None else AnomalyType.parse(family),
        None if image is None else folder / image,
    )


def prompt_name(prompt: str, *, longest: int = 40) -> str:
    """A folder name for a prompt: its first words, and a digest that tells it from every other prompt.

    Example:
        >>> prompt_name("A red ball, bouncing!")
        'a-red-ball-bouncing-f2306ca6'
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    if len(words) > longest:
        words = words[: longest + 1].rpartition("-")[0] or words[:longest]
    digest = text_digest(prompt.encode("utf-8", "replace"))[:8]
    return f"{words}-{digest}" if words else digest
