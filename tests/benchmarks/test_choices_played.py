"""Choices of best-of-n played from rows: previews, what is kept, and what a choice costs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def previews() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FOLDER), *sys.path])
        return importlib.import_module("previews")


@pytest.fixture
def group(previews):
    """Four candidates: the judge's best in full is 3, which its preview hides; 0 has a fault that the judge misses."""
    seen = previews.Seen
    return {
        20: [seen(0.8, False, True), seen(0.3, True, True), seen(0.6, False, False), seen(0.9, False, False)],
        5: [seen(0.7, False, True), seen(0.6, False, False), seen(0.5, False, False), seen(0.4, False, True)],
    }


def test_a_choice_in_full_goes_by_the_judge_and_is_told_by_the_rule(previews, group):
    full = {"full": 20, "preview": None, "keep": 4}
    assert previews.played(group, [0, 1, 2, 3], **full) is False
    assert previews.played(group, [0, 1, 2], **full) is True


def test_previews_choose_who_is_drawn_and_the_full_video_decides(previews, group):
    assert previews.played(group, [0, 1, 2, 3], full=20, preview=5, keep=2) is True, "0 and 1 are kept, 0 is better"
    assert previews.played(group, [1, 2, 3], full=20, preview=5, keep=2) is False, "1 and 2 are kept, 2 is better"


def test_rates_are_means_over_all_windows_and_cheaper_choices_are_marked(previews, group):
    rates = previews.fault_rates([group, group], 3, full=20, preview=None, keep=3)
    # Windows 012, 123, 230, 301: the judge takes 0, 3, 3, 3.
    assert rates.tolist() == [0.25, 0.25]
    text = previews.table([group, group], [3, 4], [5], 20, [2])
    cheapest, *others = text.splitlines()[2:]
    assert cheapest.startswith(f"| {2 * (3 * 5 + 2 * 20)} |") and cheapest.endswith("| yes |")
    assert [int(line.split("|")[1]) for line in others] == sorted(int(line.split("|")[1]) for line in others)
