"""Prompts of the world as four slots, and wrong prompts whose distance to the right one is known exactly.

Every prompt of :mod:`reward_model.world` reads ``a <colour> <thing> <action> on a <background> background``; other
things may be named after the action. Agreement of two prompts is the number of slots they share, 0 to 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from reward_model.world.palette import BACKGROUNDS, COLORS, SHAPES, WORDS
from reward_model.world.people import ACTIONS
from reward_model.world.things import MOTIONS

#: The parts of a prompt that can be right or wrong, in order.
SLOTS = ("color", "thing", "action", "background")
_PROMPT = re.compile(
    r"a (?P<color>\w+) (?P<thing>\w+) (?P<action>.+?)(?P<others>(?: with a \w+ \w+)*)"
    r" on a (?P<background>\w+) background"
)
_BLOCK = "slides against a {} block"


@dataclass(frozen=True)
class Caption:
    """A prompt in its slots; ``others`` names what else stands there and is never changed."""

    color: str
    thing: str
    action: str
    background: str
    others: str = ""

    def __str__(self) -> str:
        return f"a {self.color} {self.thing} {self.action}{self.others} on a {self.background} background"


def read_caption(prompt: str) -> Caption:
    """The slots of a prompt.

    Raises:
        ValueError: if it is not a prompt of the world.
    """
    found = _PROMPT.fullmatch(prompt)
    if found is None:
        raise ValueError(
            f"{prompt!r} is not a prompt of the procedural world; expected "
            "'a <colour> <thing> <action> on a <background> background'"
        )
    return Caption(**found.groupdict())


def agreement(first: Caption, second: Caption) -> int:
    """Number of the four slots that two prompts share."""
    return sum(a == b for a, b in zip(astuple(first)[:4], astuple(second)[:4], strict=True))


def change_slots(caption: Caption, num_wrong: int, rng: np.random.Generator) -> Caption:
    """A prompt with ``num_wrong`` slots, drawn at random, that say something else.

    Raises:
        ValueError: if ``num_wrong`` is not 0 to 4.
    """
    if not 0 <= num_wrong <= len(SLOTS):
        raise ValueError(f"num_wrong={num_wrong} must lie in 0 to {len(SLOTS)}: a prompt has {len(SLOTS)} slots")
    wrong = caption
    for k in rng.permutation(len(SLOTS))[:num_wrong]:
        wrong = replace(wrong, **{SLOTS[k]: getattr(change_slot(caption, SLOTS[k], rng), SLOTS[k])})
    return wrong


def change_slot(caption: Caption, slot: str, rng: np.random.Generator) -> Caption:
    """A prompt whose ``slot`` says something else that a scene of this kind could be."""
    now = getattr(caption, slot)
    choices = [c for c in _choices(caption, slot) if c != now]
    return replace(caption, **{slot: choices[int(rng.integers(len(choices)))]})


def _choices(caption: Caption, slot: str) -> Sequence[str]:
    if slot == "color":
        return tuple(COLORS)
    if slot == "background":
        return tuple(BACKGROUNDS)
    if slot == "thing":
        return SHAPES if caption.thing in SHAPES else (*SHAPES, "person", "sign")
    return _actions(caption)


def _actions(caption: Caption) -> Sequence[str]:
    action = caption.action
    if action in ACTIONS:
        return ACTIONS
    if action.startswith("that reads"):
        return [f"that reads {word}" for word in WORDS]
    if action == "bounces on the floor":
        return [_BLOCK.format(color) for color in COLORS if color != caption.color]
    if action.startswith("slides against"):
        return ["bounces on the floor"]
    return MOTIONS


def caption_words() -> list[str]:
    """The words of prompts with the space before them, as they stand in a caption; motions are one piece."""
    names = [*COLORS, *SHAPES, "person", "sign", "block", *BACKGROUNDS, *WORDS]
    joins = [" on a", " with a", " that reads", " background", " slides against a", " bounces on the floor", " stands"]
    return [f" {name}" for name in names] + [f" {phrase}" for phrase in (*MOTIONS, *ACTIONS)] + joins
