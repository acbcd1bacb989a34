"""A judge's verdicts as annotations that say nobody made them, out to the tools and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from reward_model.data.formats.verdicts import filled, read_verdicts
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Turn, Verdict

MELTS = Anomaly(
    AnomalyType.OBJECT,
    FrameRange(4, 12),
    {n: (Box(10 * n, 100, 300 + 10 * n, 400),) for n in (4, 6, 8)},
    ("cup",),
    "melts",
)


def verdict(*anomalies: Anomaly, **more: Any) -> dict[str, Any]:
    status = "abnormal" if anomalies else "normal"
    turn = Turn(2, tuple(range(2, 15, 2)), 4.0, "{}")
    provenance = {"model": {"model": "cac-mini", "revision": "abc"}, "seed": 0}
    found = Verdict(status, 0.25, (turn,), anomalies=anomalies, num_frames=24, fps=8.0, provenance=provenance)
    return {**found.to_dict(), **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verdicts")
    frames = np.zeros((24, 32, 48, 3), np.uint8)
    for name in ("a.mp4", "b.mp4"):
        (place / name).write_bytes(
            iio.imwrite("<bytes>", frames, extension=".mp4", fps=8, plugin="pyav", codec="libx264")
        )
    return place


def read(folder: Path, *entries: Any) -> Any:
    (folder / "v.json").write_text(json.dumps(entries))
    return read_verdicts(folder / "v.json")


def test_a_verdict_becomes_an_annotation_that_says_nobody_made_it(folder):
    found = read(
        folder,
        {"video": "a.mp4", "prompt": "a cup", "verdict": verdict(MELTS)},
        {"video": "b.mp4", "verdict": verdict()},
    )
    assert found.problems == []
    one, two = found.records
    assert one.extra[ORIGIN_KEY] == two.extra[ORIGIN_KEY] == GENERATED
    assert one.extra[MAKER_KEY] == "cac-mini at abc" and one.extra["reward"] == 0.25
    assert one.extra["provenance"]["seed"] == 0 and one.truth.prompt == "a cup" and one.truth.source == "judge"
    assert (one.truth.num_frames, one.truth.fps, one.truth.width) == (24, 8.0, 48) and two.truth.status == "normal"
    (anomaly,) = one.truth.anomalies
    assert sorted(anomaly.boxes) == [4, 5, 6, 7, 8] and anomaly.boxes[5] == (Box(50, 100, 350, 400),)
    assert (anomaly.type, anomaly.frames, anomaly.reason) == (MELTS.type, MELTS.frames, "melts")


def test_boxes_are_filled_in_between_the_frames_that_were_looked_at_and_no_further():
    assert sorted(filled(MELTS, 1).boxes) == [4, 6, 8] and sorted(filled(MELTS, 2).boxes) == [4, 5, 6, 7, 8]
    lone = Anomaly(AnomalyType.MOTION, FrameRange(4, 12), {3: (Box(0, 0, 9, 9),), 13: (Box(0, 0, 9, 9),)})
    assert filled(lone, 2) == lone


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"video": "no.mp4", "verdict": verdict()}, "no video file 'no.mp4'"),
        ({"video": "a.mp4"}, "holds no verdict"),
        ({"video": "a.mp4", "verdict": 3}, "holds no verdict"),
        ({"video": "a.mp4", "verdict": {"status": None, "error": "out of memory"}}, "out of memory"),
        ({"video": "a.mp4", "verdict": verdict(status="abnormal")}, "no anomaly is named"),
        ({"video": "a.mp4", "verdict": verdict(MELTS, num_frames=25)}, "saw 25 frames, the file has 24"),
        ({"video": "a.mp4", "verdict": verdict(MELTS, anomalies=7)}, "not a list"),
        (
            {"video": "a.mp4", "verdict": verdict(MELTS, anomalies=[{"type": "object", "frames": [1, 99]}])},
            "anomaly 1:",
        ),
    ],
)
def test_a_verdict_that_is_no_annotation_is_named_and_the_others_are_read(folder, entry, message):
    found = read(folder, entry, {"video": "b.mp4", "verdict": verdict()})
    assert [r.truth.video_id for r in found.records] == ["b.mp4"]
    (problem,) = found.errors
    assert message in problem.message and problem.line == 1
