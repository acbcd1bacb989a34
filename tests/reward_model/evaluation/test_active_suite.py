"""The aliasing suite: its rows, what a judge has to show on it, and rows that a later run continues."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from reward_model.active.model_policy import ModelPolicy
from reward_model.active.policies import NeverLook
from reward_model.backends.local import LocalBackend
from reward_model.evaluation.active.criteria import (
    accuracy,
    does_not_collapse,
    entropy,
    first_acts,
    g_test,
    generalises,
    learns_to_save,
    sees_what_is_hidden,
)
from reward_model.evaluation.active.play import DEV_SUITE_SEED, SUITE_SEED, PlayedRow, Suite, oracle_of, play
from reward_model.evaluation.active.report import criteria_table, implicit_accuracy, seeds_table, suite_table
from reward_model.evaluation.active.run import Acceptance
from reward_model.training.active.videos import ACTIVE_SEEDS, suite_rows
from reward_model.video.clip import sample_indices
from reward_model.world import make_pair_scenes
from reward_model.world.aliasing import ALIASED, EASY, aliasing_rows, aliasing_scene
from reward_model.world.video import render


def made(count, story=ALIASED, right=1.0, operators=("zoom",), utility=1.0):
    """Rows of which a share is right."""
    said = lambda k: "normal" if k < right * count else "abnormal"  # noqa: E731
    return [
        PlayedRow(k, story, "normal", said(k), tuple(operators), 11 + 9 * len(operators), 50, 0, utility, 0.1)
        for k in range(count)
    ]


# --- the suite --------------------------------------------------------------------------------------------------------


def test_aliased_members_are_equal_at_2_fps_and_easy_videos_are_plain():
    grid = sample_indices(81, 16, 2)
    rows = aliasing_rows(24, first_seed=860_000)
    assert [row["abnormal"] for row in rows] == [False, True] * 12
    assert sum(row["story"] == EASY for row in rows) == 12
    for calm, wrong in zip(rows[::2], rows[1::2], strict=True):
        assert {**calm, "abnormal": True} == wrong
        (a, window), (b, there) = aliasing_scene(calm), aliasing_scene(wrong)
        same = (render(a, grid) == render(b, grid)).all()
        shown = sum(n in there for n in grid)
        if calm["story"] == ALIASED:
            assert same and window == there and len(window) == 17, "eight frames to each side of one of the grid's"
        else:
            assert not same and window is None and shown >= 2 and a.fault is None
    with pytest.raises(ValueError, match="an even count=3"):
        aliasing_rows(3, first_seed=0)


def test_the_moment_of_an_aliased_pair_is_twice_as_wide_as_that_of_the_two_turns():
    wide = make_pair_scenes(5, "fade", scan_fps=2, zoom_fps=4).moment
    usual = make_pair_scenes(5, "fade").moment
    assert wide.middle % 8 == 0 and np.diff(wide).tolist() == [4, 4, 4, 4]
    assert np.diff(usual).tolist() == [2, 2, 2, 2]
    grid = [n % 8 == 0 for n in range(81)]
    assert (wide.smooth(81)[grid] == wide.abrupt(81)[grid]).all() and (wide.smooth(81) != wide.abrupt(81)).any()


def test_scenes_to_be_reported_are_trained_by_nobody():
    trained = {row["seed"] for row in suite_rows(24, seed=3)}
    assert trained <= set(ACTIVE_SEEDS) and ACTIVE_SEEDS[-1] < 400_000
    reported, chosen = ({row["seed"] for row in Suite(24, first).rows()} for first in (SUITE_SEED, DEV_SUITE_SEED))
    assert not (reported & chosen) and max(reported) < DEV_SUITE_SEED
    with pytest.raises(ValueError, match="use fewer rows"):
        suite_rows(60_000, seed=6, easy=0.0)


# --- what a judge has to show -----------------------------------------------------------------------------------------


def test_criterion_6_in_numbers():
    ours, blind, best, drawn = made(100, right=0.8), made(100, right=0.5), made(100), made(100, right=0.62)
    assert [c.met for c in sees_what_is_hidden(ours, blind, best, drawn)] == [True] * 4
    near = sees_what_is_hidden(made(100, right=0.74), made(100, right=0.6), made(100, right=0.99), made(100, right=0.6))
    assert [c.met for c in near] == [False] * 4
    easy = made(100, EASY, right=0.0)
    assert [c.met for c in sees_what_is_hidden(ours + easy, blind, best, drawn)] == [True] * 4, "aliased ones alone"


def test_criterion_7_sees_a_judge_that_always_does_the_same():
    adaptive = made(60, ALIASED) + made(60, EASY, operators=())
    scripts = {name: made(60, utility=0.5) for name in ("always-zoom", "never-look", "random")}
    assert [c.met for c in does_not_collapse(adaptive, scripts)] == [True] * 3
    for rows in (made(60) + made(60, EASY), made(60, operators=()) + made(60, EASY, operators=())):
        assert [c.met for c in does_not_collapse(rows, scripts)] == [False, False, True]
    dear = {**scripts, "random": made(60, utility=1.1)}
    assert does_not_collapse(adaptive, dear)[2].met is False
    assert first_acts(adaptive) == {"zoom": 60, "answer": 60} and entropy(first_acts(adaptive)) == 1.0


def test_the_g_test_is_that_of_the_textbook():
    first, second = {"zoom": 30, "answer": 10}, {"zoom": 12, "answer": 28}
    table = np.array([[10, 30], [28, 12]])
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    corrected = table - 0.5 * np.sign(table - expected)  # of Yates, for two by two
    g = 2 * (corrected * np.log(corrected / expected)).sum()
    from scipy.stats import chi2

    assert g_test(first, second) == pytest.approx(float(chi2.sf(g, 1)), rel=1e-6) and g_test(first, second) < 0.01
    assert g_test({}, second) == 1.0 and g_test({"zoom": 3}, {"zoom": 4}) == 1.0


def test_criteria_8_and_9():
    before = made(100, EASY, operators=("zoom", "zoom"))
    assert learns_to_save(made(100, EASY, right=0.98), before).met
    assert not learns_to_save(made(100, EASY, right=0.97), before).met
    assert not learns_to_save(made(100, EASY, operators=("zoom", "zoom")), before).met
    assert not learns_to_save(made(100, EASY, operators=()), made(100, EASY, operators=())).met, "nothing was saved"
    assert [generalises(x).met for x in (0.65, 0.64, None)] == [True, False, None]


def test_tables(tmp_path):
    played = {"judge": made(10) + made(10, EASY, operators=()), "odd": [replace(made(1)[0], forced=True)]}
    text = suite_table(played, title="T", notes=("n",)).to_text()
    assert "1.000 [1.000, 1.000]" in text and "1.00 / 0.00 / 0.00" in text and text.rstrip().endswith("n")
    said = criteria_table([("ours", generalises(None)), ("ours", generalises(0.7))]).to_text()
    assert "not logged" in said and "met" in said
    assert "| 2" in seeds_table({"a": made(4), "b": made(4, right=0.5)}).to_text()
    assert implicit_accuracy(tmp_path) is None
    lines = [{"step": 1, "round": 1}, {"step": 2, "round": 1, "held_out/implicit_accuracy": 0.6}]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert implicit_accuracy(tmp_path) == 0.6


# --- a real judge -----------------------------------------------------------------------------------------------------


def test_rows_are_kept_and_continued(judge_folder, tmp_path):
    backend = LocalBackend(judge_folder, device="cpu")
    config = backend.config.override(policy="active", frame_size=48, max_zoom_tokens=4)
    model, suite = ModelPolicy(backend, config), Suite(2, DEV_SUITE_SEED)
    asked = []

    def oracle(batch):
        asked.append(len(batch))
        return oracle_of(batch)

    options = {"path": tmp_path / "oracle.jsonl", "batch_size": 1}
    rows = play(suite, oracle, model.believe, config, **options)
    assert asked == [1, 1] and all(row.correct for row in rows) and [r.video for r in rows] == [0, 1]
    lines = options["path"].read_text().splitlines(keepends=True)
    options["path"].write_text("".join(lines[:-1]) + lines[-1][:20])
    again = play(suite, oracle, model.believe, config, **options)
    assert asked == [1, 1, 1] and [replace(r, seconds=0) for r in again] == [replace(r, seconds=0) for r in rows]
    assert len(options["path"].read_text().splitlines()) >= 3
    play(suite, oracle, model.believe, config, **options, fingerprint="another judge")
    assert asked == [1] * 5


def test_an_answer_that_cannot_be_read_is_the_likelier_verdict(judge_folder):
    backend = LocalBackend(judge_folder, device="cpu")
    config = backend.config.override(policy="active", frame_size=48, max_zoom_tokens=4)
    model = ModelPolicy(backend, config)
    rows = play(Suite(4, DEV_SUITE_SEED), lambda batch: NeverLook(model), model.believe, config)
    pair = [row for row in rows if row.story == ALIASED]
    assert all(row.forced for row in rows) and [row.utility for row in rows] == [float(row.correct) for row in rows]
    assert pair[0].said == pair[1].said and accuracy(pair) == 0.5, "what it is shown of both is the same"


@pytest.mark.slow
def test_the_acceptance_of_a_tiny_judge_fails_as_it_should(judge_folder, tmp_path):
    def opened(folder):
        backend = LocalBackend(folder, device="cpu")
        return backend, backend.config.override(policy="active", frame_size=48, max_zoom_tokens=4)

    accepted = Acceptance(str(judge_folder), Suite(4, DEV_SUITE_SEED), opened, tmp_path, batch_size=4)
    played = accepted.run(cold=str(judge_folder), ablations={"same": str(judge_folder)})
    assert list(played) == ["judge", "passive", "oracle", "random", "always-zoom", "cold start", "same"]
    assert max(r.num_frames for r in played["random"]) <= 11 and not any(r.operators for r in played["passive"])
    found = accepted.criteria(0.5)
    assert [c.number for c in found] == [6, 6, 6, 6, 7, 7, 7, 8, 9] and found[1].met and not found[2].met
