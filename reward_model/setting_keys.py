"""Keys inside settings: hidden while a program runs, and in no file or message that it writes.

A settings file may hold a key (``options: {api_key: sk-...}``) or, better where it is shared, name the variable that
does (``api_key: $JUDGE_KEY``). Either way the key is handed to whom it is for (:func:`revealed`), and what a run writes
down of its settings has passed :func:`without_keys`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from reward_model.backends.secret import Secret

#: Names of settings that hold a key.
_KEY = re.compile(
    r"(?:.*[_-])?(?:api[_-]?key|password|passwd|secret|authorization|(?:access|auth|bearer|hf|hub)[_-]?token)|token",
    re.IGNORECASE,
)
#: A variable of the environment in the place of a key.
_REFERENCE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
_URL = re.compile(r"(?:.*[_-])?(?:url|endpoint)", re.IGNORECASE)
_IN_TEXT = re.compile(rf"(\b(?:{_KEY.pattern})\b['\"]?\s*[:=]\s*)(?:\"[^\"]*\"?|'[^']*'?|[^,}}\]\n]+)", re.IGNORECASE)
#: Variables in which a program hands keys to one that it starts.
_HANDED = "CAC_ALIGN_KEY_{}"


def hidden_keys(settings: Any) -> Any:
    """A copy of settings (mappings, lists, plain values) whose keys are held by
    :class:`~reward_model.backends.secret.Secret`. Names of variables stay as they are.

    Example:
        >>> hidden_keys([{"reward": "cac", "options": {"api_key": "sk-123", "model": "m"}}])
        [{'reward': 'cac', 'options': {'api_key': Secret(***), 'model': 'm'}}]
    """
    return _mapped(settings, lambda _, value: value if _is_reference(value) else _secret(value))


def without_keys(settings: Any, *, keep_names: bool = True) -> Any:
    """A copy of settings for files, digests and messages: without keys, and without logins and queries in addresses.

    Args:
        settings: mappings, lists and plain values.
        keep_names: names of variables stay. False removes everything about keys, for comparing settings: a run with
            another key is the same run.

    Example:
        >>> without_keys({"api_key": "sk-123", "token": "$HUB", "base_url": "https://me:pw@judge/v1?key=1"})
        {'token': '$HUB', 'base_url': 'https://judge/v1'}
    """
    return _mapped(settings, lambda _, value: value if keep_names and _is_reference(value) else _DROPPED, plain=True)


def revealed(settings: Any, *, bare: bool = True) -> Any:
    """A copy of settings for whom the keys are meant.

    Args:
        settings: result of :func:`hidden_keys`.
        bare: keys as plain strings; False leaves them in their holders.

    Raises:
        ValueError: a variable that stands for a key is not set.
    """

    def opened(name: str, value: object) -> object:
        if _is_reference(value):
            value = Secret.of(_variable(name, value))
        return value.reveal() if bare and isinstance(value, Secret) else value

    return _mapped(settings, opened)


def handed_on(settings: Any) -> tuple[Any, dict[str, str]]:
    """Settings for a program that is started with a file of them: variables in the place of keys, and the environment
    that holds these.

    Example:
        >>> handed_on(hidden_keys({"options": {"api_key": "sk-123"}}))
        ({'options': {'api_key': '$CAC_ALIGN_KEY_1'}}, {'CAC_ALIGN_KEY_1': 'sk-123'})
    """
    environment: dict[str, str] = {}

    def named(_: str, value: object) -> object:
        if not isinstance(value, Secret):
            return value
        variable = _HANDED.format(len(environment) + 1)
        environment[variable] = value.reveal()
        return f"${variable}"

    return _mapped(settings, named), environment


def blotted(text: str) -> str:
    """A text that may hold a piece of a settings file, with its keys blotted out.

    Example:
        >>> blotted("options: {api_key: sk-123, model: m}")
        'options: {api_key: ***, model: m}'
    """
    return _IN_TEXT.sub(r"\1***", text)


def bare_address(url: str) -> str:
    """An address without login and query.

    Example:
        >>> bare_address("https://me:pw@judge:8000/v1?key=1")
        'https://judge:8000/v1'
    """
    return re.sub(r"//[^/@]*@", "//", url).partition("?")[0]


_DROPPED = object()


def _mapped(value: Any, change: Callable[[str, Any], Any], *, plain: bool = False) -> Any:
    """A copy with ``change(name, key)`` in the place of every key, or without it for ``_DROPPED``.

    ``plain``: addresses lose their logins.
    """
    if isinstance(value, Mapping):
        found = {}
        for name, entry in value.items():
            if _KEY.fullmatch(str(name)) and not isinstance(entry, Mapping | list | tuple):
                new = change(str(name), entry)
            elif plain and isinstance(entry, str) and _URL.fullmatch(str(name)):
                new = bare_address(entry)
            else:
                new = _mapped(entry, change, plain=plain)
            if new is not _DROPPED:
                found[name] = new
        return found
    if isinstance(value, list):
        return [_mapped(entry, change, plain=plain) for entry in value]
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_mapped(entry, change, plain=plain) for entry in value)
    return value


def _secret(value: object) -> Any:
    """A key of digits alone is a number to YAML."""
    is_key = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    return Secret.of(str(value)) if is_key else value


def _is_reference(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _variable(name: str, reference: str) -> str:
    found = _REFERENCE.fullmatch(reference)
    assert found is not None
    value = os.environ.get(found[1])
    if not value:
        raise ValueError(f"{name}: {reference} names a variable that is not set; export {found[1]}=... with the key")
    return value
