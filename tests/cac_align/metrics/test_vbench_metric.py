"""One metric and a suite of them: layouts, failures, one decode, and independence of the batch."""

from __future__ import annotations

import functools
import pickle
import sys

import numpy as np
import pytest
import torch
from vbench_standins import VIDEOS, make_frames

from cac_align.metrics import MetricSuite, VBenchMetric, scoring
from cac_align.rewards.base import Reward, RewardError
from tests.campaigns import draws, slow_but


@functools.cache
def metric(dimension, cache, **options):
    """Opened once for all tests: networks take longer to read than to ask."""
    return VBenchMetric(dimension, cache_dir=cache, device="cpu", **options)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
def test_the_package_is_handed_a_device_that_json_can_hold(device, tmp_path):
    scorer = VBenchMetric(
        "subject_consistency", backend="package", python=sys.executable, cache_dir=tmp_path, device=device
    )
    assert scorer.package.device == (None if device is None else "cpu")


def test_it_is_a_reward_and_travels_without_weights(small_cache):
    scorer = metric("subject_consistency", small_cache)
    frames = make_frames("fast")
    [score] = scorer([frames], ["a prompt"], fps=8, other="ignored")
    assert isinstance(scorer, Reward)
    assert 0 < score < 1
    copy = pickle.dumps(scorer)
    assert len(copy) < 2000
    assert pickle.loads(copy)([frames], fps=8) == [score]


def test_still_and_changing_videos_are_told_apart(small_cache):
    frames = make_frames("fast")
    noise = np.random.RandomState(0).randint(0, 256, frames.shape).astype(np.uint8)
    shuffled = frames.copy()
    shuffled[1::2] = noise[1::2]
    for dimension in ("subject_consistency", "background_consistency"):
        scorer = metric(dimension, small_cache)
        still, moving, wild = scorer([frames[:1].repeat(4, 0), frames, shuffled], fps=8)
        assert still == pytest.approx(1, abs=1e-5)
        assert still > moving > wild


@pytest.mark.parametrize(
    "dimension", slow_but(["subject_consistency", "imaging_quality", "aesthetic_quality"], "subject_consistency")
)
def test_the_batch_size_does_not_matter(dimension, small_cache):
    frames = make_frames("odd")[:3]
    one, many = (metric(dimension, small_cache, batch_size=n)([frames], fps=8)[0] for n in (1, 2))
    assert one == pytest.approx(many, abs=1e-5)


@pytest.mark.slow
def test_all_layouts_of_a_video_score_alike(small_cache, standin_videos):
    frames = make_frames("fast")
    torch_video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    floats = frames.astype(np.float32) / 255
    alpha = np.concatenate([frames, np.full_like(frames[..., :1], 7)], -1)
    forms = [frames, torch_video, floats, alpha, list(frames), standin_videos["fast"]]
    scores = metric("aesthetic_quality", small_cache)(forms, fps=8)
    assert scores == [scores[0]] * len(forms)
    assert scores[0] is not None


def test_grey_is_its_three_equal_channels(small_cache):
    grey = make_frames("fast")[..., :1]
    first, second = metric("aesthetic_quality", small_cache)([grey, grey.repeat(3, -1)], fps=8)
    assert first == second is not None


@pytest.mark.parametrize(
    "dimension", slow_but(["subject_consistency", "imaging_quality", "background_consistency"], "subject_consistency")
)
def test_videos_of_other_sizes_lengths_and_rates_share_a_call(small_cache, dimension):
    videos = [make_frames(name)[: 2 + k % 2, ::2, ::2] for k, name in enumerate(VIDEOS)]
    scores = metric(dimension, small_cache)(videos, fps=8)
    assert len({round(s, 6) for s in scores}) == len(videos)


def test_a_video_that_cannot_be_scored_is_none_with_a_reason(small_cache, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    scorer = metric("temporal_flickering", small_cache)
    found = scorer.evaluate([make_frames("fast"), tmp_path / "broken.mp4", make_frames("fast")[:1]], fps=8)
    assert found.scores[0] is not None
    assert found.scores[1:] == [None, None]
    assert "broken.mp4" in found.reasons[1]
    assert "at least 2" in found.reasons[2]
    with pytest.raises(RewardError, match="video 1"):
        metric("temporal_flickering", small_cache, on_error="raise")(
            [make_frames("fast"), tmp_path / "broken.mp4"], fps=8
        )


@pytest.mark.parametrize(
    ("shape", "fps", "strict"),
    [((9, 64, 256), 8, 0.0), ((3, 128, 128), 16, 1.0), ((2, 128, 128), 24, 0.0), ((3, 64, 64), 16, 1.0)],
)
def test_dynamic_degree_says_where_the_package_does_not_look(shape, fps, strict, small_cache):
    frames = np.zeros((*shape, 3), np.uint8)
    found = metric("dynamic_degree", small_cache).evaluate([frames], fps=fps)
    assert found.scores == [None]
    assert "answers without looking" in found.reasons[0]
    assert metric("dynamic_degree", small_cache, strict=True)([frames], fps=fps) == [strict]


def test_a_single_video_and_bad_options_are_refused(small_cache):
    with pytest.raises(ValueError, match="list of videos"):
        metric("imaging_quality", small_cache)(make_frames("fast"), fps=8)
    with pytest.raises(ValueError, match="batch_size=0"):
        VBenchMetric("imaging_quality", batch_size=0)
    with pytest.raises(ValueError, match="backend='cloud'"):
        VBenchMetric("imaging_quality", backend="cloud")


def test_a_suite_decodes_each_video_once(small_cache, standin_videos, monkeypatch):
    decoded = []
    load = scoring.load_video
    monkeypatch.setattr(scoring, "load_video", lambda video, fps: decoded.append(video) or load(video, fps))
    names = ["subject_consistency", "temporal_flickering", "background_consistency", "aesthetic_quality"]
    names = names[: draws(4, 2)]
    paths = [standin_videos["fast"], standin_videos["slow"]]
    found = MetricSuite(names, cache_dir=small_cache, device="cpu").evaluate(paths)
    assert decoded == paths
    for name in names:
        assert [f.scores[name] for f in found] == metric(name, small_cache)(paths)


def test_one_metric_failing_on_one_video_costs_nothing_else(small_cache):
    def fussy(videos, prompts=None, *, fps, **kwargs):
        if len(videos[0]) == 3:
            raise RuntimeError("out of memory\nsecond line")
        return [float("nan") if len(videos[0]) == 7 else 0.5]

    suite = MetricSuite({"fussy": fussy, "temporal_flickering": metric("temporal_flickering", small_cache)})
    found = suite.evaluate([make_frames(name) for name in ("fast", "odd", "large")], fps=8)
    assert [f.scores["fussy"] for f in found] == [0.5, None, None]
    assert [f.reasons.get("fussy") for f in found][2] == "out of memory"
    assert "nan" in found[1].reasons["fussy"]
    assert all(f.scores["temporal_flickering"] is not None for f in found)


def test_a_suite_needs_each_metric_once(small_cache):
    with pytest.raises(ValueError, match="each once"):
        MetricSuite(["imaging_quality", "imaging_quality"])
    with pytest.raises(ValueError, match="pass \\['imaging_quality'\\]"):
        MetricSuite("imaging_quality")
