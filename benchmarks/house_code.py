"""What can be counted in source files without running them: sizes, branches, types, names, words and imports.

Everything is read with ``ast``; nothing is imported. A *place* is a package folder, its *rooms* are its modules and its
sub-packages, each of which counts as one. An *arrow* leads from one room of a place to another that it imports, at the
top of a module, inside a function or for types alone.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: The packages whose house is measured.
PACKAGES = ("reward_model", "cac_align", "recipes")
#: Pages of prose, by glob.
PAGES = ("*.md", "docs/**/*.md", "recipes/**/*.yaml", "assets/*/README.md")
#: A function above this has too many branches.
MOST_BRANCHES = 15

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: Words and patterns that make a reader stumble.
WORDS = {
    # "There is no file" is plain English.
    '"is no" and a noun': (
        r"(?<!here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|better\b|worse\b)[a-z]+"
    ),
    "private codes": r"\b[FG]-\d+\b",
    '"could be had"': r"\b(?:could|can|may|to|is|are) be had\b",
    '"to the bit"': r"\bto the bit\b",
    '"as a rule"': r"\bas a rule\b",
    '"mend"': r"\bmend(?:s|ed|ing)?\b",
    '"come by"': r"\b(?:come|comes|came|coming) by\b",
}
#: Functions that a program calls by this name in whatever module it finds them: the start of a program, and the two
#: that each subcommand of ``cac-align`` has.
PROTOCOL = ("add_arguments", "main", "run")
#: A public class or function at the top of a module, as its line begins.
_TOP_NAME = re.compile(r"^(?:async +)?(?:def|class) +([^\W_]\w*)", re.MULTILINE)
#: A docstring that opens with one of these is a riddle, not a name.
OPENINGS = ("What", "How", "Which", "Whether", "Where")


@dataclass(frozen=True)
class Source:
    """One file: where it lies under the root, and its text."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def num_lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def module(self) -> str:
        """The dotted name; a package's is that of its folder."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def is_door(self) -> bool:
        """An ``__init__`` without a function or a class of its own: a list of names."""
        own = [n for n in self.tree.body if isinstance(n, Function | ast.ClassDef)]
        return self.path.name == "__init__.py" and not own

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def functions(self) -> list[Function]:
        """All functions and methods, those inside others too."""
        return [node for node in self.nodes if isinstance(node, Function)]


def read_sources(root: Path, packages: Iterable[str] = PACKAGES) -> list[Source]:
    """All Python files of these packages under a folder."""
    paths = sorted(p for package in packages for p in (root / package).rglob("*.py"))
    return [Source(p.relative_to(root), p.read_text(encoding="utf-8")) for p in paths]


# --- functions --------------------------------------------------------------------------------------------------------


def complexity(function: Function) -> int:
    """Cyclomatic complexity of McCabe, with radon's rule: one, and one for each ``if``, ``elif``, conditional
    expression, loop, ``else`` of a loop or a ``try``, ``except``, ``assert``, ``lambda``, comprehension and each of its
    conditions, ``case`` other than ``_``, and each ``and`` or ``or`` between two operands. Functions and classes inside
    count by themselves.

    Example:
        >>> complexity(ast.parse("def f(x):\\n    return 1 if x and x > 1 else [y for y in x if y]").body[0])
        5
    """
    return 1 + sum(_branches(node) for node in function.body)


def _branches(node: ast.AST) -> int:
    if isinstance(node, Function | ast.ClassDef):
        return 0
    return _own_branches(node) + sum(_branches(child) for child in ast.iter_child_nodes(node))


def _own_branches(node: ast.AST) -> int:
    count = 0
    match node:
        case ast.If() | ast.IfExp() | ast.Assert() | ast.Lambda():
            count = 1
        case ast.For() | ast.AsyncFor() | ast.While():
            count = 1 + bool(node.orelse)
        case ast.Try() | ast.TryStar():
            count = len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            count = len(node.values) - 1
        case ast.comprehension():
            count = 1 + len(node.ifs)
        case ast.match_case():
            count = int(not (isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None))
    return count


def has_bare_any(function: Function) -> bool:
    """Whether a parameter or the result is annotated as ``Any`` or ``Any | None``; ``dict[str, Any]`` is not bare."""
    settings = function.args
    given = [*settings.posonlyargs, *settings.args, *settings.kwonlyargs, settings.vararg, settings.kwarg]
    notes = [function.returns, *(a.annotation for a in given if a is not None)]
    return any(ast.unparse(note).strip("'\"") in ("Any", "Any | None", "Optional[Any]") for note in notes if note)


def length(function: Function) -> int:
    """Lines from ``def`` to the last, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def complex_functions(sources: Iterable[Source], most: int = MOST_BRANCHES) -> list[tuple[int, str]]:
    """Complexity and place of each function above ``most``, the worst first."""
    rows = [(complexity(f), f"{s.path}:{f.lineno} {f.name}") for s in sources for f in s.functions]
    return sorted((row for row in rows if row[0] > most), key=lambda row: (-row[0], row[1]))


def shared_names(sources: Iterable[Source]) -> dict[str, list[str]]:
    """Public classes and functions at the top of more than one module. What every recipe must have is not counted, nor
    :data:`PROTOCOL`; overloads of one function are one.
    """
    homes: dict[str, dict[str, None]] = defaultdict(dict)
    counted = [source for source in sources if source.path.parts[0] != "recipes"]
    written = [set(_TOP_NAME.findall(source.text)).difference(PROTOCOL) for source in counted]
    times = Counter(name for names in written for name in names)
    for source, names in zip(counted, written, strict=True):
        if all(times[name] == 1 for name in names):
            continue  # parsing all of them would take seconds
        for node in source.tree.body:
            if (
                isinstance(node, Function | ast.ClassDef)
                and not node.name.startswith("_")
                and node.name not in PROTOCOL
            ):
                homes[node.name][str(source.path)] = None
    return {name: list(places) for name, places in sorted(homes.items()) if len(places) > 1}


# --- words ------------------------------------------------------------------------------------------------------------


def count_words(texts: Iterable[str]) -> dict[str, int]:
    """How often each pattern of :data:`WORDS` occurs."""
    texts = list(texts)
    return {name: sum(len(re.findall(pattern, text)) for text in texts) for name, pattern in WORDS.items()}


def riddles(sources: Iterable[Source]) -> list[str]:
    """Places of docstrings that open with one of :data:`OPENINGS`."""
    found = []
    for source in sources:
        for node in source.nodes:
            if not isinstance(node, Function | ast.ClassDef | ast.Module):
                continue
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].rstrip(",:;'s") in OPENINGS:
                found.append(f"{source.path}:{getattr(node, 'lineno', 1)}")
    return found


def read_pages(root: Path) -> list[str]:
    """The texts of all pages of prose."""
    return [path.read_text(encoding="utf-8") for path in sorted({p for glob in PAGES for p in root.glob(glob)})]


# --- imports ----------------------------------------------------------------------------------------------------------


def imported_names(source: Source) -> Iterator[str]:
    """Full dotted name of every import, relative ones resolved."""
    package = source.path.with_suffix("").parts[:-1]
    for node in source.nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def import_graph(sources: Iterable[Source]) -> dict[str, set[str]]:
    """Module -> modules of the same sources that it imports. A name that a package's ``__init__`` hands on leads to
    that ``__init__``; what an ``__init__`` without code of its own imports is left out, since it imports all it names.
    """
    sources = list(sources)
    known = {source.module for source in sources}
    graph: dict[str, set[str]] = {source.module: set() for source in sources}
    for source in sources:
        if source.is_door:
            continue
        homes = {_home(name, known) for name in imported_names(source)}
        graph[source.module] = homes - {"", source.module}
    return graph


def _home(name: str, known: Collection[str]) -> str:
    """The module of a dotted name, "" for one from elsewhere."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another, each of more than one, sorted."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) | {a} for a in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reachable(graph: Mapping[str, Iterable[str]], start: str) -> set[str]:
    found: set[str] = set()
    open_nodes = list(graph[start])
    while open_nodes:
        node = open_nodes.pop()
        if node not in found:
            found.add(node)
            open_nodes += graph[node]
    return found


@dataclass(frozen=True)
class Place:
    """The rooms of a package folder and what leads from one to another: pairs of rooms -> imports between them."""

    name: str
    num_files: int
    num_lines: int
    rooms: tuple[str, ...]
    arrows: Mapping[tuple[str, str], int]

    def up(self) -> list[tuple[str, str]]:
        """The arrows that must go before the rooms can be put on floors: of each circle of rooms the one with the
        fewest imports, until there is no circle. An import of the place's own list of names runs up as well.
        """
        found = [pair for pair in self.arrows if pair[1] == "__init__"]
        left = {pair: count for pair, count in self.arrows.items() if pair not in found}
        while groups := circles(self._graph(left)):
            inside = [pair for pair in left if any(pair[0] in group and pair[1] in group for group in groups)]
            weakest = min(inside, key=lambda pair: (left[pair], pair))
            found.append(weakest)
            del left[weakest]
        return found

    def _graph(self, arrows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
        graph: dict[str, set[str]] = {room: set() for room in (*self.rooms, "__init__")}
        for a, b in arrows:
            graph[a].add(b)
        return graph


def places(sources: Iterable[Source], graph: Mapping[str, Iterable[str]]) -> list[Place]:
    """Every package folder with its rooms. Files and lines are its own and those of its sub-packages, ``__init__``
    included.
    """
    sources = list(sources)
    doors = {s.module for s in sources if s.is_door}
    found = []
    for folder in sorted({s.path.parent for s in sources}):
        name = ".".join(folder.parts)
        inside = [s for s in sources if s.path.is_relative_to(folder)]
        room_of = {s.module: _room(s, folder) for s in inside}
        arrows: Counter[tuple[str, str]] = Counter()
        for module, room in room_of.items():
            for target in graph[module]:
                if target in room_of and room_of[target] != room and module != name:
                    if room_of[target] == "__init__" and target not in doors:
                        continue  # code that all rooms of the place share lies on its ground floor
                    arrows[room, room_of[target]] += 1
        rooms = tuple(sorted(set(room_of.values()) - {"__init__"}))
        found.append(Place(name, len(inside), sum(s.num_lines for s in inside), rooms, dict(arrows)))
    return found


def _room(source: Source, folder: Path) -> str:
    """The first part of the file's way from the folder."""
    return source.path.relative_to(folder).with_suffix("").parts[0]
