"""Settings that explain themselves: texts below fields, help in metadata, choices, headings."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from reward_model.terminal.described import choices_of, described, settings_of

Colour = Literal["red", "blue"]


@dataclass
class Base:
    """Of all."""

    size: int = 3
    """How large."""


@described
@dataclass
class Paint(Base):
    """What is painted.

    Example:
        >>> Paint()
    """

    # --- look ------------------------------------------------------------------------------------------------
    colour: Colour | Literal["none"] = "red"
    """Of the wall,
    and of the door."""
    names: list[str] = field(default_factory=lambda: ["a"], metadata={"help": "Who\n paints."})
    # --- rest ------------------------------------------------------------------------------------------------
    rate: float | None = None


def test_every_kind_of_description_is_found():
    found = {s.name: s for s in settings_of(Paint)}
    assert [*found] == ["size", "colour", "names", "rate"]
    assert (found["size"].text, found["size"].kind, found["size"].default) == ("How large.", "whole number", 3)
    assert found["colour"].text == "Of the wall, and of the door." and found["colour"].kind == "red, blue, none"
    assert (found["names"].text, found["names"].default, found["names"].kind) == ("Who paints.", ["a"], "list")
    assert (found["rate"].text, found["rate"].kind) == ("", "number or null")
    assert [s.group for s in found.values()] == ["", "look", "look", "rest"]


def test_help_shows_them_and_keeps_the_text():
    told = Paint.__doc__
    assert told.startswith("What is painted.\n\nExample:\n    >>> Paint()\n\nSettings:\n    size = 3: How large.")
    assert "    colour = 'red': Of the wall, and of the door.\n" in told


def test_choices():
    assert choices_of(Paint) == {"colour": ("red", "blue", "none")}


def test_only_dataclasses():
    with pytest.raises(TypeError):
        settings_of(int)
