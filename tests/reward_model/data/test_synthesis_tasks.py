"""Which questions are asked about a video, and what the teacher is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reward_model.data.records import Record
from reward_model.data.synthesis import estimate
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.crops import CROP_SIZE, cut_out
from reward_model.data.synthesis.tasks import conversation, plan
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.video.clip import Video, VideoError

FRAMES = np.arange(81, dtype=np.uint8)[:, None, None, None] * np.ones((1, 20, 40, 3), np.uint8)
VIDEO = Video(FRAMES, 16.0)


def record(*windows, name="a"):
    anomalies = tuple(
        Anomaly(
            AnomalyType.OBJECT, FrameRange(*w), {n: (Box(500, 0, 1000, 500),) for n in range(w[0], w[1] + 1)},
            reason=f"bent {w}",
        )
        for w in windows
    )  # fmt: skip
    return Record(f"{name}.mp4", VideoAnnotation(name, 81, 16, 40, 20, prompt="a cup", anomalies=anomalies))


def shown(asked):
    return [int(p[0, 0, 0]) for p in asked[0].content if not isinstance(p, str)]


def text_of(asked):
    return "".join(p for p in asked[0].content if isinstance(p, str))


def test_an_anomalous_video_has_a_scan_and_a_clip_on_their_grids():
    scan, zoom = plan([record((16, 30))])
    assert (scan.turn, scan.indices) == ("scan", tuple(range(0, 81, 4)))
    assert (zoom.turn, zoom.indices) == ("zoom", tuple(range(16, 31, 2)))
    assert (scan.truth[0].frames, zoom.truth[0].frames) == (FrameRange(4, 7), FrameRange(0, 7))
    assert shown(conversation(zoom, VIDEO, AskConfig(max_crops=0))) == list(range(16, 31, 2))


def test_several_windows_share_a_clip_if_it_fits():
    two = record((16, 20), (50, 60))
    assert [t.turn for t in plan([two])] == ["scan", "zoom"]
    assert plan([two])[1].indices[::22] == (16, 60)
    for ask in (AskConfig(crop="per_window"), AskConfig(max_zoom_frames=22)):
        scan, first, second = plan([two], ask)
        assert (scan.members, first.members, second.members) == ((0, 1), (0,), (1,))
        assert second.indices[0] == 50


def test_an_anomaly_between_the_frames_of_the_scan_is_asked_about_in_the_clip_only():
    tasks = plan([record((17, 18))])
    assert [t.turn for t in tasks] == ["zoom"]
    both = plan([record((17, 18), (40, 60))])
    assert [(t.turn, t.members) for t in both] == [("scan", (1,)), ("zoom", (0, 1))]


def test_a_normal_video_has_a_short_random_clip_that_is_the_same_every_time():
    records = [record(name=f"v{k}") for k in range(40)]
    clips = [t for t in plan(records) if t.turn == "zoom"]
    assert [t.indices for t in clips] == [t.indices for t in plan(records) if t.turn == "zoom"]
    assert len({t.indices for t in clips}) > 20
    assert all(4 <= len(t.indices) <= 9 and t.normal for t in clips)
    other = [t.indices for t in plan(records, AskConfig(seed=1)) if t.turn == "zoom"]
    assert other != [t.indices for t in clips]


def test_the_four_hints():
    tasks = [*plan([record((16, 30))]), *plan([record()])]
    scan, zoom, scan_normal, zoom_normal = (text_of(conversation(t, VIDEO, AskConfig())) for t in tasks)
    assert "Pay special attention" in scan and "bent (16, 30)" in scan and "Frame 4-7" in scan
    assert '"Frame 7": [500, 0, 1000, 500]' in zoom and "every one of the 8 frames" in zoom
    assert "usually right" in scan_normal and "judged this clip normal" in zoom_normal
    assert all("a cup" in text for text in (scan, zoom, scan_normal, zoom_normal))


def test_the_key_follows_the_truth_but_not_the_saliency():
    one = record((16, 30))
    key = plan([one])[0].key
    marked = replace(one.truth, anomalies=(replace(one.truth.anomalies[0], salient=True),))
    moved = record((16, 34))
    assert plan([replace(one, truth=marked, video="b.mp4")])[0].key == key
    assert plan([moved])[0].key != key


def test_crops_follow_the_frames_of_abnormal_clips_only():
    tasks = plan([record((16, 30)), record()])
    ask = AskConfig(max_crops=3)
    plain = [conversation(t, VIDEO, AskConfig(max_crops=0)) for t in tasks]
    asked = [conversation(t, VIDEO, ask) for t in tasks]
    assert [shown(a) == shown(p) for a, p in zip(asked, plain, strict=True)] == [True, False, True, True]
    assert shown(asked[1]) == [*range(16, 31, 2), 16, 24, 30]
    labels = [p for p in asked[1][0].content if isinstance(p, str) and p.startswith("Part of frame")]
    assert labels == ["Part of frame 0:", "Part of frame 4:", "Part of frame 7:"]
    assert "never mention" in text_of(asked[1])
    fed = conversation(tasks[1], VIDEO, AskConfig())
    assert len(shown(fed)) == 2 * len(shown(plain[1])), "as the paper feeds them, every boxed frame of this clip"


def test_a_crop_shows_the_box_with_a_margin():
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[5:10, 20:30] = 255
    part = cut_out(frame, Box.from_pixels(20, 5, 30, 10, 40, 20))
    assert max(part.shape[:2]) == CROP_SIZE
    assert part[part.shape[0] // 2, part.shape[1] // 2, 0] == 255
    assert part[0, 0, 0] == 0
    assert 0.2 < (part[..., 0] > 127).mean() < 0.55


def test_smaller_frames_keep_their_shape_and_their_boxes():
    task = plan([record((16, 30))])[1]
    small, plain = (conversation(task, VIDEO, AskConfig(frame_size=size, max_crops=0)) for size in (10, None))
    assert {p.shape for p in small[0].content if not isinstance(p, str)} == {(5, 10, 3)}
    assert shown(small) == shown(plain) and text_of(small) == text_of(plain)


def test_a_video_shorter_than_its_annotation_is_named():
    with pytest.raises(VideoError, match="has 60 frames, its annotation says 81"):
        conversation(plan([record((16, 30))])[0], Video(FRAMES[:60], 16.0), AskConfig())


def test_the_estimate_counts_what_a_run_may_do():
    tasks = plan([record((16, 30)), record(name="b")])
    most = estimate(tasks, RuleConfig())
    frames = sum(len(t.indices) for t in tasks)
    assert (most.videos, most.samples, most.teacher_calls, most.judge_calls) == (2, 4, 20, 10)
    assert (most.frames_once, most.frames_at_most) == (frames, 5 * frames)
    assert estimate(tasks, RuleConfig(verify="rule", max_rounds=3)).judge_calls == 0
