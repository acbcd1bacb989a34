"""The figures of the house, on a house of a few files."""

from __future__ import annotations

import ast
import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

FILES = {
    "top/__init__.py": '"""A list of names."""\nfrom top.hall import enter\n',
    "top/hall.py": "from top.kitchen import cook\n\ndef enter():\n    return cook()\n",
    "top/kitchen/__init__.py": "from top.kitchen.stove import cook\n",
    "top/kitchen/stove.py": "def cook():\n    from top import cellar\n    return cellar.fetch()\n",
    "top/cellar.py": "from top.kitchen import cook\nfrom .kitchen import stove\n\ndef fetch():\n    return 1\n",
    "top/attic.py": "from top import enter\n",
}


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in ("house", "house_code", "house_journeys")}
    sys.path.remove(str(FOLDER))


@pytest.fixture
def house_root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("body", "branches"),
    [
        ("pass", 1),
        ("if x: pass\nelif y: pass\nelse: pass", 3),
        ("for x in y:\n    pass\nelse:\n    pass", 3),
        ("while x and y or z: pass", 4),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 4),
        ("with x: pass", 1),
        ("assert x", 2),
        ("return 1 if x else 2", 2),
        ("return [a for a in x for b in a if a if b]", 5),
        ("return lambda: 1", 2),
        ("match x:\n    case 1: pass\n    case 2: pass\n    case _: pass", 3),
        ("def inner():\n    if x: pass\nreturn inner", 1),
    ],
)
def test_branches_are_counted_as_radon_counts_them(modules, body, branches):
    text = "def f(x, y, z):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    assert modules["house_code"].complexity(ast.parse(text).body[0]) == branches


@pytest.mark.parametrize(
    ("signature", "bare"),
    [
        ("(x: Any)", True),
        ("(*, x: int, **y: Any)", True),
        ("() -> Any | None", True),
        ("(x: 'Any')", True),
        ("(x: dict[str, Any]) -> list[Any]", False),
        ("(x)", False),
    ],
)
def test_a_bare_any_is_told_from_one_inside(modules, signature, bare):
    function = ast.parse(f"def f{signature}: pass").body[0]
    assert modules["house_code"].has_bare_any(function) is bare


def test_rooms_arrows_and_circles_of_a_small_house(modules, house_root):
    code = modules["house_code"]
    sources = code.read_sources(house_root, ["top"])
    graph = code.import_graph(sources)
    assert graph["top.hall"] == {"top.kitchen"}
    assert graph["top.kitchen.stove"] == {"top.cellar"}  # inside a function
    assert graph["top.cellar"] == {"top.kitchen", "top.kitchen.stove"}  # a relative one too
    assert graph["top"] == set()  # a list of names imports all it names
    assert code.circles(graph) == [["top.cellar", "top.kitchen.stove"]]
    top, kitchen = code.places(sources, graph)
    assert (top.name, top.num_files, top.rooms) == ("top", 6, ("attic", "cellar", "hall", "kitchen"))
    assert top.arrows == {
        ("attic", "__init__"): 1,
        ("hall", "kitchen"): 1,
        ("kitchen", "cellar"): 1,
        ("cellar", "kitchen"): 2,
    }
    assert top.up() == [("attic", "__init__"), ("kitchen", "cellar")]  # the weaker half of the circle
    assert (kitchen.name, kitchen.rooms, dict(kitchen.arrows)) == ("top.kitchen", ("stove",), {})


def test_a_name_in_two_modules_is_found_and_a_private_one_is_not(modules):
    code = modules["house_code"]
    texts = {"a/x.py": "class Row: pass\ndef _same(): pass", "a/y.py": "def Row(): pass\ndef _same(): pass"}
    sources = [code.Source(Path(path), text) for path, text in texts.items()]
    assert code.shared_names(sources) == {"Row": ["a/x.py", "a/y.py"]}
    texts = {"a/x.py": "def run(): pass\n" + "def same(): pass\n" * 2, "a/y.py": "def run(): pass"}
    assert code.shared_names([code.Source(Path(path), text) for path, text in texts.items()]) == {}


def test_no_name_stands_for_two_things(modules):
    code = modules["house_code"]
    assert code.shared_names(code.read_sources(Path(__file__).resolve().parents[2])) == {}


@pytest.mark.slow
def test_no_function_has_more_branches_than_one_can_follow(modules):
    code = modules["house_code"]
    assert code.complex_functions(code.read_sources(Path(__file__).resolve().parents[2])) == []


def test_words_that_make_a_reader_stumble_are_counted(modules):
    code = modules["house_code"]
    found = code.count_words(
        ["It is no folder and is no longer one (F-12); there is no file.", "As a rule of thumb; recommend, mended."]
    )
    assert found['"is no" and a noun'] == 1
    assert found["private codes"] == 1
    assert found['"mend"'] == 1
    text = '"""What it is."""\ndef f():\n    """Whatever."""\nclass C:\n    """How: so."""\n'
    assert code.riddles([code.Source(Path("a.py"), text)]) == ["a.py:1", "a.py:4"]


def test_a_table_is_read_back_and_stands_beside_a_later_one(modules):
    house = modules["house"]
    before = house.read_table(house.table([("files", "1, 2"), ("gone", "3")]))
    assert before == {"files": "1, 2", "gone": "3"}
    text = house.table([("files", "4, 5"), ("new", "6")], before)
    assert text.splitlines()[2:] == ["| files | 1, 2 | 4, 5 |", "| new | - | 6 |", "| gone | 3 | - |"]
    assert house.read_table(text)["files"] == "4, 5"


def test_the_spread_of_numbers(modules):
    assert modules["house"].spread(range(1, 12)) == "6 / 10 / 11"


def test_a_journey_sees_threads_and_edges_but_no_import_and_no_stranger(modules, tmp_path, monkeypatch):
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "first.py").write_text(
        "import threading\n\n\ndef go():\n    from rooms import second\n    list(map(second.twice, [1]))\n"
        "    thread = threading.Thread(target=second.late)\n    thread.start()\n    thread.join()\n"
    )
    (tmp_path / "rooms" / "second.py").write_text(
        "from rooms import third\n\n\ndef twice(x):\n    return [third.add(x) for _ in 'ab']\n\n\ndef late():\n"
        "    return 1\n\n\ndef unused():\n    return 2\n\n\nSIZE = third.add(1)\n"
    )
    (tmp_path / "rooms" / "third.py").write_text("class Made:\n    pass\n\n\ndef add(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "rooms" / "finder.py").write_text(
        "class Finder:\n    def find_spec(self, name, path=None, target=None):\n        return None\n"
    )
    footprint = modules["house_journeys"].Footprint(tmp_path, ("rooms",))
    first = importlib.import_module("rooms.first")
    monkeypatch.setattr(sys, "meta_path", [importlib.import_module("rooms.finder").Finder(), *sys.meta_path])
    before = sys.getprofile(), threading.getprofile()
    with footprint.watching():
        first.go()
    assert (sys.getprofile(), threading.getprofile()) == before
    assert footprint.functions == {
        ("rooms/first.py", "go"),
        ("rooms/second.py", "twice"),
        ("rooms/second.py", "late"),
        ("rooms/third.py", "add"),
    }
    assert footprint.edges == {("rooms/first.py", "rooms/second.py"), ("rooms/second.py", "rooms/third.py")}
    assert footprint.mutual == []


def test_a_thread_that_waits_since_before_the_watch_is_seen_from_then_on(modules, tmp_path, monkeypatch):
    (tmp_path / "halls").mkdir()
    (tmp_path / "halls" / "worker.py").write_text("def early():\n    return 1\n\n\ndef late():\n    return 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = importlib.import_module("halls.worker")
    footprint = modules["house_journeys"].Footprint(tmp_path, ("halls",))
    with footprint.reaching_threads(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(worker.early).result() == 1
        with footprint.watching():
            assert pool.submit(worker.late).result() == 2
        assert pool.submit(worker.early).result() == 1
    assert footprint.functions == {("halls/worker.py", "late")}


def test_a_class_is_found_wherever_it_stands_and_only_if_it_is_one(modules, house_root, monkeypatch):
    monkeypatch.syspath_prepend(str(house_root))
    named = modules["house_journeys"].named
    assert named("fetch", ("top",), house_root).__module__ == "top.cellar"
    (house_root / "top" / "shed.py").write_text("def fetch():\n    return 2\n")
    with pytest.raises(LookupError, match=r"fetch is at the top of 2 modules.*cellar\.py, top/shed\.py"):
        named("fetch", ("top",), house_root)
    with pytest.raises(LookupError, match="nowhere is at the top of 0 modules"):
        named("nowhere", ("top",), house_root)


@pytest.mark.slow
def test_the_table_of_the_recipes_holds_every_figure(modules, monkeypatch, capsys):
    house = modules["house"]
    monkeypatch.setattr(house, "PACKAGES", ("recipes",))
    assert house.main(["--journeys", "none", "--list"]) == 0
    text = capsys.readouterr().out
    rows = house.read_table(text.partition("\n\n")[0])
    count = len(list((FOLDER.parent / "recipes").rglob("*.py")))
    assert rows["all packages: files, lines"].split(",")[0] == rows["recipes: files, lines"].split(",")[0] == str(count)
    assert rows["circles of modules"] == "0"
    assert "Functions of complexity above 15:" in text


@pytest.mark.slow
def test_every_journey_enters_the_files_it_is_named_after(modules):
    found = modules["house_journeys"].run_journeys()
    ends = (
        "CaCReward._open",
        "CaCReward.judge",
        "best_of_n",
        "FlowGRPOTrainer.run_step",
        "FlowGRPOTrainer.run_step",
        "open_trainer",
        "GrpoTrainer.run_step",
    )
    assert len(found) == len(ends)
    for footprint, name in zip(found.values(), ends, strict=True):
        assert name in {function for _, function in footprint.functions}
