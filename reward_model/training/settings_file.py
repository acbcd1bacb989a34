"""Settings of a recipe: a YAML file, and ``--set name=value`` over it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a mapping.

    Raises:
        ValueError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the settings in {str(path)!r}: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{str(path)!r} must hold 'name: value' lines, got {type(data).__name__}")
    return data


def changed(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Settings with ``name=value`` texts put over them; values are read as YAML, ``data.rows=8`` reaches inside.

    Raises:
        ValueError: an entry is not ``name=value``, or reaches inside a setting that holds a plain value.
    """
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in settings.items()}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{text!r} must be name=value, for instance max_steps=10")
        outer, _, inner = name.partition(".")
        if not inner:
            result[name] = yaml.safe_load(value)
            continue
        if result.get(outer) is None:
            result[outer] = {}
        if not isinstance(result[outer], dict):
            raise ValueError(f"{text!r} reaches inside {outer!r}, which is {result[outer]!r}; set {outer}=... itself")
        result[outer][inner] = yaml.safe_load(value)
    return result


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--set NAME=VALUE ...``; what several uses of it say adds up in ``args.set``, for :func:`changed`."""
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings that win over the file; may be given several times",
    )
