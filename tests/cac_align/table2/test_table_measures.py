"""Pixel measures say what their names say, on videos whose truth is known; choices take the best candidate."""

from __future__ import annotations

import numpy as np
import pytest

from cac_align.flow_grpo.judging.reward_specs import read_specs
from cac_align.probes.probes import blurred
from cac_align.rewards.calibration import Calibration, Scale
from cac_align.table2.columns import COLUMNS, find_column
from cac_align.table2.matrix import best_candidate
from cac_align.table2.measures import (
    FAULTS,
    appearance_drift,
    diversity,
    edge_sharpness,
    rule,
    tracked_motion,
    world_values,
)
from reward_model.world import make_video


def moving_square(speed: float, num: int = 16, size: int = 64) -> np.ndarray:
    """A white square of 10 pixels that moves right by ``speed`` pixels a frame, on black."""
    frames = np.zeros((num, size, size, 3), np.uint8)
    for k in range(num):
        x = round(4 + k * speed)
        frames[k, 20:30, x : x + 10] = 255
    return frames


def test_motion_is_the_speed_in_pixels_per_second():
    assert tracked_motion(moving_square(2), 16) == pytest.approx(32, rel=1e-6)
    assert tracked_motion(moving_square(2), 8) == pytest.approx(16, rel=1e-6)
    assert tracked_motion(moving_square(0), 16) == 0
    jumping = moving_square(2)
    jumping[8:] = np.roll(jumping[8:], 20, axis=1)
    assert tracked_motion(jumping, 16) == pytest.approx(32, rel=1e-6), "a jump is not motion"
    assert tracked_motion(np.zeros((6, 32, 32, 3), np.uint8), 16) == 0, "nothing to track"


def test_drift_ignores_motion_and_sees_colour():
    frames = moving_square(2)
    assert appearance_drift(frames) == pytest.approx(0, abs=1e-9)
    changed = frames.copy()
    changed[8:, 20:30, :, :2] = 0
    assert appearance_drift(changed) > 0.002
    halves = np.concatenate([np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)])
    assert appearance_drift(halves) == 1, "no colour in common"


def test_sharpness_falls_with_blur():
    frames = moving_square(2)
    assert edge_sharpness(frames) > 2 * edge_sharpness(blurred(frames)) > 0
    assert edge_sharpness(np.zeros((3, 8, 8, 3), np.uint8)) == 0
    twice = np.concatenate([frames, frames], axis=1)
    assert edge_sharpness(twice) == pytest.approx(edge_sharpness(frames)), "coverage does not count"
    step = np.zeros((2, 8, 8, 3), np.uint8)
    step[:, :, 4:] = 51
    assert edge_sharpness(step) == pytest.approx(0.2)


def test_diversity_is_the_mean_difference_from_the_other_videos():
    black, white = np.zeros((3, 8, 8, 3), np.uint8), np.full((3, 8, 8, 3), 255, np.uint8)
    grey = np.full((3, 8, 8, 3), 51, np.uint8)  # a fifth of the way
    assert diversity([black, white, grey]) == pytest.approx([(1 + 0.2) / 2, (1 + 0.8) / 2, (0.2 + 0.8) / 2])
    moving = moving_square(2)
    assert diversity([moving, moving]) == [0, 0]
    assert diversity([moving, moving[::-1]])[0] > 0.01, "the same places at other times"
    assert np.isnan(diversity([moving])).all() and diversity([]) == []
    grain = np.random.default_rng(0).integers(0, 2, (2, 4, 128, 128, 3), dtype=np.uint8) * 255
    assert max(diversity(grain)) < 0.2, "grain of a large video does not count: half of its pixels differ"


def test_the_rule_is_a_reward_and_its_faults_are_named():
    normal, split = make_video(3)[0], make_video(3, "split")[0]
    assert rule([normal, split], fps=16) == [1.0, 0.0]
    values = world_values(split, 16)
    assert values["anomaly"] == 1 and values["fault splits"] == 1
    assert {k.removeprefix("fault ") for k in values if k.startswith("fault")} == set(FAULTS)


def test_no_pixel_column_bears_a_name_of_vbench():
    vbench = {c.label.lower() for c in COLUMNS.values() if c.key.startswith("vbench/")}
    others = [c for c in COLUMNS.values() if not c.key.startswith("vbench/")]
    assert not any(name in c.label.lower() for c in others for name in (*vbench, "vbench"))
    assert find_column("dynamic_degree").label == "Dynamic Degree"
    with pytest.raises(ValueError, match="column 'dynamic' is unknown; there are motion"):
        find_column("dynamic")


def specs(**weights: float):
    return read_specs([{"reward": "a:b", "name": k, "weight": w} for k, w in weights.items()])


def test_best_candidate():
    rows = [{"u": 0.2, "c": 0.9}, {"u": 0.8, "c": 0.1}, {"u": 0.6, "c": 0.6}]
    assert best_candidate(rows, specs(u=1)) == 1
    assert best_candidate(rows, specs(c=1)) == 0
    assert best_candidate(rows, specs(u=1, c=1)) == 2
    assert best_candidate(rows, specs(u=1, c=3)) == 0
    assert best_candidate(rows, specs(u=1, c=0)) == 1, "weight 0 counts for nothing"


def test_best_candidate_on_a_fixed_scale():
    """u decides nothing by its small spread, and as much as c on a scale that knows how little it spreads."""
    rows = [{"u": 0.50, "c": 0.8}, {"u": 0.56, "c": 0.6}, {"u": 0.52, "c": 0.9}]
    scale = Calibration({"u": Scale(0.5, 0.01, 64), "c": Scale(0.7, 0.2, 64)}, {})
    assert best_candidate(rows, specs(u=1, c=1)) == 2
    assert best_candidate(rows, specs(u=1, c=1), calibration=scale) == 1
    assert best_candidate(rows, specs(c=1), calibration=scale) == 2
    assert best_candidate([{"u": 9.0, "c": None}, rows[0]], specs(u=1, c=1), calibration=scale) == 1


def test_best_candidate_of_ties_and_failures():
    assert best_candidate([{"u": 0.5}, {"u": 0.5}], specs(u=1)) == 0
    assert best_candidate([{"u": 0.9, "c": None}, {"u": 0.1, "c": 0.1}], specs(u=1, c=1)) == 1
    assert best_candidate([{"u": None}, {}], specs(u=1)) is None


def test_advantages_weigh_rewards_by_order_and_not_by_spread():
    """c decides the mean by its spread; standardised, the two disagree on all but the middle one."""
    rows = [{"u": 0.50, "c": 1.0}, {"u": 0.53, "c": 0.0}, {"u": 0.52, "c": 0.9}]
    assert best_candidate(rows, specs(u=1, c=1)) == 0
    assert best_candidate(rows, specs(u=1, c=1), "advantages") == 2
