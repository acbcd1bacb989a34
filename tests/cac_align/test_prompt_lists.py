"""Prompt files: what is read, what is refused, and the lists that are shipped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cac_align.prompts import Prompt, read_prompts, shared_prompts
from reward_model.schema import AnomalyType

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "prompts"


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_text_files_of_any_editor(tmp_path):
    path = write(tmp_path, "a.txt", "\ufeffa red ball\r\n  two dogs\u2028run  \r\n")
    assert read_prompts(path) == [Prompt("a red ball"), Prompt("two dogs\u2028run")]


def test_jsonl_with_and_without_family(tmp_path):
    lines = '{"prompt": " a hand ", "family": "Human Distortion", "id": 3}\n{"prompt": "a \\"sign\\""}'
    assert read_prompts(write(tmp_path, "a.jsonl", lines)) == [Prompt("a hand", AnomalyType.HUMAN), Prompt('a "sign"')]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "\n", "holds no prompt"),
        ("a.txt", "a ball\n\na dog\n", "line 2: empty"),
        ("a.txt", "a ball\na dog\nA  Ball\n", "line 3: the same prompt as line 1"),
        ("a.txt", "a " * 301, "line 1: 301 words, more than max_words=300"),
        ("a.csv", "a ball", r"must end in \.txt"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": 3}', "line 2: needs an object"),
        ("a.jsonl", '["a"]', "line 1: needs an object"),
        ("a.jsonl", "a ball", "line 1: no JSON"),
        ("a.jsonl", '{"prompt": "a", "family": "weather"}', "line 1: unknown anomaly type 'weather'"),
        ("a.jsonl", '{"prompt": "a", "family": 3}', "family=3 must be text"),
    ],
)
def test_refused_with_the_line(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words):
        read_prompts(write(tmp_path, name, text))


def test_only_the_first_problems_are_listed(tmp_path):
    with pytest.raises(ValueError, match=r"line 6: the same prompt as line 1; keep one; and 3 more$"):
        read_prompts(write(tmp_path, "a.txt", "a ball\n" * 9))


def test_missing_file_and_other_encodings(tmp_path):
    with pytest.raises(ValueError, match="no prompt file"):
        read_prompts(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_prompts(write(tmp_path, "a.txt", "a caf\u00e9", "latin-1"))


def test_shared_prompts_look_past_case_and_spaces():
    assert shared_prompts([Prompt("a ball"), Prompt("a cat")], [Prompt("a dog"), Prompt("A  ball")]) == ["A  ball"]


@pytest.mark.parametrize(("name", "size"), [("train", 240), ("eval", 60)])
def test_shipped_lists_are_balanced_from_the_start(name, size):
    prompts = read_prompts(SHIPPED / f"{name}.jsonl", max_words=40)
    assert len(prompts) == size
    assert all(len(p.text.split()) >= 10 for p in prompts)
    assert Counter(p.family for p in prompts) == dict.fromkeys(AnomalyType, size // 5)
    assert {p.family for p in prompts[:5]} == set(AnomalyType)


def test_shipped_lists_share_nothing_and_do_not_vary_one_template():
    train, held_out = read_prompts(SHIPPED / "train.jsonl"), read_prompts(SHIPPED / "eval.jsonl")
    assert shared_prompts(train, held_out) == []
    words = [{w.strip(",.;:\"'").lower() for w in p.text.split() if len(w) > 4} for p in (*train, *held_out)]
    nearest = max(len(a & b) / len(a | b) for k, a in enumerate(words) for b in words[:k])
    assert nearest < 0.35
    assert max(Counter(tuple(p.text.split()[:3]) for p in (*train, *held_out)).values()) <= 3
