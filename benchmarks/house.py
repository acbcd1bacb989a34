"""The figures of the house in one Markdown table: sizes, arrows, branches, types, names, words and journeys.

    python benchmarks/house.py --output before.md
    python benchmarks/house.py --before before.md          # the same table with a column for the figures before
    python benchmarks/house.py --journeys c --files        # one journey, and the files it enters
    python benchmarks/house.py --journeys none --list      # sources alone, and what is behind the figures

``house_code.py`` says how sources are counted, ``house_journeys.py`` what a journey is: (a) the judge, (b) best of n,
(c) a step of Flow-GRPO, (d) stage 3. The journeys run with the minis on the CPU, two minutes in all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

# Before torch loads, and for the packages of this checkout, whatever else is installed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from house_code import (
    MOST_BRANCHES,
    PACKAGES,
    Source,
    circles,
    complex_functions,
    count_words,
    has_bare_any,
    import_graph,
    length,
    places,
    read_pages,
    read_sources,
    riddles,
    shared_names,
)
from house_journeys import Footprint, run_journeys

ROOT = Path(__file__).resolve().parents[1]
Row = tuple[str, str]


def spread(values: Iterable[int]) -> str:
    """``median / 90th percentile / largest`` of whole numbers."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):g} / {ordered[int(0.9 * (len(ordered) - 1))]} / {ordered[-1]}"


def size_rows(sources: Sequence[Source]) -> list[Row]:
    """Files and lines of the whole and of every package folder, and lengths of files and functions."""
    graph = import_graph(sources)
    files = [s.num_lines for s in sources if s.path.name != "__init__.py"]
    functions = [length(f) for s in sources for f in s.functions]
    rows = [
        ("all packages: files, lines", f"{len(sources)}, {sum(s.num_lines for s in sources)}"),
        ("lines of a file, `__init__` left out: median / p90 / most", spread(files)),
        ("lines of a function: median / p90 / most", spread(functions)),
    ]
    found = places(sources, graph)
    rows += [(f"{p.name}: files, lines", f"{p.num_files}, {p.num_lines}") for p in found]
    rows += [(f"{p.name}: rooms, arrows, up", f"{len(p.rooms)}, {len(p.arrows)}, {len(p.up())}") for p in found]
    rows.append(("arrows up, in all places", str(sum(len(p.up()) for p in found))))
    rows.append(("circles of modules", str(len(circles(graph)))))
    return rows


def craft_rows(sources: Sequence[Source]) -> list[Row]:
    """Branches, types and names."""
    functions = [f for s in sources for f in s.functions]
    return [
        (f"functions of complexity above {MOST_BRANCHES}", str(len(complex_functions(sources)))),
        ("functions with a bare `Any` in the signature", f"{sum(map(has_bare_any, functions))} of {len(functions)}"),
        ("public names at the top of more than one module", str(len(shared_names(sources)))),
    ]


def word_rows(sources: Sequence[Source], pages: Sequence[str]) -> list[Row]:
    """Words that make a reader stumble, in code and in pages."""
    code, prose = count_words(s.text for s in sources), count_words(pages)
    rows = [(f"words, {name}: code, pages", f"{code[name]}, {prose[name]}") for name in code]
    return [
        *rows,
        ("docstrings that open with What, How, Which, Whether or Where", str(len(riddles(sources)))),
        ("words and docstrings, in all", str(sum(code.values()) + sum(prose.values()) + len(riddles(sources)))),
    ]


def journey_rows(journeys: dict[str, Footprint]) -> list[Row]:
    """What each journey entered."""
    return [
        (
            f"{name}: files, functions, edges, mutual",
            f"{len(f.files)}, {len(f.functions)}, {len(f.edges)}, {len(f.mutual)}",
        )
        for name, f in journeys.items()
    ]


def table(rows: Sequence[Row], before: dict[str, str] | None = None) -> str:
    """The figures as Markdown; with those of another table in a column before them, none left out."""
    if before is None:
        return "\n".join(["| figure | now |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    now = dict(rows)
    lines = [f"| {name} | {before.get(name, '-')} | {value} |" for name, value in rows]
    lines += [f"| {name} | {value} | - |" for name, value in before.items() if name not in now]
    return "\n".join(["| figure | before | now |", "|---|---|---|", *lines])


def read_table(text: str) -> dict[str, str]:
    """The figures of :func:`table` by name, the latest of several columns."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| figure ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: row[-1] for row in cells}


def details(sources: Sequence[Source]) -> str:
    """What is behind the figures: functions, names, circles, arrows up, docstrings."""
    graph = import_graph(sources)
    parts = {
        f"Functions of complexity above {MOST_BRANCHES}": [f"{n} {at}" for n, at in complex_functions(sources)],
        "Names in more than one module": [f"{n}: {', '.join(at)}" for n, at in shared_names(sources).items()],
        "Circles": [" <-> ".join(group) for group in circles(graph)],
        "Arrows up": [f"{p.name}: {a} -> {b}" for p in places(sources, graph) for a, b in p.up()],
        "Docstrings that open with a question": riddles(sources),
    }
    return "\n\n".join("\n".join([f"{title}:", *(f"- {line}" for line in lines)]) for title, lines in parts.items())


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journeys", default="abcd", help="letters of the journeys to take, or none (default: abcd)")
    parser.add_argument("--list", action="store_true", help="print what is behind the figures of the sources too")
    parser.add_argument("--files", action="store_true", help="print the files that each journey enters too")
    parser.add_argument("--before", type=Path, help="an earlier output, whose figures become a column of the table")
    parser.add_argument("--output", type=Path, help="write what is printed to this file as well")
    args = parser.parse_args(arguments)
    if args.journeys != "none" and (not args.journeys or set(args.journeys) - set("abcd")):
        parser.error(f"--journeys {args.journeys} must be letters of abcd, or none")
    before = read_table(args.before.read_text(encoding="utf-8")) if args.before else None
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    sources = read_sources(ROOT, PACKAGES)
    journeys = {} if args.journeys == "none" else run_journeys(args.journeys)
    rows = size_rows(sources) + craft_rows(sources) + word_rows(sources, read_pages(ROOT)) + journey_rows(journeys)
    text = table(rows, before) + "\n"
    if args.list:
        text += f"\n{details(sources)}\n"
    if args.files:
        for name, footprint in journeys.items():
            text += "\n" + "\n".join([f"{name}:", *(f"- {file}" for file in footprint.files)]) + "\n"
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
