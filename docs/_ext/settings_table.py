"""``.. settings-table:: package.module.Class`` shows the settings of a dataclass: values, defaults, meanings.

The texts are those of the source (``reward_model.terminal.described``), so the page cannot fall behind the code. What
``described`` appends to a class's docstring for ``help()`` is left out on the page, which has the table.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from reward_model.terminal.described import HEADING, Setting, notes_on, settings_of

COLUMNS = (("setting", 22), ("values", 18), ("default", 16), ("meaning", 44))
#: Marks a setting that may differ when a run is continued.
FREE = "*"


def table_nodes(cls: type) -> list[nodes.Node]:
    """A table for each group of settings, under its heading; without groups, one table."""
    found: list[nodes.Node] = []
    groups: dict[str, list[Setting]] = {}
    settings = settings_of(cls)
    for setting in settings:
        groups.setdefault(setting.group, []).append(setting)
    for group, members in groups.items():
        if group:
            found.append(nodes.rubric(text=group))
        found.append(_table(members))
    if any(s.metadata.get("free") for s in settings):
        found.append(nodes.paragraph(text=f"{FREE} may differ when a run is continued; all others make another run."))
    return found


def _table(settings: list[Setting]) -> nodes.table:
    group = nodes.tgroup(cols=len(COLUMNS))
    group += [nodes.colspec(colwidth=width) for _, width in COLUMNS]
    group += nodes.thead("", nodes.row("", *(_cell(nodes.Text(name)) for name, _ in COLUMNS)))
    body = nodes.tbody()
    for s in settings:
        name = [nodes.literal(text=s.name)] + ([nodes.Text(f" {FREE}")] if s.metadata.get("free") else [])
        default = "null" if s.default is None else str(s.default).lower() if s.default in (True, False) else s.default
        shown = nodes.literal(text=repr(default) if default == "" else str(default))
        body += nodes.row(
            "", _cell(*name), _cell(nodes.Text(s.kind + notes_on(s))), _cell(shown), _cell(nodes.Text(s.text))
        )
    group += body
    return nodes.table("", group, classes=["settings"])


def _cell(*inline: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", *inline))


class SettingsTable(Directive):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Its nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        return table_nodes(getattr(importlib.import_module(module), name))


def leave_out(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Cuts the list of settings off a docstring."""
    if what == "class" and HEADING in lines:
        del lines[lines.index(HEADING) :]


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directive; docstrings are cut before napoleon reads them."""
    app.add_directive("settings-table", SettingsTable)
    app.connect("autodoc-process-docstring", leave_out, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
