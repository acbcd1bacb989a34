"""Pairwise protocols of UnifiedReward models: two videos of one prompt, and the share of the preference.

``pair_score`` belongs to the 2.0 checkpoints, ``pair`` to the first generation, ``think_pair`` and ``flex_pair`` to the
checkpoints of those names, which know nothing else. Number and order of the frames (eight of Video 1, then eight of
Video 2, then one text), dimensions, scales and the form of the answer are those of the public scripts; the sentences
are ours, as in :mod:`reward_model.unified.protocols`. Models of every generation lean towards one position,
so ask both orders and average. No reader takes longer than a few passes over the answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from reward_model.conversation import Conversation, Message
from reward_model.prompts import clean_line
from reward_model.unified.protocols import (
    ScoreError,
    even_indices,
    last_answer,
    repeated_indices,
    squares,
    stride_indices,
)

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+|nan|inf)"
_PREFERRED = re.compile(r"\b(?:video\s{0,3}([12])\s{1,3}is\s{1,3}better|equally\s{1,3}good)\b", re.IGNORECASE)
_WINNER = re.compile(r"\W{0,4}video\s{0,3}([12])(?:\s{1,3}is\s{1,3}better)?\W{0,4}", re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(?=\s{0,80}[}\]])")


@dataclass(frozen=True)
class PairAnswer:
    """Preference for Video 1 in one answer: ``share`` in [0, 1] is 1 where it is preferred, 0 where Video 2 is, 0.5 for
    a tie; ``axes`` holds its share in each dimension that the answer rates.
    """

    share: float
    axes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairProtocol:
    """One way of comparing.

    Attributes:
        pick: indices of the frames shown of a video of so many.
        frame_size: side of the square the frames are resized to, None: as they are.
        question: text after the images, with ``{caption}``.
        max_new_tokens: most new tokens of the answer.
        read: the answer's text -> :class:`PairAnswer`, or ScoreError.
    """

    name: str
    pick: Callable[[int], list[int]]
    frame_size: int | None
    question: str
    max_new_tokens: int
    read: Callable[[str], PairAnswer]

    def show(self, frames: np.ndarray) -> np.ndarray:
        """The frames of one video that are shown: (T, H, W, 3) uint8 -> (8 or fewer, H', W', 3) uint8."""
        shown = frames[self.pick(len(frames))]
        return shown if self.frame_size is None else squares(shown, self.frame_size)

    def conversation(self, first: np.ndarray, second: np.ndarray, caption: str) -> Conversation:
        """The request about two videos, each as :meth:`show` returns it; ``first`` is Video 1."""
        question = self.question.replace("{caption}", clean_line(caption))
        return (Message("user", (*first, *second, question)),)


def read_sentence(text: str) -> PairAnswer:
    """``pair``: "Video 1 is better", "Video 2 is better" or "equally good"; the last such sentence is the conclusion.

    Raises:
        ScoreError: if the text says none of them.
    """
    said = _PREFERRED.findall(text)
    if not said:
        raise ScoreError("the answer names no better video")
    return PairAnswer({"1": 1.0, "2": 0.0, "": 0.5}[said[-1]])


def read_thought(text: str) -> PairAnswer:
    """``think_pair``: the sentence between ``<answer>`` and ``</answer>``; what was thought before it does not count.

    Raises:
        ScoreError: if there is no such block, or it names no better video.
    """
    return read_sentence(last_answer(text))


SHARE_AXES = ("Alignment Score", "Coherence Score", "Style Score")


def read_shares(text: str) -> PairAnswer:
    """``pair_score``: in each of three dimensions a share for either video; the two make 1. Their mean is the share.

    Raises:
        ScoreError: if a dimension is missing or stands there twice, or its shares are out of range or do not make 1.
    """
    axes = {axis: _shares(axis, text) for axis in SHARE_AXES}
    return PairAnswer(sum(axes.values()) / len(axes), axes)


def _shares(axis: str, text: str) -> float:
    pair = "".join(rf"\W{{0,24}}?Video {number}\W{{0,12}}?({_NUMBER})" for number in (1, 2))
    line = rf"{re.escape(axis)}(?:\s{{0,8}}\([^)\n]{{0,40}}\))?{pair}"
    found = set(re.findall(line, text, re.IGNORECASE))
    if len(found) != 1:
        raise ScoreError(f"the answer states {axis!r} {'twice, differently' if found else 'for no pair of videos'}")
    first, second = (float(number) for number in found.pop())
    if not (0 <= first <= 1 and 0 <= second <= 1 and abs(first + second - 1) <= 0.02):
        raise ScoreError(f"{axis!r} gives {first:g} and {second:g}; two shares from 0 to 1 must make 1")
    return first / (first + second)


def read_flex(text: str) -> PairAnswer:
    """``flex_pair``: the ``winner`` of a JSON object; the points of its categories, where they can be read, are
    ``axes``.

    Raises:
        ScoreError: if there is no such object, or its winner is neither video.
    """
    start = text.find("{")
    data = _first_object(text[start:]) if start >= 0 else None
    if data is None:
        raise ScoreError("the answer is not a complete JSON object")
    winner = _WINNER.fullmatch(str(data.get("winner")))
    if winner is None:
        raise ScoreError(f"the winner is {data.get('winner')!r}, neither 'Video 1' nor 'Video 2'")
    categories = data.get("categories")
    axes = dict(filter(None, map(_category, categories if isinstance(categories, list) else [])))
    return PairAnswer(1.0 if winner[1] == "1" else 0.0, axes)


def _first_object(text: str) -> dict[str, Any] | None:
    """The JSON object a text begins with, whatever follows it; commas before a closing bracket are forgiven."""
    for candidate in (text, _TRAILING_COMMA.sub("", text)):
        try:
            data, _ = json.JSONDecoder(strict=False).raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        return data if isinstance(data, dict) else None
    return None


def _category(item: Any) -> tuple[str, float] | None:
    """Name of a category and Video 1's part of its points."""
    try:
        first = sum(float(dim["score_1"]) for dim in item["dims"])
        share = first / (first + sum(float(dim["score_2"]) for dim in item["dims"]))
        return (str(item["name"]), share) if math.isfinite(share) and 0 <= share <= 1 else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


_SHOWN = (
    "The images above are frames of two generated videos, in order: the first half belongs to Video 1, the second half "
    "to Video 2. Both were made from the caption at the end.\n"
)

PAIR = PairProtocol(
    name="pair",
    pick=even_indices,
    frame_size=512,
    question=_SHOWN
    + (
        "Compare them by two criteria: how well objects, attributes and relations agree with the caption, and the "
        "overall visual quality (clearness, detail, colour, beauty).\n"
        'Conclude with one sentence: "Video 1 is better than Video 2.", "Video 2 is better than Video 1." or "Both '
        'videos are equally good."\n'
        "Text Caption: [{caption}]"
    ),
    max_new_tokens=4096,
    read=read_sentence,
)

PAIR_SCORE = PairProtocol(
    name="pair_score",
    pick=partial(stride_indices, count=8),
    frame_size=None,
    question=_SHOWN
    + (
        "Share one point between them in each of three dimensions: two decimal numbers from 0 to 1 that make exactly "
        "1, the larger for the better video.\n"
        "Alignment: how well the content agrees with the caption.\n"
        "Coherence: how consistent the video is, free of glitches and distorted objects.\n"
        "Style: how good it looks, whatever the caption says.\n"
        "Answer in this form, X and Y being the numbers:\n"
        "Alignment Score:\n Video 1: X\n Video 2: Y\n\n"
        "Coherence Score:\n Video 1: X\n Video 2: Y\n\n"
        "Style Score:\n Video 1: X\n Video 2: Y\n\n"
        "Text Caption: [{caption}]"
    ),
    max_new_tokens=4096,
    read=read_shares,
)

THINK_PAIR = PairProtocol(
    name="think_pair",
    pick=repeated_indices,
    frame_size=None,
    question=_SHOWN
    + (
        "First think, between <think> and </think>: rate both from 1 to 10 in semantic consistency, temporal coherence "
        "and authenticity, and in up to two more dimensions of your choice, each as\n"
        "N. dimension:\n Video 1 (x/10) - reason;\n Video 2 (y/10) - reason\n"
        "and add the ratings up as\nTotal score:\nVideo 1: x+x+x=total\nVideo 2: y+y+y=total\n"
        "Then write <answer>Video 1 is better</answer> or <answer>Video 2 is better</answer>, and nothing else.\n"
        "Caption: [{caption}]"
    ),
    max_new_tokens=4096,
    read=read_thought,
)

FLEX_PAIR = PairProtocol(
    name="flex_pair",
    pick=repeated_indices,
    frame_size=None,
    question=_SHOWN
    + (
        "Compare them in three categories, and in a fourth of your own if the caption calls for it: A. Semantic "
        "Alignment & Accuracy, B. Video Quality & Dynamic Realism, C. Narrative, Aesthetics & Cinematography. In each "
        "choose three to five dimensions that tell these two videos apart, and share 10 points between them in each "
        "dimension, with what you see as the reason.\n"
        'Answer with one JSON object: {"prompt": text, "categories": [{"name": text, "dims": [{"name": text, '
        '"reason_1": text, "reason_2": text, "score_1": 0-10, "score_2": 0-10}], "cat_reason": text, "cat_winner": '
        '"Video 1" or "Video 2"}], "reason": text, "winner": "Video 1" or "Video 2"}\n'
        "Prompt: [{caption}]"
    ),
    max_new_tokens=4096,
    read=read_flex,
)

PAIR_PROTOCOLS = {p.name: p for p in (PAIR, PAIR_SCORE, THINK_PAIR, FLEX_PAIR)}
