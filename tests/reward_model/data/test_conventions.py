"""The paper's conventions for annotators, as far as a file shows them: warnings that name what to change."""

from __future__ import annotations

from typing import Any

import pytest

from reward_model.data.line_checks import check_object
from reward_model.schema import MAX_FRAMES


def line(*anomalies: dict[str, Any], num_frames: int = 81) -> dict[str, Any]:
    status = "abnormal" if anomalies else "normal"
    facts = {"video": "a.mp4", "video_id": "a", "num_frames": num_frames, "fps": 16, "width": 64, "height": 48}
    return {**facts, "status": status, "anomalies": list(anomalies)}


def anomaly(kind: str = "Object Distortion", first: int = 3, last: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "frames": [first, last],
        "boxes": {str(first): [[100, 100, 300, 300]]},
        "reason": "bad",
        **more,
    }


@pytest.mark.parametrize(
    ("broken", "kept", "message"),
    [
        (anomaly("Motion Anomalies"), anomaly("Motion Anomalies", last=4), "on the single frame 3"),
        (anomaly("physics"), anomaly("Human Distortion"), "only seen by comparing frames"),
        (
            anomaly("Character Anomalies", reason="The sign's text CHANGES from A to B"),
            anomaly("Character Anomalies", 3, 9, reason="The sign's text changes from A to B"),
            "whole range over which the change can be seen",
        ),
        (
            anomaly("Character Anomalies", reason="inconsistent text"),
            anomaly("Character Anomalies", reason="unreadable"),
            "whole range",
        ),
        (
            anomaly(boxes={"3": [[0, 0, 1000, 1000]]}),
            anomaly(boxes={"3": [[0, 0, 1000, 900]]}),
            "nearly the whole picture on frame 3",
        ),
    ],
)
def test_a_broken_convention_is_a_warning_and_a_kept_one_is_silent(broken, kept, message):
    (found,) = check_object(line(broken))
    assert found.severity == "warning" and message in found.message and found.message.startswith("anomaly 1: ")
    assert check_object(line(kept)) == []


def test_an_anomaly_that_stands_twice_is_named():
    (found,) = check_object(line(anomaly(), anomaly(first=9, last=9), anomaly()))
    assert found == ("anomaly 3 repeats anomaly 1; remove one of them", "warning")


@pytest.mark.parametrize("value", [MAX_FRAMES + 1, 10**9, 10**300])
def test_a_length_that_no_video_has_is_an_error(value):
    (found,) = check_object(line(num_frames=value))
    assert found.severity == "error" and f"at most {MAX_FRAMES} are taken" in found.message and len(found.message) < 200
    assert check_object(line(num_frames=MAX_FRAMES)) == []
