"""Protocols of UnifiedReward models (arXiv 2503.05236) for one video: the question, and the number in the answer.

``aps`` belongs to the 2.0 checkpoints, ``video5`` to the first generation; neither is for the Think and Flex
checkpoints, which compare pairs only (:mod:`reward_model.unified.pairs`). Number, order and size of the
frames, the axes, their ranges, the labels of the caption and of the answer lines are those of the public scripts. The
sentences around them are ours. The checkpoints were tuned on the scripts' sentences, so scores differ from those of the
scripts by an amount that nobody has measured; :mod:`reward_model.unified.wording` puts the public
sentences in their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reward_model.conversation import Conversation, Message
from reward_model.prompts import clean_line

_TAG = re.compile(r"<(/?)(answer|think)>", re.IGNORECASE)


class ScoreError(ValueError):
    """The answer holds no usable score; the message says what is missing."""


@dataclass(frozen=True)
class Protocol:
    """One way of asking.

    Attributes:
        num_frames: shown to the model.
        pick: frame indices of a video of so many frames.
        frame_size: side of the square the frames are resized to, None: as they are.
        question: text after the images, with ``{caption}``.
        max_new_tokens: most new tokens of the answer.
        axes: names of the answer lines that are averaged.
        low, high: range of each axis.
    """

    name: str
    num_frames: int
    pick: Callable[[int], list[int]]
    frame_size: int | None
    question: str
    max_new_tokens: int
    axes: tuple[str, ...]
    low: float
    high: float

    def conversation(self, frames: np.ndarray, caption: str) -> Conversation:
        """The request about a video: its frames as images, then one block of text.

        Args:
            frames: (T, H, W, 3) uint8, the whole video.
            caption: the prompt it was made from.
        """
        shown = frames[self.pick(len(frames))]
        if self.frame_size is not None:
            shown = squares(shown, self.frame_size)
        return (Message("user", (*shown, self.question.replace("{caption}", clean_line(caption)))),)

    def read(self, text: str) -> dict[str, float]:
        """The value of each axis, in [0, 1].

        A range that the answer itself declares ("Physics Score (1-10): 4.8") replaces the protocol's.

        Raises:
            ScoreError: if an axis is missing, stands there twice with different values, is not a number or out of
                range.
        """
        return {axis: self._axis(axis, text) for axis in self.axes}

    def _axis(self, axis: str, text: str) -> float:
        found = {m.groups() for m in _line(axis).finditer(text)}
        if not found:
            raise ScoreError(f"the answer states no {axis!r}")
        if len(found) > 1:
            raise ScoreError(f"the answer states {axis!r} more than once, with different values")
        low, high, number = found.pop()
        ends = (float(low), float(high)) if low is not None else (self.low, self.high)
        value = float(number)
        if not math.isfinite(value) or ends[1] <= ends[0] or not ends[0] <= value <= ends[1]:
            raise ScoreError(f"{axis!r} is {number}, outside {ends[0]:g} to {ends[1]:g}")
        return (value - ends[0]) / (ends[1] - ends[0])


def _line(axis: str) -> re.Pattern[str]:
    number = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+|nan|inf)"
    scope = rf"(?:\(\s*({number})\s*[-\u2013]\s*({number})\s*\)\s*)?"
    return re.compile(rf"{re.escape(axis)}\W{{0,4}}?{scope}\W{{0,4}}?:[\s*]*({number})", re.IGNORECASE)


def stride_indices(num_frames: int, count: int = 16) -> list[int]:
    """``int(i N / count)``, as the public 2.0 scripts sample: the last frame is never shown, and a video shorter than
    ``count`` is shown once through.

    >>> stride_indices(81)[:3], stride_indices(81)[-1], stride_indices(3)
    ([0, 5, 10], 75, [0, 1, 2])
    """
    return list(dict.fromkeys(int(i * num_frames / count) for i in range(count)))


def even_indices(num_frames: int, count: int = 8) -> list[int]:
    """From the first frame to the last, evenly, as the first generation's loader samples; a video shorter than
    ``count`` is shown once through.

    >>> even_indices(81), even_indices(3)
    ([0, 11, 22, 34, 45, 57, 68, 80], [0, 1, 2])
    """
    return list(dict.fromkeys(repeated_indices(num_frames, count)))


def repeated_indices(num_frames: int, count: int = 8) -> list[int]:
    """The same, but always ``count``, as the scripts of the Think and Flex checkpoints sample: short videos repeat
    frames.

    >>> repeated_indices(3)
    [0, 0, 0, 0, 1, 1, 1, 2]
    """
    return [int(k) for k in np.linspace(0, num_frames - 1, count)]


def squares(frames: np.ndarray, side: int) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (T, side, side, 3) uint8, bicubic as PIL's ``resize`` does it for the first generation."""
    from PIL import Image

    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def last_answer(text: str) -> str:
    """Content of the last complete ``<answer>`` block after the thinking; one quoted while thinking does not count.

    Raises:
        ScoreError: if there is no such block.
    """
    begun: int | None = None
    said: str | None = None
    for tag in _TAG.finditer(text):
        if tag[2].lower() == "think":
            begun = said = None
        elif not tag[1]:
            begun = tag.end()
        elif begun is not None:
            said, begun = text[begun : tag.start()].strip(), None
    if said is None:
        raise ScoreError("the answer holds no complete <answer> block")
    return said


APS = Protocol(
    name="aps",
    num_frames=16,
    pick=stride_indices,
    frame_size=None,
    question=(
        "The images above are frames of a generated video, in order. Rate the video on three axes, each with a decimal "
        "number from 1 (worst) to 5 (best):\n"
        "Alignment: how well the content agrees with the caption.\n"
        "Physics: how well gravity, motion, collisions and interactions follow the real world.\n"
        "Style: how good the video looks.\n"
        "Answer with exactly these three lines and nothing else, X, Y and Z being the numbers:\n"
        "Alignment Score (1-5): X\nPhysics Score (1-5): Y\nStyle Score (1-5): Z\n\n"
        "Text Caption: [{caption}]"
    ),
    max_new_tokens=4096,
    axes=("Alignment Score", "Physics Score", "Style Score"),
    low=1,
    high=5,
)

VIDEO5 = Protocol(
    name="video5",
    num_frames=8,
    pick=even_indices,
    frame_size=512,
    question=(
        "The images above are frames of a generated video, in order. Rate the video on five dimensions, each with a "
        "whole number: 1 (bad), 2 (average), 3 (good) or 4 (real), and then as a whole from 1 to 10.\n"
        "visual quality: clearness, resolution, brightness, colour.\n"
        "temporal consistency: things and people stay the same from frame to frame.\n"
        "dynamic degree: how much changes.\n"
        "text-to-video alignment: the content agrees with the text prompt.\n"
        "factual consistency: the content agrees with common sense and facts.\n"
        "Answer in six lines:\n"
        "visual quality: number\ntemporal consistency: number\ndynamic degree: number\n"
        "text-to-video alignment: number\nfactual consistency: number\nFinal Score: number\n\n"
        "Text Prompt: [{caption}]"
    ),
    max_new_tokens=4096,
    axes=(
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    ),
    low=1,
    high=4,
)

PROTOCOLS = {p.name: p for p in (APS, VIDEO5)}
