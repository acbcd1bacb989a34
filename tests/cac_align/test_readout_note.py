"""Where reward and verdict lean to different sides, or the reward is less sure than it looks, people are told."""

from types import SimpleNamespace

import pytest

from cac_align.commands.score import _line
from cac_align.report.view import readout_note
from reward_model.schema import Turn, Verdict, VerdictScore
from reward_model.terminal.program import score_text


@pytest.mark.parametrize(
    ("readout", "status", "score", "words"),
    [
        ("direct", "normal", 0.2, "before reasoning, where the score is read, it leaned towards an anomaly"),
        ("log_odds", "abnormal", 0.8, "before reasoning, where the score is read, it leaned towards normal"),
        ("paper", "abnormal", 0.9999, "at its verdict, where the score is read, it leaned towards normal"),
        ("paper", "normal", 0.2, "at its verdict, where the score is read, it leaned towards an anomaly"),
        ("direct", "normal", 0.8, ""),
        ("direct", "abnormal", 0.2, ""),
        ("direct", "normal", 0.5, ""),
        ("direct", None, 0.2, ""),
        ("paper", "normal", 0.8, ""),
        ("direct", "normal", None, ""),
    ],
)
def test_only_a_disagreement_is_noted(readout, status, score, words):
    assert readout_note(SimpleNamespace(readout=readout, status=status), score) == words
    assert readout_note(None, score) == ""


def test_a_reward_of_both_turns_says_so():
    verdict = Verdict("normal", 0.3, readout="paper", provenance={"aggregate": "joint"})
    assert readout_note(verdict, 0.3) == "over both turns, which the score joins, it leaned towards an anomaly"


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (VerdictScore(-0.1, -3.0), ""),
        (VerdictScore(-5.0, -9.0), "the two verdict words hold only 0.7 % of the probability where they are read"),
        (
            VerdictScore(-0.1, -9.0, bounded=True),
            "the score is a bound, for the server lists few log-probabilities",
        ),
    ],
)
@pytest.mark.parametrize("readout", ["paper", "direct"])
def test_what_makes_a_score_less_sure_is_told(score, words, readout):
    scores = {"score": score} if readout == "paper" else {"direct_score": score}
    turn = Turn(1, (0, 4), 4.0, "{}", "normal", **scores)
    assert readout_note(Verdict("normal", score.p_normal, (turn,), readout=readout), score.p_normal) == words


def test_the_line_of_score_ends_with_the_note():
    verdict = SimpleNamespace(readout="direct", status="normal", score=0.2, anomalies=(), fps=16.0)
    note = "(before reasoning, where the score is read, it leaned towards an anomaly)"
    assert _line({"score": 0.2}, verdict, "a.mp4") == f"{score_text(0.2)}  normal    a.mp4  {note}"
    verdict.score = 0.9
    assert _line({"score": 0.9}, verdict, "a.mp4") == f"{score_text(0.9)}  normal    a.mp4"
