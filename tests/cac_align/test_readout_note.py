"""Where reward and verdict lean to different sides, people are told; nowhere else."""

from types import SimpleNamespace

import pytest

from cac_align.commands.score import _line
from cac_align.readout_note import readout_note


@pytest.mark.parametrize(
    ("readout", "status", "score", "words"),
    [
        ("direct", "normal", 0.2, "leaned towards an anomaly"),
        ("log_odds", "abnormal", 0.8, "leaned towards normal"),
        ("direct", "normal", 0.8, ""),
        ("direct", "abnormal", 0.2, ""),
        ("direct", None, 0.2, ""),
        ("paper", "normal", 0.2, ""),
        ("direct", "normal", None, ""),
    ],
)
def test_only_a_disagreement_is_noted(readout, status, score, words):
    note = readout_note(SimpleNamespace(readout=readout, status=status), score)
    assert words in note and bool(note) == bool(words)
    assert readout_note(None, score) == ""


def test_the_line_of_score_ends_with_the_note():
    verdict = SimpleNamespace(readout="direct", status="normal", score=0.2, anomalies=(), fps=16.0)
    assert _line(verdict, "a.mp4").startswith("0.2000  normal    a.mp4  (before reasoning, where the score is read,")
    verdict.score = 0.9
    assert _line(verdict, "a.mp4") == "0.9000  normal    a.mp4"
