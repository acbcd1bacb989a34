"""The parser of all commands and recipes: underscores are as good as dashes, and a wrong option is answered with the
nearest right one.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from reward_model.terminal.program import printable


class CommandParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that takes ``--num_frames`` for ``--num-frames`` and names the option that was meant.

    Example:
        >>> parser = CommandParser(prog="x")
        >>> _ = parser.add_argument("--num-frames", type=int)
        >>> parser.parse_args(["--num_frames", "81"]).num_frames
        81
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse, with underscores in the names of options read as dashes."""
        import sys

        given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args([self._dashed(word) for word in given], namespace)

    def _dashed(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name.replace("_", "-")
        if name.startswith("--") and name not in self._option_string_actions and dashed in self._option_string_actions:
            return f"{dashed}{equals}{value}"
        return word

    def error(self, message: str) -> NoReturn:
        """As in argparse; an unknown option is answered with the nearest one."""
        said, _, words = message.partition("unrecognized arguments: ")
        if words and not said:
            unknown = [word.partition("=")[0] for word in words.split() if word.startswith("--")]
            hints = [f"{u}: {hint}" for u in unknown if (hint := nearest(u, self.option_names()))]
            message += f" ({'; '.join(hints)})" if hints else " (--help lists all options)"
        super().error(printable(message))

    def option_names(self) -> list[str]:
        """The long options of this parser."""
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]


class StepParser(CommandParser):
    """The parser of a subcommand. It complains itself about what it does not know, with its own usage and options."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in argparse, but nothing may be left over."""
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options, rest


def add_subcommands(
    parser: argparse.ArgumentParser, metavar: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Adds a group of required subcommands; ``add_parser`` of the result adds one."""
    return parser.add_subparsers(metavar=metavar, required=True, parser_class=StepParser)


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean ...?`` where a known name is near; ``""`` otherwise.

    Example:
        >>> nearest("max_step", ["max_steps", "beta"])
        'did you mean max_steps?'
    """
    near = difflib.get_close_matches(name.replace("_", "-") if name.startswith("--") else name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser's subcommands that do something themselves, in order; the parser itself if it has none."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for sub in action.choices.values():
            yield from walk(sub)


def names_as_typed(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Internal name of each argument -> the option a user types; see :func:`reward_model.terminal.program.as_typed`."""
    found = {}
    for action in parser._actions:
        long = [name for name in action.option_strings if name.startswith("--")]
        if long and action.dest != "help":
            found[action.dest] = long[0]
    # A command with one device calls it as the judge does; one that has two keeps them apart.
    return {**{name.removeprefix("judge_"): option for name, option in found.items()}, **found}
