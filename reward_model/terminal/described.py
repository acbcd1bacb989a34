"""Settings declared once: a field carries its type, default, bounds and meaning; help, docs and checks read them there.

A field is described by the text below it (an attribute docstring, which editors show, too) or by ``help`` in its
metadata, which transformers' parsers read. Its choices are its ``Literal``, its bounds those of :func:`setting`, or of
``Annotated[int, Bounds(least=1)]`` in a class that transformers' parsers read: they take all metadata for argparse's.
:func:`described` puts the list into the class's docstring, :func:`check_settings` refuses what breaks a rule.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T", bound=type)
#: Heading of what :func:`described` appends to a docstring.
HEADING = "Settings:"
#: What YAML 1.1 reads as true and false beside these words themselves.
_TRUTHS = {True: ("on", "yes"), False: ("off", "no")}
_GROUP = re.compile(r"\s*# -{3} (.+?) -{3,}\s*$")


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, and the message for one outside them.

    Attributes:
        above, below: limits that the number itself may not have; ``below=math.inf`` asks for a finite number.
        least, most: limits that it may have.
        hint: the remedy, or what the limit means, such as ``0 turns it off``.
    """

    above: float | None = None
    below: float | None = None
    least: float | None = None
    most: float | None = None
    hint: str = ""

    def hold(self, number: float) -> bool:
        """True if the number lies within; NaN never does."""
        return (
            not math.isnan(number)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
        )

    def noun(self, noun: str) -> str:
        """The noun with its limits.

        >>> Bounds(above=0, below=math.inf).noun("number"), Bounds(least=1).noun("whole number")
        ('finite number above 0', 'whole number of at least 1')
        """
        limits = [
            *([f"of at least {self.least:,}"] if self.least is not None else []),
            *([f"above {self.above:,}"] if self.above is not None else []),
            *([f"below {self.below:,}"] if self.below not in (None, math.inf) else []),
            *([f"at most {self.most:,}"] if self.most is not None else []),
        ]
        return " ".join(["finite " * (self.below == math.inf) + noun, " and ".join(limits)]).rstrip()


def setting(
    default: Any = MISSING,
    text: str = "",
    *,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    most: float | None = None,
    hint: str = "",
    free: bool = False,
    when: Mapping[str, Sequence[Any]] | None = None,
    experimental: Sequence[Any] = (),
) -> Any:
    """A field of a settings dataclass, as :func:`dataclasses.field` makes it.

    Args:
        default: none where it must be given; a list or mapping is copied for each object.
        text: the meaning, where no text stands below the field.
        above, below, least, most, hint: see :class:`Bounds`; of a list they hold for each element.
        free: the setting may differ when a run is continued.
        when: values of other settings, by their names, with which this one is read; with any other it must have its
            default, so that nobody believes in a setting without effect.
        experimental: values that no preset has; ``[...]`` (an ellipsis) for every value but the default.

    Example:
        >>> @dataclass
        ... class Paint:
        ...     coats: int = setting(2, "Coats of paint.", least=1)
        ...     def __post_init__(self):
        ...         check_settings(self)
        >>> Paint(coats=0)
        Traceback (most recent call last):
            ...
        ValueError: coats=0 must be a whole number of at least 1
    """
    bounds = Bounds(above, below, least, most, hint)
    metadata = {"help": text, "bounds": bounds, "free": free, "when": when or {}, "experimental": tuple(experimental)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One field of a settings class.

    Attributes:
        name: name of the field.
        kind: its type as a reader writes it, such as ``number above 0 or null``; choices are listed.
        default: None also where there is none.
        text: what it means.
        group: the heading it stands under in the source (``# --- heading ---``); empty without one.
        metadata: metadata of the field.
    """

    name: str
    kind: str
    default: Any
    text: str
    group: str
    metadata: Any


def settings_of(cls: type) -> list[Setting]:
    """The fields of a dataclass in their order.

    Raises:
        TypeError: if ``cls`` is not a dataclass.
    """
    given = fields(cls)
    texts, groups = _read_source(cls)
    return [
        Setting(
            f.name,
            _kind(*_rules(cls)[f.name]),
            _default(f),
            texts.get(f.name) or " ".join(str(f.metadata.get("help") or "").split()),
            groups.get(f.name, ""),
            f.metadata,
        )
        for f in given
    ]


def described(cls: T) -> T:
    """Class decorator, above ``@dataclass``: every setting with its default and meaning, at the docstring's end."""
    lines = []
    for setting in settings_of(cls):
        first = f"{setting.name} = {setting.default!r}: {setting.text}"
        lines.append(textwrap.fill(first, 110, initial_indent="    ", subsequent_indent=" " * 8))
    cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{HEADING}\n" + "\n".join(lines) + "\n"
    return cls


def settings_text(cls: type) -> str:
    """Name, default, values and meaning of each setting, for a terminal."""
    return "\n".join(f"{s.name} = {s.default!r}   ({s.kind}{notes_on(s)})\n    {s.text}" for s in settings_of(cls))


def notes_on(setting: Setting) -> str:
    """Conditions under which a setting is read, and its experimental values, to follow its kind; empty for most."""
    conditions = " and ".join(f"{name} {_either(values)}" for name, values in setting.metadata.get("when", {}).items())
    trial = ", ".join(experimental_values(setting))
    return (f"; with {conditions} only" if conditions else "") + (f"; experimental: {trial}" if trial else "")


def experimental_values(setting: Setting) -> list[str]:
    """The values of a setting that are experimental, as a reader writes them; ``any other`` than the default."""
    values = setting.metadata.get("experimental", ())
    return ["any other" if value is ... else _word(value) for value in values]


def experiments(settings: object) -> dict[str, Any]:
    """The settings of an object that have an experimental value, by name."""
    found = {}
    for s in settings_of(type(settings)):
        value, marked = getattr(settings, s.name), s.metadata.get("experimental", ())
        if value in marked or (... in marked and value != s.default):
            found[s.name] = value
    return found


def idle_settings(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not read with the others (``when``) and yet differ from their default; their defaults, by name.

    Args:
        cls: a dataclass of settings.
        values: some of them; those that are missing have their defaults.
    """
    defaults = {f.name: _default(f) for f in fields(cls)}
    have = {**defaults, **values}
    return {n: defaults[n] for n in unread_settings(cls, have) if have[n] != defaults[n]}


def unread_settings(cls: type, values: Mapping[str, Any]) -> list[str]:
    """Names of the settings that are not read with the others (``when``); ``values`` has all of them."""
    conditions = {f.name: f.metadata.get("when", {}) for f in fields(cls)}
    return [n for n, when in conditions.items() if any(values[other] not in those for other, those in when.items())]


def choices_of(cls: type) -> dict[str, tuple[Any, ...]]:
    """The allowed values of the fields that are ``Literal``, with None if that is allowed.

    Example:
        >>> @dataclass
        ... class Paint:
        ...     colour: Literal["red", "blue"] = "red"
        >>> choices_of(Paint)
        {'colour': ('red', 'blue')}
    """
    hints = get_type_hints(cls)
    found = {f.name: _literals(hints[f.name]) for f in fields(cls)}
    return {name: values for name, values in found.items() if values}


def check_settings(settings: object) -> None:
    """Every field of a dataclass is of its type, one of its choices and within its bounds, and those that are not read
    with the others have their defaults.

    Raises:
        ValueError: if one is not; the message names value, rule and remedy.
    """
    cls: type = type(settings)
    for name in _rules(cls):
        check_setting(cls, name, getattr(settings, name))
    _check_read(settings)


def _check_read(settings: object) -> None:
    """Raises ValueError for the settings that are given and not read, all that fail for the same reason at once."""
    cls: type = type(settings)
    idle = idle_settings(cls, {f.name: getattr(settings, f.name) for f in fields(cls)})
    whens = {f.name: f.metadata.get("when", {}) for f in fields(cls)}
    for name in idle:
        condition, allowed = next((n, a) for n, a in whens[name].items() if getattr(settings, n) not in a)
        alike = [n for n in idle if whens[n].get(condition) == allowed]
        given = ", ".join(f"{n}={getattr(settings, n)!r}" for n in alike)
        back = ", ".join(f"{n}: {_word(idle[n])}" for n in alike)
        raise ValueError(
            f"{given} {'does' if len(alike) == 1 else 'do'} not fit {condition} {getattr(settings, condition)!r}: read "
            f"with {condition} {_either(allowed)} only; choose {'that' if len(allowed) == 1 else 'one of them'}, or "
            f"set {back}"
        )


def check_setting(cls: type, name: str, value: object) -> None:
    """:func:`check_settings` of one field, for a value that will become one of a ``cls`` later.

    Raises:
        ValueError: if the value is not of the field's type, one of its choices and within its bounds.
    """
    hint, bounds = _rules(cls)[name]
    if not _allows(hint, bounds, value):
        remedy = f"; {bounds.hint}" if bounds.hint else ""
        raise ValueError(f"{name}={value!r} must be {_rule(hint, bounds)}{remedy}")


def as_declared(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`as_chosen`, and numbers with a decimal where the field wants one: YAML reads ``1e-4`` as text and ``1`` as
    a whole number.
    """
    rules = _rules(cls)
    found = as_chosen(cls, values)
    for name, value in found.items():
        number = isinstance(value, str | int) and not isinstance(value, bool)
        if number and name in rules and float in _parts(rules[name][0]):
            with suppress(ValueError):  # check_settings names it
                found[name] = float(value)
    return found


def as_chosen(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with ``on``, ``yes``, ``off`` or ``no`` in place of the true or false that YAML reads, where that word is
    one of the choices.
    """
    rules = _rules(cls)
    return {
        name: next((word for word in _TRUTHS[value] if word in _literals(rules[name][0])), value)
        if isinstance(value, bool) and name in rules
        else value
        for name, value in values.items()
    }


@cache
def _rules(cls: type) -> dict[str, tuple[Any, Bounds]]:
    """Type and bounds of each field by its name."""
    hints, annotated = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    found: dict[str, tuple[Any, Bounds]] = {}
    for f in fields(cls):
        beside = [b for b in getattr(annotated[f.name], "__metadata__", ()) if isinstance(b, Bounds)]
        found[f.name] = hints[f.name], f.metadata.get("bounds") or next(iter(beside), Bounds())
    return found


def _parts(hint: object) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _allows(hint: Any, bounds: Bounds, value: object) -> bool:
    """True if a value is of a type; True is not a number, and 1 is not a truth value."""
    if hint is Any:
        return True
    if len(parts := _parts(hint)) > 1:
        return any(_allows(part, bounds, value) for part in parts)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if kind in (int, float):
        return _is_number(value, whole=kind is int) and bounds.hold(value)
    if kind in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(_allows(inner[0], bounds, element) for element in value if inner)
    return isinstance(value, kind)


def _is_number(value: object, *, whole: bool) -> TypeGuard[float]:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _literals(hint: object) -> tuple[Any, ...]:
    """All values of a Literal or a union of them; empty for any other type."""
    parts = [p for p in _parts(hint) if p is not NoneType]
    if not parts or not all(get_origin(p) is Literal for p in parts):
        return ()
    none = (None,) if NoneType in _parts(hint) else ()
    return (*(value for part in parts for value in get_args(part)), *none)


#: Types as a reader calls them.
_NAMES = {NoneType: "null", str: "text", int: "whole number", float: "number", bool: "true or false"}


def _word(value: object) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _either(values: Sequence[Any]) -> str:
    """Values as ``a, b or c``."""
    *before, last = (_word(value) for value in values)
    return f"{', '.join(before)} or {last}" if before else last


def _kind(hint: object, bounds: Bounds) -> str:
    if choices := _literals(hint):
        return ", ".join(map(_word, choices))
    if len(parts := _parts(hint)) > 1:
        return " or ".join(_kind(part, bounds) for part in parts)
    kind = get_origin(hint) or hint
    if kind in (int, float):
        return bounds.noun(_NAMES[kind])
    if kind in (list, tuple, Sequence):
        return "list"
    return "mapping" if kind in (dict, Mapping) else _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _rule(hint: object, bounds: Bounds) -> str:
    """The rule of a value as the end of "must be"."""
    if choices := _literals(hint):
        return f"one of {', '.join('null' if c is None else repr(c) for c in choices)}"
    if len(parts := _parts(hint)) > 1:
        return ", or ".join(_rule(part, bounds) for part in parts)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is str:
        return "a text (in YAML in quotes where it looks like a number)"
    if kind in (list, tuple, Sequence) and inner and inner[0] is not Any:
        one = _kind(inner[0], bounds)
        each = one if _literals(inner[0]) else bounds.noun(f"{_NAMES[inner[0]]}s")
        return f"a list of {each}"
    noun = _kind(hint, bounds)
    return noun if kind in (bool, NoneType) else f"a {noun}"


def _default(field: Field[Any]) -> object:
    if field.default is not MISSING:
        return field.default
    factory: Callable[[], Any] | Any = field.default_factory
    return None if factory is MISSING else factory()


@cache
def _read_source(cls: type) -> tuple[dict[str, str], dict[str, str]]:
    """Texts below the fields, and the headings above them; both empty if there is no source. Reading takes 20 ms."""
    texts: dict[str, str] = {}
    groups: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        lines = source.splitlines()
        body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(text, str):
                texts[node.target.id] = " ".join(text.split())
            above = [m[1] for line in lines[: node.lineno] if (m := _GROUP.match(line))]
            groups[node.target.id] = above[-1] if above else ""
    return texts, groups
