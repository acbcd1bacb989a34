"""Settings of a recipe: a YAML file or a preset, and what the command line puts over it.

All recipes that have settings share one grammar: ``--config FILE_OR_PRESET``, ``--name value`` for any setting,
``--set name=value ...`` for the same, ``--dry-run`` and ``--list-settings``. TRL's names are understood
(:mod:`reward_model.engine.trl_names`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from reward_model.extras import need
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, nearest


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file as a mapping.

    Raises:
        ValueError: if the file is missing, is not YAML, or holds no mapping.
    """
    yaml = need("yaml", "a settings file")
    try:
        data = deepcopy(_parsed(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the settings in {str(path)!r}: {error}") from error
    except yaml.YAMLError as error:  # in full it shows a piece of the file, where a key may stand
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = (
            f"{problem} in line {mark.line + 1}, column {mark.column + 1}" if mark and problem else "it is not YAML"
        )
        raise ValueError(f"cannot read the settings in {str(path)!r}: {reason}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{str(path)!r} must hold 'name: value' lines, got {type(data).__name__}")
    return data


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """The data of a YAML text. A plan of many trainings reads the same files for each, at 30 ms a file."""
    import yaml

    return yaml.safe_load(text)


def find_config(name: str | Path, presets: Path | None = None) -> Path:
    """The settings file that ``--config`` names: a path, a file that ships with the project, or a preset's name.

    Args:
        name: such as ``mine.yaml``, ``recipes/configs/stage1/full.yaml`` or ``full``.
        presets: folder of the recipe's presets.

    Raises:
        ValueError: if there is none; the message lists the presets.
    """
    path = Path(located(name))
    if path.is_file():
        return path
    known = sorted(p.stem for p in presets.glob("*.yaml")) if presets is not None else []
    if presets is not None and str(name) in known:
        return presets / f"{name}.yaml"
    hint = nearest(Path(name).stem, known) or (f"presets are {', '.join(known)}" if known else "check the path")
    what = "is a folder" if path.is_dir() else "is not a file"
    raise ValueError(f"--config {str(name)!r} {what}; {hint}")


def changed(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Settings with ``name=value`` texts put over them; values are read as YAML, ``data.rows=8`` reaches inside.

    Raises:
        ValueError: if an entry is not ``name=value`` with a value that YAML can read, or reaches inside a setting that
            holds a plain value.
    """
    from reward_model.setting_keys import blotted, hidden_keys  # with numpy, which a parser need not load

    result = {k: dict(v) if isinstance(v, dict) else v for k, v in settings.items()}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{blotted(text)!r} must be name=value, for instance max_steps=10")
        outer, _, inner = name.partition(".")
        if not inner:
            result[name] = _value(name, value)
            continue
        if result.get(outer) is None:
            result[outer] = {}
        if not isinstance(result[outer], dict):
            value = hidden_keys(result[outer])
            raise ValueError(f"{blotted(text)!r} reaches inside {outer!r}, which is {value!r}; set {outer}=... itself")
        result[outer][inner] = _value(name, value)
    return result


def _value(name: str, text: str) -> object:
    yaml = need("yaml", "a setting")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        from reward_model.setting_keys import blotted

        reason = str(error).splitlines()[0]
        shown = blotted(text)
        raise ValueError(f"{name}={shown!r} cannot be read as YAML ({reason}); put texts in quotes") from None


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--set NAME=VALUE ...``; what several uses of it say adds up in ``args.set``, for :func:`changed`."""
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings that override the file, as --NAME VALUE does; may be repeated",
    )


def settings_parser(description: str | None, *, default: Path | None, dry_run: str) -> CommandParser:
    """The parser of a recipe with settings; :func:`parse_settings` reads the command line with it.

    Args:
        description: the recipe's docstring.
        default: settings file where none is named.
        dry_run: help of ``--dry-run``.
    """
    parser = CommandParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every setting is an option too: --max-steps 10, --data.rows 8, --set max_steps=10 data.rows=8.",
    )
    shown = f" (default: {default.stem})" if default is not None else ""
    parser.add_argument(
        "--config", default=default, metavar="FILE_OR_PRESET", help=f"YAML file, or the name of a preset{shown}"
    )
    add_set_option(parser)
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--list-settings", action="store_true", help="print every setting and its meaning, and stop")
    return parser


def parse_settings(
    parser: CommandParser, arguments: Sequence[str] | None, *, presets: Path | None = None
) -> argparse.Namespace:
    """The command line; what the parser does not know is taken for settings, in the order given, after ``--set``.

    ``args.config`` is the settings file, ``args.set`` holds ``name=value`` texts.

    Raises:
        ValueError: if there is no such settings file, or a word belongs to no option.
    """
    args, rest = parser.parse_known_args(arguments)
    args.set = [*args.set, *assignments(rest)]
    if args.config is not None:
        args.config = find_config(args.config, presets)
    return args


def assignments(words: Sequence[str]) -> list[str]:
    """``--name value`` words as ``name=value`` texts: several values make a list, none makes true, ``--no-name`` false.

    Raises:
        ValueError: a word belongs to no option.

    Example:
        >>> assignments(["--max-steps", "3", "--rewards", "cac", "unified", "--early-stop", "--beta=0.1"])
        ['max_steps=3', 'rewards=["cac", "unified"]', 'early_stop=true', 'beta=0.1']
    """
    grouped: list[tuple[str, list[str]]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--") and len(word) > 2:
            grouped.append((name[2:].replace("-", "_"), [value] if equals else []))
        elif grouped:
            grouped[-1][1].append(word)
        else:
            raise ValueError(f"{word!r} belongs to no option; settings are given as --name value")
    pairs = []
    for name, values in grouped:
        if not values and name.startswith("no_"):
            pairs.append(f"{name[3:]}=false")
        elif len(values) > 1:
            pairs.append(f"{name}={json.dumps([_value(name, v) for v in values], ensure_ascii=False)}")
        else:
            pairs.append(f"{name}={values[0] if values else 'true'}")
    return pairs


def check_known(settings: Collection[str], known: Collection[str], *, where: str = "") -> None:
    """Raises ValueError for the first setting that does not exist, and names the nearest one that does."""
    for name in settings:
        if name not in known:
            hint = nearest(name, known) or "--list-settings prints all of them"
            raise ValueError(f"{where + ': ' if where else ''}unknown setting {name!r}; {hint}")
