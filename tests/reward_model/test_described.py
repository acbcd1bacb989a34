"""Settings that explain themselves: texts below fields, help in metadata, choices, headings."""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from reward_model.terminal.described import (
    Bounds,
    as_declared,
    check_setting,
    check_settings,
    choices_of,
    described,
    experiments,
    idle_settings,
    notes_on,
    setting,
    settings_of,
)

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


@dataclass
class Oven:
    """Settings with bounds."""

    heat: float = setting(180.0, above=0, below=math.inf, hint="in degrees")
    racks: list[int] = setting([1, 3], least=1)
    mode: Literal["fan", "grill"] | None = setting(None)
    name: str | None = setting(None)
    timer: int | float = setting(5, least=0, most=10)
    labels: dict[str, int] = setting({})

    def __post_init__(self):
        check_settings(self)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"heat": math.inf}, "heat=inf must be a finite number above 0; in degrees"),
        ({"heat": True}, "heat=True must be a finite number above 0; in degrees"),
        ({"racks": 2}, "racks=2 must be a list of whole numbers of at least 1"),
        ({"racks": [1, 0]}, "racks=[1, 0] must be a list of whole numbers of at least 1"),
        ({"racks": [1, 2.0]}, "racks=[1, 2.0] must be a list of whole numbers of at least 1"),
        ({"mode": "steam"}, "mode='steam' must be one of 'fan', 'grill', null"),
        ({"name": 7}, "name=7 must be a text (in YAML in quotes where it looks like a number), or null"),
        ({"timer": 11}, "timer=11 must be a whole number of at least 0 and at most 10, or a number of at least 0"),
        ({"timer": math.nan}, "timer=nan must be a whole number"),
        ({"labels": []}, "labels=[] must be a mapping"),
    ],
)
def test_what_breaks_a_rule_is_refused(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Oven(**given)


def test_what_keeps_the_rules_is_taken():
    oven = Oven(heat=200, racks=(2,), mode="fan", name="", timer=0.5, labels={"a": 1})
    assert oven.heat == 200 and Oven().racks == [1, 3] and Oven().racks is not Oven().racks
    kinds = {s.name: s.kind for s in settings_of(Oven)}
    assert kinds["heat"] == "finite number above 0" and kinds["racks"] == "list" and kinds["mode"] == "fan, grill, null"
    assert as_declared(Oven, {"heat": "2e2", "name": "7", "racks": [1]}) == {"heat": 200.0, "name": "7", "racks": [1]}


@dataclass
class Shelf:
    """Settings whose metadata belong to a parser that hands all of them on."""

    boards: Annotated[int | None, Bounds(least=1, hint="null leaves them out")] = field(
        default=None, metadata={"help": "How many."}
    )

    def __post_init__(self):
        check_settings(self)


def test_bounds_may_stand_beside_the_type():
    assert [(s.kind, s.text) for s in settings_of(Shelf)] == [("whole number of at least 1 or null", "How many.")]
    assert Shelf().boards is None and Shelf(2).boards == 2
    with pytest.raises(ValueError, match="boards=0 must be a whole number of at least 1, or null; null leaves them"):
        Shelf(0)


def test_one_value_is_held_to_the_rule_of_a_field():
    check_setting(Oven, "mode", "fan")
    with pytest.raises(ValueError, match="mode='steam' must be one of 'fan', 'grill', null"):
        check_setting(Oven, "mode", "steam")


@dataclass(frozen=True)
class Wall:
    """Painted or papered."""

    cover: Literal["paint", "paper"] = setting("paint")
    coats: int = setting(2, "Of paint.", when={"cover": ("paint",)}, experimental=[1, 7])
    glue: str | None = setting(None, "Behind paper.", when={"cover": ("paper",)}, experimental=[...])
    gloss: bool = setting(False, "Of paint in two coats.", when={"cover": ("paint",), "coats": (2, 3)})

    def __post_init__(self):
        check_settings(self)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"glue": "paste"},
            "glue='paste' does not fit cover 'paint': read with cover paper only; choose that, or set glue: null",
        ),
        (
            {"cover": "paper", "coats": 1, "gloss": True},
            "coats=1, gloss=True do not fit cover 'paper': read with cover paint only; choose that, or set coats: 2, "
            "gloss: false",
        ),
        (
            {"coats": 1, "gloss": True},
            "gloss=True does not fit coats 1: read with coats 2 or 3 only; choose one of them, or set gloss: false",
        ),
    ],
)
def test_a_setting_that_is_not_read_must_have_its_default(wrong, said):
    with pytest.raises(ValueError) as caught:
        Wall(**wrong)
    assert str(caught.value) == said
    assert Wall(**{**wrong, **idle_settings(Wall, wrong)})


def test_help_says_when_a_setting_is_read_and_what_is_experimental():
    notes = {s.name: notes_on(s) for s in settings_of(Wall)}
    assert notes["cover"] == "" and notes["coats"] == "; with cover paint only; experimental: 1, 7"
    assert notes["glue"] == "; with cover paper only; experimental: any other"
    assert notes["gloss"] == "; with cover paint and coats 2 or 3 only"
    assert experiments(Wall()) == {} and experiments(Wall(coats=7)) == {"coats": 7}
    assert experiments(Wall(cover="paper", glue="paste")) == {"glue": "paste"}
