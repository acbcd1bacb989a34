"""Phrases that make a native reader stumble stay out of code, messages and pages; CONTRIBUTING has the rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for part in ("cac_align", "reward_model", "recipes") for p in (ROOT / part).rglob("*.py"))
PAGES = sorted(
    p
    for glob in ("*.md", "docs/**/*.md", "assets/*/README.md", "recipes/**/*.yaml", "cac_align/**/*.html")
    for p in ROOT.glob(glob)
    if p.name not in ("CHANGELOG.md", "log.md")  # history, as it was written
)

#: Pattern -> what to write instead.
RULES = {
    r"(?<!here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|better\b|worse\b)[a-z]+": "is not a",
    r"\b(?:could|can|cannot|may|to|is|are) be had\b|\b(?:come|comes|came|coming) by\b": "find, get, be available",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bas a rule\b": "usually",
    r"\bto the bit\b": "bit-identical",
    r"\bafresh\b": "again, from scratch",
    r"\bat hand\b": "available",
    r"\bwhatever happens\b": "always, also after an error",
    r"\b(?:is|are) none of\b": "is not one of, is not in",
    r"\bspeaks? of\b": "name, mention",
    r"\bhas it that\b|\bby the toss of a coin\b": "at random",
    r"\b(?-i:[FGEH])-\d+\b": "the paper's section or equation, or docs/paper_notes.md",
}
#: A docstring opens with the noun or the verb.
QUESTIONS = ("What", "How", "Which", "Whether", "Where", "Who", "When", "Why")


def strings(tree: ast.Module) -> list[tuple[int, str]]:
    """Literals of a module with their lines; the constant parts of an f-string are one text."""
    found, parts = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(id(v) for v in node.values)
            text = "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            found.append((node.lineno, text))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append((node.lineno, node.value))
    return found


def slips(text: str) -> list[str]:
    """Phrases of a text that a rule forbids, with the remedy."""
    text = re.sub(r"\s+", " ", text)
    return [f"{m[0]!r}: {better}" for rule, better in RULES.items() for m in re.finditer(rule, text, re.IGNORECASE)]


def questions(tree: ast.Module) -> list[str]:
    """Docstrings that open with a question word."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    return [text.splitlines()[0] for text in texts if text and text.split()[0].rstrip(",:;'s") in QUESTIONS]


@pytest.mark.parametrize("text", ["it is no file", "mend the path", "N - 1 as a rule", "as F-12 says", "could be had"])
def test_a_stumble_would_be_found(text):
    assert slips(text) and not slips("there is no file, and it is no longer recommended")
    assert questions(ast.parse('"""Whether it is."""')) and not questions(ast.parse('"""Whatever it is."""'))


def test_strings_of_the_code_read_well():
    """Docstrings, messages and help texts; the prompts of judges, which are part of checkpoints, are files of text."""
    trees = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    found = [f"{p}:{line} {slip}" for p, t in trees.items() for line, text in strings(t) for slip in slips(text)]
    assert not found, "\n".join(found)


def test_comments_of_the_code_read_well():
    found = []
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = " ".join(line.partition("#")[2].lstrip(":") for line in lines)
        found += [f"{path.relative_to(ROOT)}: {slip}" for slip in slips(comments)]
    assert not found, "\n".join(found)


def test_docstrings_open_with_the_thing_they_describe():
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in MODULES
        for line in questions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_module_docstrings_have_a_summary_of_one_line():
    found = []
    for path in MODULES:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        summary = text.split("\n\n")[0]
        if len(summary.splitlines()) > 1 and len(summary) > 240:
            found.append(f"{path.relative_to(ROOT)}: {len(summary)} characters before the first blank line")
    assert not found, "\n".join(found)


def test_pages_read_well():
    found = [f"{p.relative_to(ROOT)}: {slip}" for p in PAGES for slip in slips(p.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)
