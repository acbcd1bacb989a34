"""One table, three forms."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from reward_model.evaluation import Estimate, Interval, Table
from reward_model.statistics.table import escape_latex, escape_markdown

NASTY = r"my_model-7B & 100% #1 {x} $y$ a\b ~^ <|im|> `c` *d* [e]"


def table(name: str = NASTY) -> Table:
    ours = [(name, 0.5, Estimate(0.25, Interval(0.1, 0.4)), 3)]
    return Table(
        "A_title", ("judge", "accuracy", "AUROC", "n"), [ours, [("CaC (paper)", 0.817, None, None)]], ("A note.",)
    )


def test_markdown_lines_up_and_escapes():
    lines = table().to_markdown().splitlines()
    body = [line for line in lines if line.startswith("|")]
    assert len(body) == 4 and len({len(line) for line in body}) == 1
    # Unescaped bars are the borders of four cells.
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in body)
    assert "0.250 [0.100, 0.400]".replace("[", r"\[").replace("]", r"\]") in body[2] and "0.817" in body[3]
    assert lines[0] == r"### A\_title" and lines[-1] == "A note."


def test_latex_has_no_bare_special_character():
    text = table().to_latex()
    row = next(line for line in text.splitlines() if line.startswith("my"))
    bare = re.sub(
        r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}|\\[&%$#_{}]", "", row
    )
    assert not re.search(r"[%$#_{}~^<>|]", bare) and bare.count("&") == 3 and bare.endswith(r"\\")
    assert text.count(r"\midrule") == 2 and r"\begin{tabular}{lrrr}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(tmp_path):
    head, tail = (
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}",
        "\\end{document}",
    )
    (tmp_path / "t.tex").write_text(f"{head}\n{table().to_latex()}\n{tail}")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)


def test_plain_values_keep_their_digits():
    data = json.loads(json.dumps(table().to_dict(), allow_nan=False))
    assert data["groups"][0][0]["AUROC"] == {"value": 0.25, "interval": [0.1, 0.4]}
    assert data["groups"][1][0] == {"judge": "CaC (paper)", "accuracy": 0.817, "AUROC": None, "n": None}


def test_line_breaks_cannot_leave_a_cell():
    assert escape_markdown("a\n| b") == r"a \| b" and escape_latex("a\n\\input{x}") == r"a \textbackslash{}input\{x\}"


def test_a_terminal_is_shown_text_without_escapes():
    text = Table("a_b", ("c",), ([("< d_e\nf",)],), ("[low, high]",)).to_text()
    assert text.splitlines() == ["a_b", "| c       |", "|---------|", "| < d_e f |", "[low, high]"]


def test_rows_have_a_cell_for_every_column():
    with pytest.raises(ValueError, match="2 cells for 3 columns"):
        Table("t", ("a", "b", "c"), [[("x", 1.0)]])
