"""The options of all commands and recipes, read from their parsers while the site is built.

``{command-options}`` in a page becomes a section for each command and recipe with a table of its options. The page
itself cannot go stale: what a parser knows is what it shows.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def parsers() -> Iterator[tuple[str, str, argparse.ArgumentParser | None]]:
    """(command line, what it does, parser) of every command and recipe; no parser where TRL's has to be asked."""
    from cac_align.cli import build_parser
    from cac_align.commands.train import RUN, TRAIN
    from reward_model.terminal.parser import walk

    for parser in walk(build_parser()):
        if not any(action.dest == "options" for action in parser._actions):
            yield parser.prog, parser.description or "", parser
    for group in (TRAIN, RUN):
        for name, script in group.recipes.items():
            module = load(RECIPES / script)
            said = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
            found = module.parser() if hasattr(module, "parser") else None
            yield f"cac-align {group.NAME} {name}", f"{said} Script: `recipes/{script}`.", found


def load(script: Path) -> Any:
    """A recipe as a module; nothing heavy is imported."""
    spec = importlib.util.spec_from_file_location(f"options_of_{script.stem}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """(how it is written, what it means) of each argument, in the parser's order."""
    found = []
    for action in parser._actions:
        if action.dest in ("help", "command") or action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = "" if action.nargs == 0 or not action.option_strings else f" {_value(action)}"
        text = (action.help or "") % {"default": action.default} if "%(" in (action.help or "") else action.help or ""
        needed = "; required" if action.required and action.option_strings else ""
        found.append((f"{names}{value}", f"{text}{needed}"))
    return found


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    word = action.metavar or action.dest.upper()
    return f"{word} ..." if action.nargs in ("+", "*") else str(word)


def stage_rows() -> list[tuple[str, str]]:
    """Of stages 1 and 2: what is not TRL's own."""
    from dataclasses import fields

    from reward_model.minis.stages import MiniArguments

    own = [(f"--{f.name.replace('_', '-')} {f.default}", f.metadata["help"]) for f in fields(MiniArguments)]
    return [
        ("--config FILE_OR_PRESET", "YAML file, or the name of a preset"),
        ("--set NAME=VALUE ...", "settings that win over the file"),
        ("--list-settings", "print every setting and its meaning, and stop"),
        *own,
        ("--NAME VALUE", "every field of TRL's SFTConfig and ModelConfig, such as --max-steps or --lora-r"),
    ]


def markdown() -> str:
    """All of it as Markdown."""
    parts = []
    for line, text, parser in parsers():
        table = rows(parser) if parser is not None else stage_rows()
        cells = [f"| `{_cell(name)}` | {_prose(meaning)} |" for name, meaning in table]
        parts += [f"### {line}", text, "\n".join(["| option | meaning |", "|---|---|", *cells])]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Text of a cell in which nothing is markup: dollars begin no formula, stars no emphasis."""
    return re.sub(r"([$*<\[_])", r"\\\1", _cell(text))


class CommandOptions(SphinxDirective):
    """``{command-options}``."""

    def run(self) -> list[nodes.Node]:
        """The sections, parsed where the directive stands."""
        lines = StringList(markdown().split("\n"), source="command-options")
        holder = nodes.section()
        self.state.nested_parse(lines, self.content_offset, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directive."""
    app.add_directive("command-options", CommandOptions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
