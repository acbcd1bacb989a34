"""Imports go downwards only: recipes -> cac_align -> reward_model, and inside reward_model from the top layer to the
schema.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Parts of reward_model by height; a part may import its own height and below.
LAYERS = (
    (
        "schema",
        "video",
        "media",
        "grounding",
        "files",
        "folders",
        "lazy",
        "shipped",
        "extras",
        "terminal",
        "command_parser",
        "replaced_forward",
        "devices",
        "described",
        "secret",
        "setting_keys",
    ),
    ("prompts", "parsing", "readout", "rewards"),
    ("backends", "config", "judge", "turns"),
    ("data", "world", "training", "evaluation"),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
#: Messages and sampling are words that prompts write and backends read; they stand with the schema.
HEIGHT["backends.base"] = 0


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of every import, at the top or inside a function; relative ones are resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def uses_name(name: str, *tops: str) -> bool:
    return name.partition(".")[0] in tops


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("reward_model", ("cac_align", "recipes", "tests", "benchmarks", "diffusers")),
        ("cac_align", ("recipes", "tests", "benchmarks")),
        ("recipes", ("tests", "recipes", "benchmarks")),
    ],
)
def test_no_package_imports_what_stands_above_it(package, forbidden):
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if uses_name(name, *forbidden)
    ]
    assert not found


def test_layers_of_the_judge_are_kept():
    wrong = []
    for path in modules("reward_model"):
        part = path.relative_to(ROOT / "reward_model").with_suffix("").parts[0]
        if part == "__init__":
            continue  # the list of public names, loaded when used
        assert part in HEIGHT, f"{path.relative_to(ROOT)}: give {part!r} a place in LAYERS"
        for line, name in imports(path):
            top, *parts = name.split(".")
            target = next((t for t in (".".join(parts[:2]), parts[0]) if t in HEIGHT), None) if parts else None
            if top == "reward_model" and target and HEIGHT[target] > HEIGHT[part]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} ({part}) imports {target}, which stands above it")
    assert not wrong


def test_backends_do_not_know_the_judge():
    found = [
        f"{p.name}:{n}" for p in modules("reward_model/backends") for n, i in imports(p) if "reward_model.judge" in i
    ]
    assert not found


def test_the_walk_sees_the_files_it_is_meant_to_see(tmp_path):
    """A walk that finds nothing would pass every rule above."""
    assert len(modules("reward_model")) > 20 and len(modules("cac_align")) > 10
    names = {name for path in modules("reward_model") for _, name in imports(path)}
    assert {"reward_model.schema.Box", "numpy"} <= names


def test_imports_inside_functions_and_relative_ones_are_seen(monkeypatch, tmp_path):
    folder = tmp_path / "reward_model" / "world"
    folder.mkdir(parents=True)
    (folder / "x.py").write_text(
        "def f():\n    import cac_align.cli\n    from ..judge import TwoTurnJudge\n    from . import scene\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert [name for _, name in imports(folder / "x.py")] == [
        "cac_align.cli",
        "reward_model.judge.TwoTurnJudge",
        "reward_model.world.scene",
    ]


def test_every_module_says_what_it_is_for():
    bare = [
        str(path.relative_to(ROOT))
        for package in ("reward_model", "cac_align", "recipes")
        for path in modules(package)
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not bare
