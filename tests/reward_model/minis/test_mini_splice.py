"""Splices: right and wrong frames of one scene by the toss of a coin, in order."""

from itertools import pairwise

import numpy as np
import pytest

from reward_model.minis.rows import draw_rows, make_example, runs
from reward_model.minis.splices import SPLICED, STRIDE, make_splice
from reward_model.parsing import parse_turn
from reward_model.world.kinds import SETTINGS_OF
from reward_model.world.scene import make_scene
from reward_model.world.video import render
from tests.campaigns import draws

TOSSED = [kind for kind in SPLICED if kind != "float"]


@pytest.mark.parametrize("kind", TOSSED)
def test_right_frames_are_the_twins_and_wrong_ones_are_not(kind):
    setting = SETTINGS_OF[kind][0]
    some_wrong = 0
    for seed in range(draws(5, 2)):
        splice = make_splice(seed, kind, setting, 20, np.random.default_rng(seed))
        twin = make_scene(seed, setting=setting, num_frames=splice.twin.num_frames)
        plain = render(twin, range(0, 20 * STRIDE, STRIDE), 48)
        apart = np.abs(splice.render(48).astype(int) - plain).max(axis=(1, 2, 3))
        assert (apart[~splice.wrong] == 0).all()
        assert (apart[splice.wrong] > 20).all()
        assert not splice.wrong[0]
        some_wrong += splice.wrong.sum()
    assert 0.15 < some_wrong / 20 / draws(5, 2) < 0.65


def test_neighbours_do_not_tell_each_other():
    """An anomalous frame follows a normal one about as often as chance has it; in a video it does so once."""
    flags = [make_splice(s, "teleport", "single", 21, np.random.default_rng(s)).wrong for s in range(60)]
    share = np.mean([f.mean() for f in flags])
    changes = np.mean([a != b for f in flags for a, b in pairwise(f[1:])])
    assert changes > 0.7 * 2 * share * (1 - share)


def test_a_thing_that_hangs_stays_where_it_was_and_goes_on_from_there():
    held = 0
    for seed in range(30):
        splice = make_splice(seed, "float", "physics", 21, np.random.default_rng(seed))
        heights = splice.scene.focus.path[STRIDE * np.arange(21), 1]
        stretches = runs(splice.wrong)
        held += len(stretches)
        for start, end in stretches:
            assert 3 <= end - start + 1 <= 5, "half a second at least"
            assert np.ptp(heights[start : end + 1]) == 0
        moving = np.abs(np.diff(heights)) > 1e-6
        for k in range(20):
            if not (splice.wrong[k] and splice.wrong[k + 1]):
                assert moving[k] or heights[k] == pytest.approx(heights[k + 1], abs=0.02), "it moves on at once"
    assert held > 20


def test_a_splice_is_a_function_of_its_numbers():
    a, b = (make_splice(3, "change", "sign", 12, np.random.default_rng(4)) for _ in range(2))
    assert (a.wrong == b.wrong).all() and (a.render(32) == b.render(32)).all()


def test_answers_to_splices_name_every_wrong_frame_and_no_other():
    kinds = set()
    for row in draw_rows(["splice"] * draws(80, 50), seed=8).to_list():
        example = make_example(row)
        count = sum(not isinstance(p, str) for p in example.conversation[0].content)
        report = parse_turn(example.answer, turn=1, num_frames=count)
        wrong = [not s.endswith("normal. ") for s in report.cot.split("Frame ")[1:count]]
        told = {k for a in report.anomalies for k in a.frames.frames()}
        assert {k for k, w in enumerate(wrong) if w} == told - {count - 1}
        kinds |= {row["kind"]} if report.anomalies else set()
    assert len(kinds) >= draws(9, 7)
