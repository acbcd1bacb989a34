"""Smoothing across ticks: golden numbers, an independent solution, and what it must not level."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from reward_model.grounding import spatial_iou
from reward_model.schema import Box
from reward_model.tracks.smoothing import (
    SMOOTHERS,
    breaks,
    kalman,
    moving_average,
    smooth,
    smooth_robustly,
    smooth_track,
    strength_of,
    to_box,
    to_track,
    whittaker_fixed,
)

ONES = np.ones(5)


@pytest.mark.parametrize(
    ("values", "weights", "smoothed"),
    [
        ((0, 0, 10, 0, 0), ONES, (5 / 12, 2.5, 25 / 6, 2.5, 5 / 12)),
        ((0, 1, 2, 3, 4), ONES, (0, 1, 2, 3, 4)),
        ((0, 1, 99, 3, 4), (1, 1, 0, 1, 1), (0, 1, 2, 3, 4)),
        ((7, 99, 9), (1, 0, 1), (7, 8, 9)),
        ((99, 7, 99), (0, 1, 0), (7, 7, 7)),
    ],
)
def test_golden_numbers(values, weights, smoothed):
    assert np.allclose(smooth(np.array(values, float), np.array(weights, float)), smoothed, atol=1e-9)


def test_strength_runs_from_the_track_itself_to_the_straight_line():
    values = np.array([0.0, 0, 10, 0, 0])
    assert np.allclose(smooth(values, ONES, 0.0), values, atol=1e-9)
    assert np.allclose(smooth(values, ONES, 1e-9), values, atol=1e-6)
    assert np.allclose(smooth(values, ONES, 1e8), 2.0, atol=1e-5)
    bent = np.array([0.0, 3, 1, 4, 8])
    assert np.allclose(smooth(bent, ONES, 1e8), np.polyval(np.polyfit(range(5), bent, 1), range(5)), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_minimises_the_printed_sum(seed):
    rng = np.random.default_rng(seed)
    values, weights, strength = rng.normal(size=9) * 50, rng.random(9) * (rng.random(9) < 0.8), 10 ** rng.uniform(-1, 1)

    def cost(x):
        bends = x[2:] - 2 * x[1:-1] + x[:-2]
        return (weights * (x - values) ** 2).sum() + strength * (bends**2).sum()

    found = smooth(values, weights, strength)
    assert cost(found) <= minimize(cost, values).fun + 1e-6
    assert all(cost(found + step) >= cost(found) for step in np.eye(9) * 0.01)


def test_one_wrong_box_does_not_pull_its_neighbours():
    line = np.arange(11.0)
    wrong = line + 40 * (line == 5)
    wrong = wrong + np.random.default_rng(0).normal(size=11) * 0.1
    plain, robust = smooth(wrong, np.ones(11)), smooth_robustly(wrong, np.ones(11, bool))
    assert abs(robust - line).max() < abs(plain - line).max() / 5


def curved(rng, length, period, size=200):
    """A thing that circles once in so many ticks."""
    angle = 2 * math.pi * np.arange(length) / period + rng.random() * 6
    centre = 500 + 200 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.concatenate([centre, np.full((length, 2), math.log(size))], axis=1)


def mean_iou(track, truth):
    return float(np.mean([spatial_iou(to_box(a), to_box(b)) for a, b in zip(track, truth, strict=True)]))


def shaken(rng, track):
    """The boxes with a noise of 20 on each side, one in ten moved by another 100."""
    boxes = []
    for row in track:
        sides = np.array(to_box(row).as_list()) + rng.normal(0, 20, 4)
        sides += np.tile(rng.normal(0, 100, 2), 2) * (rng.random() < 0.1)
        x0, y0, x1, y1 = np.clip(np.round(sides), 0, 1000).astype(int).tolist()
        boxes.append(Box(min(x0, 999), min(y0, 999), max(x1, min(x0, 999) + 1), max(y1, min(y0, 999) + 1)))
    return boxes


def acceleration(track):
    return float((np.diff(track[:, :2], 2, axis=0) ** 2).sum())


@pytest.mark.parametrize("length", [11, pytest.param(21, marks=pytest.mark.slow)])
def test_noise_is_smoothed_and_clean_motion_left_alone(length):
    rng = np.random.default_rng(length)
    gains, losses, energies = [], [], []
    for _ in range(40):
        truth = curved(rng, length, period=20)
        noisy = shaken(rng, truth)
        smoothed = smooth_track(noisy)
        gains.append(mean_iou(smoothed, truth) - mean_iou(to_track(noisy), truth))
        energies.append(acceleration(smoothed) / acceleration(to_track(noisy)))
        losses.append(1 - mean_iou(smooth_track([to_box(row) for row in truth]), truth))
    assert np.mean(gains) >= 0.05
    assert np.mean(energies) <= 0.5
    assert np.mean(losses) <= 0.01


def test_a_fixed_strength_cuts_the_corners_of_a_clean_track():
    truth = curved(np.random.default_rng(0), 21, period=10)
    boxes = [to_box(row) for row in truth]
    assert mean_iou(smooth_track(boxes, "whittaker_fixed"), truth) < 0.9
    assert mean_iou(smooth_track(boxes), truth) > 0.99


def test_a_teleport_is_not_smoothed_away():
    rng, lost, lost_without = np.random.default_rng(3), [], []
    for _ in range(30):
        before, after = rng.uniform(80, 250, 2), rng.uniform(700, 920, 2)
        at = rng.integers(4, 8)
        centre = np.where(np.arange(12)[:, None] < at, before, after) + np.arange(12)[:, None] * 3
        truth = np.concatenate([centre, np.full((12, 2), math.log(120))], axis=1)
        boxes = [to_box(row) for row in truth]
        assert breaks(boxes) == [at]
        lost.append(1 - mean_iou(smooth_track(boxes, "whittaker_fixed"), truth))
        lost_without.append(1 - mean_iou(whittaker_fixed(to_track(boxes)), truth))
    assert np.mean(lost) <= 0.02
    assert np.mean(lost_without) > np.mean(lost) + 0.05


def test_a_break_needs_a_far_jump_without_overlap_or_the_models_word():
    here, near, wide, far = Box(0, 0, 100, 100), Box(150, 0, 250, 100), Box(0, 0, 900, 900), Box(600, 600, 700, 700)
    assert breaks([here, near]) == []  # apart, but near
    assert breaks([here, wide]) == []  # far in centre, but overlapping
    assert breaks([here, far]) == [1]
    assert breaks([here, None, None, far]) == [3]
    assert breaks([here, near, near], cuts=[1]) == [1]
    assert breaks([here, None, near], cuts=[1]) == [2]
    assert breaks([None, here, near], cuts=[0, 1, 7]) == []


def test_the_kalman_smoother_solves_the_same_sum():
    track = np.random.default_rng(1).normal(size=(9, 4)) * 10
    track[3] = np.nan
    seen = ~np.isnan(track[:, 0])
    other = np.stack([smooth(column, seen.astype(float)) for column in track.T], axis=1)
    assert np.allclose(kalman(track), other, atol=1e-5)


def test_the_moving_average_is_the_mean_of_neighbours():
    track = np.tile(np.array([[0.0], [3], [np.nan], [9]]), (1, 4))
    assert np.allclose(moving_average(track)[:, 0], [1.5, 3, 6, 7.5])


@pytest.mark.parametrize("name", SMOOTHERS)
def test_every_smoother_fills_gaps_and_leaves_two_boxes_alone(name):
    a, b = Box(0, 0, 100, 100), Box(100, 100, 200, 200)
    found = smooth_track([None, a, None, b, None], name)
    assert [to_box(row) for row in found] == [a, a, Box(50, 50, 150, 150), b, b]
    many = smooth_track([a, None, a, a, None, a, a], name)
    assert [to_box(row) for row in many] == [a] * 7


def test_too_short_a_track_says_nothing_of_its_noise():
    assert strength_of(np.array([0.0, 9, 0, 9])) == 0
    assert strength_of(np.array([0.0, 9, 0, 9, 0, 9, 0])) == 1
    assert strength_of(np.arange(7.0) ** 2) < 1e-9


def test_boxes_survive_the_way_through_a_track():
    rng = np.random.default_rng(0)
    for _ in range(200):
        (x0, x1), (y0, y1) = (sorted(rng.choice(1001, 2, replace=False).tolist()) for _ in range(2))
        assert to_box(to_track([Box(x0, y0, x1, y1)])[0]) == Box(x0, y0, x1, y1)
    assert to_box(np.array([1200.0, -50, math.log(10), math.log(10)])) == Box(999, 0, 1000, 1)
