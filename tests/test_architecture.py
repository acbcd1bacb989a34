"""Imports go downwards only: recipes -> cac_align -> reward_model, and inside each package from floor to floor.

A room is a module, or a package with all that is in it; ``TYPE_CHECKING`` blocks count, lists of public names in an
``__init__`` do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Rooms of the two packages, the ground floor first. A room imports rooms of lower floors only.
FLOORS = {
    "reward_model": (
        (
            "anomalies",
            "digests",
            "extras",
            "files",
            "folders",
            "lazy",
            "moved",
            "shipped",
            "statistics",
            "strict_json",
        ),
        ("answer_object", "domain", "journal", "terminal"),
        ("conversation", "schema"),
        ("grounding", "parsing", "prompts", "video"),
        ("config", "rewards", "tracks", "world"),
        ("turns",),
        ("backends", "chunks"),
        ("active", "data", "domain_check", "evidence", "setting_keys", "unified"),
        ("engine", "judge"),
        ("evaluation", "training"),
        ("minis", "second_look"),
    ),
    "cac_align": (
        ("latent_cells", "pipelines", "prompts", "report", "rewards"),
        ("metrics", "rating", "selection", "serving"),
        ("corpus", "demo", "flow_grpo"),
        ("commands", "minis", "preference", "probes", "table2"),
        ("cli",),
        ("__main__",),
    ),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and full dotted name of every import, at the top or inside a function; relative ones are resolved."""
    return tuple(_imports(path))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module, those inside of others too: a tenth of what ``ast.walk`` goes through."""
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, part, ()) if not isinstance(node, ast.expr) else ():
            yield child
            yield from statements(child)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in statements(source(path)):
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


def packages() -> list[str]:
    """Dotted names of all packages with more than one room."""
    found = [p.parent for package in FLOORS for p in modules(package) if p.name == "__init__.py"]
    return [".".join(f.relative_to(ROOT).parts) for f in found]


def arrows(package: str) -> dict[str, dict[str, str]]:
    """For each room of a package the rooms it imports, each with a place where it does."""
    folder = ROOT.joinpath(*package.split("."))
    rooms = {p.stem for p in folder.glob("*.py")} | {p.name for p in folder.iterdir() if (p / "__init__.py").is_file()}
    found: dict[str, dict[str, str]] = {room: {} for room in sorted(rooms - {"__init__"})}
    for path in modules(str(folder.relative_to(ROOT))):
        room = path.relative_to(folder).with_suffix("").parts[0]
        for line, name in imports(path) if room != "__init__" else ():
            target = name.removeprefix(f"{package}.").partition(".")[0] if name.startswith(f"{package}.") else ""
            if target in found and target != room:
                found[room].setdefault(target, f"{path.relative_to(ROOT)}:{line}")
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_imports_lower_floors_only(package):
    height = {room: floor for floor, rooms in enumerate(FLOORS[package]) for room in rooms}
    graph = arrows(package)
    assert set(graph) == set(height), "give every room a floor, and no other"
    wrong = [
        f"{place}: {room} imports {target}, which is not below it"
        for room, targets in graph.items()
        for target, place in targets.items()
        if height[target] >= height[room]
    ]
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_as_low_as_it_can(package):
    """A floor says how much a room rests on; a list that drifts from the code says nothing."""
    graph = arrows(package)
    heights: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        heights[room] = 1 + max((heights[target] for target in graph[room]), default=-1)
    assert heights == {room: floor for floor, rooms in enumerate(FLOORS[package]) for room in rooms}


def test_no_rooms_of_any_package_import_each_other():
    circles = []
    for package in packages():
        try:
            list(TopologicalSorter(arrows(package)).static_order())
        except CycleError as error:
            circles.append(f"{package}: {' -> '.join(reversed(error.args[1]))}")
    assert not circles


def test_the_library_imports_no_mini():
    """Whoever trains one hands in its parts; without the minis everything else still works."""
    inside = [p for package in FLOORS for p in modules(package) if "minis" not in p.relative_to(ROOT).parts]
    listed = ROOT / "reward_model" / "moved.py"  # former names of modules, which are texts
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in inside
        for line, name in imports(path)
        if "minis" in name.split(".")
    ]
    texts = [
        str(p.relative_to(ROOT)) for p in inside if p != listed and "_model.minis" in p.read_text(encoding="utf-8")
    ]
    assert not found and not texts


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
    (folder / "y.py").write_text(
        "try:\n    import a\nexcept ValueError:\n    import b\nelse:\n    import c\nfinally:\n    import d\n"
        "match x:\n    case 1:\n        if x:\n            import e\n        else:\n            import f\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert [name for _, name in imports(folder / "y.py")] == list("abcdef")
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
        if path.stat().st_size and not ast.get_docstring(source(path))
    ]
    assert not bare
