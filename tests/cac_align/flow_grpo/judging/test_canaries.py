"""Canaries on videos whose values are known by hand, on made videos that are hacked, and the rule that stops a run."""

import math

import numpy as np
import pytest

from cac_align.flow_grpo.judging.canaries import (
    canaries,
    collapsed,
    colour_entropy,
    edge_density,
    first_last_drift,
    mean_canaries,
    motion_energy,
)
from reward_model.world import make_video


def still(value=0, frames=5):
    return np.full((frames, 16, 16, 3), value, np.uint8)


def test_motion_energy_and_drift_by_hand():
    video = np.concatenate([still(0, 2), still(51, 2), still(0, 1)])
    assert motion_energy(video) == pytest.approx(2 * 0.2 / 4) and first_last_drift(video) == 0
    assert first_last_drift(video[:4]) == pytest.approx(0.2)
    flip = np.stack([still(255, 1)[0], still(0, 1)[0]])
    assert motion_energy(flip) == 1.0, "differences of uint8 must not wrap around"


def test_edge_density_by_hand():
    video = still(0)
    video[:, :, 8:] = 255
    assert edge_density(video) == pytest.approx(1 / 15)
    assert edge_density(still(200)) == 0
    faint = still(100)
    faint[:, :, 8:] = 110
    assert edge_density(faint) == 0 and edge_density(faint, threshold=5) > 0


def test_colour_entropy_by_hand():
    video = still(0)
    assert colour_entropy(video) == 0
    video[:, :, 8:] = 255
    assert colour_entropy(video) == pytest.approx(1)
    video[:, :8, :, 0] = 128
    assert colour_entropy(video) == pytest.approx(2)
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    assert colour_entropy(noise) == pytest.approx(9, abs=0.01)


@pytest.fixture(scope="module")
def videos():
    return [make_video(seed, num_frames=33, size=32)[0] for seed in range(6)]


def test_each_hack_kills_its_canary(videos):
    base = mean_canaries(videos)
    assert all(value > 0 for value in base.values())
    frozen = mean_canaries([np.repeat(v[:1], len(v), 0) for v in videos])
    assert frozen["motion_energy"] == frozen["first_last_drift"] == 0
    assert frozen["edge_density"] > 0.5 * base["edge_density"]
    emptied = mean_canaries([np.full_like(v, 90) for v in videos])
    assert emptied["edge_density"] == emptied["colour_entropy"] == 0
    loop = mean_canaries([np.concatenate([v, v[::-1]]) for v in videos])
    assert loop["first_last_drift"] == 0 and loop["motion_energy"] > 0.5 * base["motion_energy"]


def test_mean_over_videos(videos):
    each = [canaries(v)["motion_energy"] for v in videos]
    assert mean_canaries(videos)["motion_energy"] == pytest.approx(sum(each) / 6)


BASE = {"reward": 0.4, "motion_energy": 0.1, "edge_density": 0.2, "colour_entropy": 5.0, "first_last_drift": 0.1}


def evaluation(**changes):
    return {**BASE, **changes}


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([evaluation(reward=0.9), evaluation(reward=0.95)], ()),
        ([evaluation(reward=0.9, motion_energy=0.04)] * 2, ("motion_energy",)),
        ([evaluation(reward=0.9, motion_energy=0.06)] * 2, ()),
        ([evaluation(reward=0.9, motion_energy=0.04)], ()),
        ([evaluation(reward=0.9, motion_energy=0.04), evaluation(reward=0.9, motion_energy=0.09)], ()),
        ([evaluation(reward=0.3, motion_energy=0.04)] * 2, ()),
        ([evaluation(reward=0.9, edge_density=0.0, first_last_drift=0.0)] * 3, ("edge_density", "first_last_drift")),
        ([evaluation(reward=0.9, judge_failure_rate=0.3)] * 2, ("judge_failure_rate",)),
        ([evaluation(reward=0.9, judge_failure_rate=0.1)] * 2, ()),
    ],
)
def test_when_to_stop(later, expected):
    assert collapsed([BASE, *later]) == expected


def test_a_judge_that_always_failed_is_no_collapse():
    base = evaluation(judge_failure_rate=0.4)
    later = [evaluation(reward=0.9, judge_failure_rate=0.35)] * 2
    assert collapsed([base, *later]) == ()
    assert collapsed([]) == collapsed([base]) == ()
    assert collapsed([BASE, evaluation(reward=0.9, colour_entropy=1.0)], patience=1) == ("colour_entropy",)


def test_bad_input():
    with pytest.raises(ValueError, match=r"frames \(5, 16, 16\) of uint8"):
        motion_energy(still()[..., 0])
    with pytest.raises(ValueError, match=r"of float64 must be \(T, H, W, 3\) uint8"):
        colour_entropy(still() / 255)
    with pytest.raises(ValueError, match="1 frame is too few"):
        canaries(still(frames=1))
    with pytest.raises(ValueError, match="no videos"):
        mean_canaries([])
    with pytest.raises(ValueError, match="evaluation 1 has no 'reward'"):
        collapsed([BASE, {"motion_energy": 1.0}])
    with pytest.raises(ValueError, match="evaluation 0 has reward=nan"):
        collapsed([evaluation(reward=math.nan)])
    with pytest.raises(ValueError, match=r"min_ratio=1.5 must lie in \(0, 1\)"):
        collapsed([BASE], min_ratio=1.5)
