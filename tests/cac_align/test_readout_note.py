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


def test_a_video_unlike_the_training_set_is_noted_wherever_a_verdict_is_shown():
    from types import SimpleNamespace as Args

    from cac_align.commands.score import _line
    from cac_align.report.view import _evidence, domain_note

    told = {"out_of_domain": True, "domain_reason": "10.1 s; trained on 2.1 to 6.1 s", "fps": 16.0, "num_frames": 161}
    far, near = Verdict("normal", 0.9, **told), Verdict("normal", 0.9, out_of_domain=False)
    assert domain_note(far) == "out of domain: 10.1 s; trained on 2.1 to 6.1 s"
    assert domain_note(near) == domain_note(None) == domain_note(Args(status="normal")) == ""
    assert "(out of domain: 10.1 s; trained on" in _line({"score": 0.9}, far, "a.mp4")
    assert (
        _evidence(far, 16.0, composite=False)["unfamiliar"] and not _evidence(near, 16.0, composite=False)["unfamiliar"]
    )


def test_best_of_n_warns_before_it_ranks_what_its_judge_does_not_know(caplog):
    from cac_align.selection.run import _warn_of_unfamiliar

    far = Verdict("normal", 0.9, out_of_domain=True, domain_reason="its frames look unlike")
    _warn_of_unfamiliar("judge", [None, Verdict("normal", 0.9), Verdict("normal", 0.9, out_of_domain=False)])
    assert not caplog.records
    _warn_of_unfamiliar("judge", [None, far, Verdict("normal", 0.9), far])
    assert "2 of 4 candidates are unlike what judge was trained on" in caplog.text
    assert "candidate 1: its frames look unlike" in caplog.text
