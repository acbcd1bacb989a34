"""Phrases that make a native reader stumble stay out of code, messages and pages; CONTRIBUTING has the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for part in ("cac_align", "reward_model", "recipes")
    for path in sorted((ROOT / part).rglob("*.py"))
}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for glob in ("*.md", "docs/**/*.md", "assets/*/README.md", "recipes/**/*.yaml", "cac_align/**/*.j2")
    for path in sorted(ROOT.glob(glob))
    if path.name not in ("CHANGELOG.md", "log.md")  # history, as it was written
}

#: Pattern -> what to write instead. "There is no file" is plain English.
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
    r"\bby the toss of a coin\b": "at random",
    r"\b(?-i:[FGEH])-\d+\b": "the paper's section or equation, or docs/paper_notes.md",
}
#: A docstring opens with the noun or the verb.
QUESTION = re.compile(r'^ *r?"""((?:What|How|Which|Whether|Where|Who|When|Why)\b.*)', re.MULTILINE)
#: What stands before the first blank line of a module's docstring.
SUMMARY = re.compile(r'r?"""(.*?)(?:\n\n|""")', re.DOTALL)
LONGEST_SUMMARY = 240


def literal(rule: str) -> str:
    """The words with which every match of a rule begins; "" if they differ from match to match."""
    found = re.match(r"\\b([a-z ]*[a-z])(?![a-z ]*[a-z]?\?)", rule)
    return found[1] if found and "|" not in re.sub(r"\(.*?\)", "", rule) else ""


#: Most rules match nothing in most texts, and a word is found ten times as fast as a pattern.
BEGINNINGS = {rule: literal(rule) for rule in RULES}


def slips(text: str) -> list[str]:
    """Phrases of a text or source that a rule forbids, with the remedy; also those that a line break divides."""
    text = re.sub(r'" *\n *[rf]*"', "", text)  # neighbouring literals are one text
    text = re.sub(r"\n *#:? ?", " ", text)  # so are the lines of a comment
    text = " ".join(text.split())
    lower = text.lower()
    near = [rule for rule, beginning in BEGINNINGS.items() if beginning in lower]
    return [f"{m[0]!r}: {RULES[rule]}" for rule in near for m in re.finditer(rule, text, re.IGNORECASE)]


@pytest.mark.parametrize(
    "text",
    [
        "it is no file",
        "mend the path",
        "N - 1 as a rule",
        "as F-12 says",
        '"could "\n    f"be had"',
        "# at\n    # hand",
    ],
)
def test_a_stumble_would_be_found(text):
    assert slips(text) and not slips("there is no file, and it is no longer recommended")
    assert QUESTION.findall('    """Whether it is."""') and not QUESTION.findall('"""Whatever it is."""')


@pytest.mark.parametrize("texts", [SOURCES, PAGES], ids=["code", "pages"])
def test_sentences_read_well(texts):
    """The prompts of judges are files of text and part of checkpoints: they keep their wording."""
    found = [f"{path}: {slip}" for path, text in texts.items() for slip in slips(text)]
    assert texts and not found, "\n".join(found)


def test_docstrings_open_with_the_thing_they_describe():
    found = [f"{path}: {line}" for path, text in SOURCES.items() for line in QUESTION.findall(text)]
    assert not found, "\n".join(found)


def test_docstrings_of_modules_begin_with_a_short_summary():
    summaries = {path: SUMMARY.match(text) for path, text in SOURCES.items()}
    found = [path for path, summary in summaries.items() if summary is None or len(summary[1]) > LONGEST_SUMMARY]
    assert not found, "\n".join(found)
