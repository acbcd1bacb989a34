"""The tokenizer of unified-mini: any text encodes, the question, captions and scores are a token a piece.

The question is about 800 characters that never change, so it is one token; with its wording changed it would be spelt
out in bytes, which the model has not been trained to read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from cac_align.minis.unified_captions import caption_words
from reward_model.minis.tokenizer import escape, piece_tokenizer
from reward_model.unified.protocols import APS

#: What training asks beside that question.
DESCRIBE = "Describe the video."
#: Scores are told in steps of a fifth.
STEPS_PER_POINT = 5


class ApsScores(NamedTuple):
    """The three scores of the aps protocol, each 1 (worst) to 5."""

    alignment: float
    physics: float
    style: float


def score_texts() -> list[str]:
    """Every number the model can answer, from low to high."""
    low, high = int(APS.low), int(APS.high)
    return [f"{k / STEPS_PER_POINT:.1f}" for k in range(low * STEPS_PER_POINT, high * STEPS_PER_POINT + 1)]


def answer_labels() -> list[str]:
    """Text before each number of an answer."""
    return [f"{'' if k == 0 else chr(10)}{axis} ({APS.low:g}-{APS.high:g}): " for k, axis in enumerate(APS.axes)]


def write_answer(scores: ApsScores) -> str:
    """The three lines of an answer, scores rounded to the nearest step.

    Raises:
        ValueError: if a score is out of range.
    """
    texts = score_texts()
    parts = []
    for label, score in zip(answer_labels(), scores, strict=True):
        if not APS.low <= score <= APS.high:
            raise ValueError(f"{label.strip()!r} cannot be {score}; it must lie in {APS.low:g} to {APS.high:g}")
        parts.append(label + texts[round((score - APS.low) * STEPS_PER_POINT)])
    return "".join(parts)


def build_unified_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer with the pieces of question, captions and answers as single tokens."""
    before, after = APS.question.split("{caption}")
    turns = ["user\n", "assistant\n"]
    pieces = [before, after, DESCRIBE, *turns, *caption_words(), *answer_labels(), *score_texts()]
    # Longer pieces first: " bounces on the floor" is not cut at " bounces".
    words = sorted({*pieces} - {*score_texts()}, key=lambda piece: (-len(piece), piece))
    scores = "|".join(map(re.escape, score_texts()))
    spelt = (escape(word) + (r"\b" if word[-1:].isalpha() else "") for word in words)
    pattern = "|".join([*spelt, rf"(?<![\d.])(?:{scores})(?![\d.])"])
    return piece_tokenizer(pieces, pattern)
