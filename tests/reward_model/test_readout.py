"""Where a verdict is read and what it is worth; golden values of Equation 7."""

import json
import math

import pytest

from reward_model.parsing import STATUS_PREFIX, forced_prefix, format_report
from reward_model.readout import READOUTS, completed_prefix, reward_value, verdict_prefix
from reward_model.schema import TurnReport, VerdictScore


@pytest.mark.parametrize(
    ("normal", "abnormal", "value"), [(-1, -2, 0.7311), (-0.1, -3, 0.9478), (-2, -2, 0.5), (0, -2000, 1.0)]
)
def test_equation_7(normal, abnormal, value):
    assert reward_value(VerdictScore(normal, abnormal), "paper") == pytest.approx(value, abs=5e-5)
    both = math.exp(normal) + math.exp(abnormal)
    assert reward_value(VerdictScore(normal, abnormal), "direct") == pytest.approx(math.exp(normal) / both, abs=1e-12)


def test_extreme_odds_do_not_overflow():
    assert reward_value(VerdictScore(-3000, 0), "paper") == 0.0
    assert reward_value(VerdictScore(0, -math.inf), "log_odds") == 1.0
    assert reward_value(VerdictScore(-math.inf, 0), "log_odds") == 0.0


def test_log_odds_keeps_the_order_and_grades_what_saturates():
    scores = [VerdictScore(-a, 0) for a in (60, 45, 40, 3, 0, -3, -40)]
    flat = [reward_value(s, "log_odds", temperature=10) for s in scores]
    assert flat == sorted(flat) and len(set(flat)) == len(flat)
    assert reward_value(scores[3], "log_odds", temperature=1) == pytest.approx(reward_value(scores[3], "direct"))


def test_unknown_readout_and_temperature_are_refused():
    with pytest.raises(ValueError, match="median"):
        reward_value(VerdictScore(0, 0), "median")
    with pytest.raises(ValueError, match="above zero"):
        reward_value(VerdictScore(0, 0), "log_odds", temperature=0)


def test_prefix_of_a_canonical_answer_ends_before_its_word():
    report = TurnReport("normal", 'it says "status": "fine" here')
    text = format_report(report)
    prefix = verdict_prefix(text)
    assert prefix is not None and text.startswith(prefix + "normal")


@pytest.mark.parametrize("text", ['{"COT": "a","status":"abnormal", ', '{"COT": "a", "status" : "Normal"'])
def test_prefix_is_brought_to_the_canonical_spelling(text):
    assert verdict_prefix(text) == '{"COT": "a",' + ("" if '"a","' in text else " ") + STATUS_PREFIX


def test_no_status_no_prefix():
    assert verdict_prefix('{"COT": "the status is normal') is None


@pytest.mark.parametrize(
    ("text", "cot"),
    [
        ('{"COT": "Frame 0: a hand. Frame 1: a', "Frame 0: a hand. Frame 1: a"),
        ('{"COT": "he said \\"x\\" and', 'he said "x" and'),
        ('{"COT": "cut in an escape \\', "cut in an escape "),
        ('{"COT": "done.", "sta', "done."),
        ("I think it looks fine", "I think it looks fine"),
        ("", ""),
    ],
)
def test_a_broken_answer_is_closed_and_forced(text, cot):
    prefix = completed_prefix(text)
    assert prefix == forced_prefix(cot)
    assert json.loads(prefix + 'normal"}')["COT"] == cot


def test_readouts_are_the_documented_three():
    assert READOUTS == ("paper", "direct", "log_odds")
