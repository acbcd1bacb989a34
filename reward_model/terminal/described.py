"""Settings that explain themselves: ``help()``, the recipes and the docs show what the source says about a field.

A field is described by the text below it (an attribute docstring, which editors show, too) or by ``help`` in its
metadata, which transformers' parsers read. :func:`described` puts the list into the class's docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T", bound=type)
#: Heading of what :func:`described` appends to a docstring.
HEADING = "Settings:"
_GROUP = re.compile(r"\s*# -{3} (.+?) -{3,}\s*$")


@dataclass(frozen=True)
class Setting:
    """One field of a settings class.

    Attributes:
        name: of the field.
        kind: its type as a reader writes it, such as ``float or null``; choices are listed.
        default: None also where there is none.
        text: what it means.
        group: the heading it stands under in the source (``# --- heading ---``); empty without one.
        metadata: of the field.
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
    texts, groups = _read_source(cls)
    hints = get_type_hints(cls)
    return [
        Setting(
            f.name,
            _kind(hints[f.name]),
            _default(f),
            texts.get(f.name) or " ".join(str(f.metadata.get("help") or "").split()),
            groups.get(f.name, ""),
            f.metadata,
        )
        for f in fields(cls)
    ]


def described(cls: T) -> T:
    """Class decorator, above ``@dataclass``: every setting with its default and meaning, at the docstring's end."""
    lines = []
    for setting in settings_of(cls):
        first = f"{setting.name} = {setting.default!r}: {setting.text}"
        lines.append(textwrap.fill(first, 110, initial_indent="    ", subsequent_indent=" " * 8))
    cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{HEADING}\n" + "\n".join(lines) + "\n"
    return cls


def choices_of(cls: type) -> dict[str, tuple[Any, ...]]:
    """The allowed values of the fields that are ``Literal``, with None where that is allowed.

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


def _literals(hint: Any) -> tuple[Any, ...]:
    """All values of a Literal or a union of them; empty for any other type."""
    if get_origin(hint) is Literal:
        return tuple(get_args(hint))
    parts = [p for p in get_args(hint) if p is not type(None)]
    if not parts or not all(get_origin(p) is Literal for p in parts):
        return ()
    none = (None,) if len(parts) < len(get_args(hint)) else ()
    return (*(value for part in parts for value in get_args(part)), *none)


def _kind(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if choices := _literals(hint):
        return ", ".join("null" if c is None else str(c) for c in choices)
    if get_args(hint) and get_origin(hint) not in (list, tuple, dict):
        return " or ".join(map(_kind, get_args(hint)))
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if get_origin(hint) in (list, tuple):
        return "list"
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    factory: Callable[[], Any] | Any = field.default_factory
    return None if factory is MISSING else factory()


def _read_source(cls: type) -> tuple[dict[str, str], dict[str, str]]:
    """Texts below the fields, and the headings above them; both empty where there is no source."""
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
