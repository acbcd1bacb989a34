"""Calibration bins, ordering and the argued default."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from reward_model.evaluation import calibration_error, reliability_bins
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.readouts import argue_default, ordering_within, readout_figures
from reward_model.evaluation.tables.reliability_plot import plot_reliability


def test_bins_by_brute_force():
    rng = np.random.default_rng(0)
    stated, happened = np.append(rng.random(200), [0.0, 1.0, 0.5]), np.append(rng.random(200) < 0.5, [True] * 3)
    bins = reliability_bins(stated, happened, num_bins=5)
    for b in bins:
        inside = (stated >= b.low) & ((stated < b.high) | (b.high == 1.0))
        assert (b.num, b.stated, b.observed) == (inside.sum(), stated[inside].mean(), happened[inside].mean())
    gap = sum(b.num * abs(b.stated - b.observed) for b in bins) / len(stated)
    assert sum(b.num for b in bins) == len(stated)
    assert calibration_error(stated, happened, num_bins=5) == pytest.approx(gap)


def test_ordering_by_brute_force():
    rng = np.random.default_rng(1)
    rewards, strength = rng.integers(0, 4, 30) / 4, rng.integers(0, 5, 30)
    groups = [["a", "b", "c"][k % 3] for k in range(30)]
    wins = []
    for i, j in combinations(range(30), 2):
        if groups[i] == groups[j] and strength[i] != strength[j]:
            weak, strong = sorted((i, j), key=lambda k: strength[k])
            wins.append((rewards[strong] < rewards[weak]) + 0.5 * (rewards[strong] == rewards[weak]))
    assert ordering_within(rewards, strength, groups) == pytest.approx(np.mean(wins))
    assert ordering_within(np.zeros(30), strength, groups) == 0.5  # saturated rewards rank nothing
    assert ordering_within([0.1, 0.2], [1, 1], ["a", "a"]) is None
    with pytest.raises(ValueError, match="one strength"):
        ordering_within([0.1], [1, 2], ["a", "a"])


def rows(paper, direct):
    """Normal and abnormal videos in turn, with the probabilities of two readouts."""
    return [
        Row(
            k,
            f"v{k}",
            "squash" if k % 2 else "",
            "abnormal" if k % 2 else "normal",
            extent=k / 100 if k % 2 else None,
            score=d,
            has_verdict=True,
            readouts={"paper": p, "direct": d},
        )
        for k, (p, d) in enumerate(zip(paper, direct, strict=True))
    ]


def test_the_default_goes_to_the_readout_that_still_ranks():
    saturated = [1.0, 0.0] * 20
    graded = [v for k in range(20) for v in (0.9, 0.4 - 0.01 * k)]
    figures = {f.name: f for f in readout_figures(rows(saturated, graded), num_resamples=20)}
    assert figures["paper"].auroc.value == figures["direct"].auroc.value == 1.0
    assert figures["paper"].saturation.value == 1.0 and figures["direct"].saturation.value == 0.0
    assert figures["direct"].ordering == 1.0 and figures["paper"].ordering == 0.5
    name, why = argue_default(list(figures.values()))
    assert name == "direct" and "saturation 1.000" in why and "ordering 0.500" in why


def test_ranking_comes_before_saturation():
    useless = [0.5 + 0.001 * (k % 7) for k in range(40)]
    figures = readout_figures(rows([1.0, 0.0] * 20, useless), num_resamples=20)
    assert argue_default(figures)[0] == "paper"
    with pytest.raises(ValueError, match="both classes"):
        argue_default([])


def test_plot_is_a_picture_of_the_readouts(tmp_path):
    pytest.importorskip("matplotlib")
    found = plot_reliability({"a_$b": rows([1.0, 0.0] * 5, [0.7, 0.2] * 5)}, tmp_path / "r.png")
    assert found.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and [p.name for p in tmp_path.iterdir()] == ["r.png"]
    scores_only = [Row(0, "v", "", "normal", score=0.5)]
    assert plot_reliability({"x": scores_only}, tmp_path / "none.png") is None and not (tmp_path / "none.png").exists()
