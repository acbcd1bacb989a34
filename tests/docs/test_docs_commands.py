"""The page of the command line shows every command with every option, each with a meaning."""

import importlib.util
import re

from documents import DOCS, ROOT

EXTENSION = DOCS / "_ext" / "command_options.py"


def shown():
    spec = importlib.util.spec_from_file_location("command_options", EXTENSION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_is_on_the_page_with_a_meaning():
    module = shown()
    found = [(line, parser) for line, _, parser in module.parsers()]
    text = module.markdown()
    assert "```{command-options}" in (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8")
    lines = [line for line, _ in found]
    assert {"cac-align score", "cac-align data validate", "cac-align vbench score"} <= set(lines)
    assert {"cac-align train stage1", "cac-align train flow-grpo", "cac-align run table2"} <= set(lines)
    assert all(f"### {line}\n" in text for line in lines)
    for line, parser in found:
        names = {n for a in parser._actions for n in a.option_strings if n.startswith("--")} if parser else set()
        section = text.partition(f"### {line}\n")[2].partition("\n### ")[0]
        missing = [n for n in names - {"--help"} if not re.search(rf"`[^`]*{re.escape(n)}\b", section)]
        assert not missing, f"{line} lacks {missing}"
        mute = [name for name, meaning in (module.rows(parser) if parser else ()) if len(meaning.split()) < 2]
        assert not mute, f"{line}: say what {mute} mean"


def test_the_page_names_every_command_of_the_program():
    from cac_align.cli import COMMANDS

    page = (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8")
    assert all(f"`cac-align {command.NAME}`" in page for command in COMMANDS)


def test_nothing_of_a_meaning_is_markup():
    assert shown()._prose("default: $A, else $B, *.mp4 | <x>") == r"default: \$A, else \$B, \*.mp4 \| \<x>"


def test_the_tables_of_extras_are_those_of_the_package():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for page in (ROOT / "README.md", DOCS / "install.md"):
        text = page.read_text(encoding="utf-8")
        for name, packages in extras.items():
            if name in ("docs", "dev", "all"):
                continue
            row = re.search(rf"^\| `{name}` \|(.*)$", text, re.MULTILINE)
            assert row, f"{page.name} lacks the extra {name}"
            brings = [re.split(r"[<>=\[]", p)[0] for p in packages]
            assert all(p in row[1] for p in brings), f"{page.name}: {name} brings {brings}"


def test_every_package_that_may_be_missing_has_an_extra_or_a_name_of_its_own():
    import tomllib

    from reward_model.extras import PIP

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for module, line in PIP.items():
        found = re.fullmatch(r"cac-align\[(\w+)\]", line)
        if found:
            assert any(p.startswith(module) for p in extras[found[1]]), f"{module} is not in the extra {found[1]}"
