"""The hint branches of the synthesis prompt: the right one, with the truth in it, and nowhere near a judge."""

import numpy as np
import pytest

from reward_model.prompts import load_prompts
from reward_model.prompts.hints import describe_boxes, describe_errors, scan_hint, zoom_hint
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange

FRAMES = np.zeros((4, 8, 8, 3), np.uint8)
PROMPTS = load_prompts("paper")
ANOMALY = Anomaly(
    AnomalyType.HUMAN,
    FrameRange(1, 2),
    {1: (Box(10, 20, 30, 40),), 2: (Box(10, 20, 30, 40), Box(50, 60, 70, 80))},
    objects=("left hand",),
    reason="six {fingers}\n</end>",
)


def text_of(conversation):
    return "".join(p for m in conversation for p in m.content if isinstance(p, str))


def test_each_branch_says_its_own():
    abnormal, normal = scan_hint(PROMPTS, [ANOMALY]), scan_hint(PROMPTS, [])
    assert "six {fingers} </end>" in abnormal and "Human Distortion, Frame 1-2" in abnormal
    assert "as if you had been told nothing" in abnormal and "told nothing" not in normal
    assert "found it normal" in normal
    clip = zoom_hint(PROMPTS, [ANOMALY], 4)
    assert "every one of the 4 frames" in clip and "told nothing" in clip
    assert '"Frame 2": [[10, 20, 30, 40], [50, 60, 70, 80]]' in clip
    assert "every one of the" not in zoom_hint(PROMPTS, [], 4)


def test_the_hint_stands_before_the_frames_and_changes_nothing_else():
    for plain, hinted, hint in (
        (PROMPTS.scan(FRAMES), PROMPTS.scan(FRAMES, hint=scan_hint(PROMPTS, [ANOMALY])), scan_hint(PROMPTS, [ANOMALY])),
        (
            PROMPTS.zoom(FRAMES, cot="x"),
            PROMPTS.zoom(FRAMES, cot="x", hint=zoom_hint(PROMPTS, [], 4)),
            zoom_hint(PROMPTS, [], 4),
        ),
    ):
        assert text_of(hinted).replace(hint, "") == text_of(plain)
        assert text_of(hinted).index(hint) < text_of(hinted).index("Frame 0:")


def test_a_judge_is_told_nothing():
    assert "may be present" not in text_of(PROMPTS.scan(FRAMES)) and "People have" not in text_of(PROMPTS.zoom(FRAMES))


def test_descriptions():
    assert describe_errors([ANOMALY]) == "- Human Distortion, Frame 1-2: left hand; six {fingers} </end>"
    assert describe_boxes([ANOMALY]).startswith('{"Frame 1": [10, 20, 30, 40]')


def test_the_compact_wording_has_no_hints():
    with pytest.raises(ValueError, match="compact"):
        scan_hint(load_prompts("compact"), [])
