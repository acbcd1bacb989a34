"""Views and operators: golden index sets, an independent reference in fractions, and everything that is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from reward_model.active.environment import Environment
from reward_model.active.operators import FACTORS, WIDTHS, Backtrack, Expand, Zoom, next_view, novelty
from reward_model.active.views import Limits, Stretch, View, first_view, frames_window, view_indices
from reward_model.schema import FrameRange
from reward_model.video.clip import sample_indices
from tests.campaigns import draws

FIVE_SECONDS = Stretch(0, 80, 16.0)
EXPANDED = (16, 19, 22, 26, 29, 32, 35, 38, 42, 45, 48, 51, 54, 58, 61, 64)


class Blank(Environment):
    """An environment that shows nothing."""

    def _render(self, indices):
        return None, ""


def begun(footage=FIVE_SECONDS, **limits):
    environment = Blank(footage, Limits(**limits))
    return environment, environment.start()


def test_golden_views():
    environment, first = begun()
    assert first.indices == tuple(range(0, 81, 8)) and first.novelty == 1 and environment.used == 11
    zoomed = environment.step(Zoom(2, 3, 4))
    assert zoomed.indices == tuple(range(32, 49, 2)) and zoomed.novelty == pytest.approx(6 / 9, abs=1e-12)
    wide = environment.step(Expand(1, 1))
    assert wide.indices == EXPANDED and wide.novelty == 10 / 16 and wide.view == View(1, 4, 5)
    environment, _ = begun()
    back = environment.step(Backtrack(3, 1))
    assert back.indices == (32, 40, 48) and back.novelty == 0 and back.num_frames == 3


# --- an independent reference: exact fractions, frames found by distance ----------------------------------------------


def exact_indices(start: Fraction, end: Fraction, rate: Fraction, first: int, last: int, fps: Fraction) -> list[int]:
    found, moment = [], start
    while moment <= end:
        place = moment * fps
        around = range(max(first, math.floor(place) - 1), min(last, math.ceil(place) + 1) + 1)
        near = min(around, key=lambda n: (abs(n - place), n % 2))  # a tie goes to even
        if near not in found:
            found.append(near)
        moment += 1 / rate
    return found


def exact_view(operator, view, first, last, fps, most):
    """(start, end, rate) in fractions, None where it is refused."""
    start, end, rate = view
    low, high = Fraction(first) / fps, Fraction(last) / fps
    if isinstance(operator, Backtrack):
        if operator.width not in WIDTHS:
            return None
        a, b = Fraction(str(operator.moment)) - Fraction(operator.width), Fraction(str(operator.moment))
    elif isinstance(operator, Expand):
        if operator.left < 0 or operator.right < 0:
            return None
        a, b = max(low, start - Fraction(operator.left)), min(high, end + Fraction(operator.right))
        rate = min(rate, Fraction(most - 1) / (b - a)) if b > a else rate
    else:
        a, b = Fraction(str(operator.start)), Fraction(str(operator.end))
        if operator.factor not in FACTORS or not start <= a <= b <= end:
            return None
        rate = min(operator.factor * rate, fps)
    a, b = max(a, low), min(b, high)
    return (a, b, rate) if a <= b else None


def drawn_operator(rng):
    tenth = lambda low, high: round(float(rng.integers(10 * low, 10 * high + 1)) / 10, 1)  # noqa: E731
    kind = int(rng.integers(3))
    if kind == 0:
        return Backtrack(tenth(-1, 7), float(rng.choice((*WIDTHS, 0.3))))
    if kind == 1:
        return Expand(float(rng.choice((-0.5, 0, 0.5, 1, 2))), float(rng.choice((0, 0.25, 1, 3))))
    a = tenth(0, 5)
    return Zoom(a, round(a + tenth(-1, 3), 1), int(rng.choice((2, 3, 4, 8))))


def test_index_sets_are_those_of_the_reference_on_random_episodes():
    rng, shown, refused = np.random.default_rng(0), 0, 0
    for _ in range(draws(300, 100)):
        fps = Fraction(int(rng.choice((8, 12, 16, 24, 30))))
        first = int(rng.integers(0, 20))
        last = first + int(rng.integers(20, 100))
        rate = Fraction(int(rng.choice((1, 2, 4))))
        limits = Limits(float(rate), max_operators=4, max_frames=int(rng.integers(30, 80)), max_view_frames=16)
        footage = Stretch(first, last, float(fps))
        if len(view_indices(first_view(footage, limits), footage)) > min(16, limits.max_frames):
            with pytest.raises(ValueError, match="the first view of"):
                Blank(footage, limits).start()
            continue
        environment = Blank(footage, limits)
        view = (Fraction(first) / fps, Fraction(last) / fps, min(rate, fps))
        indices = exact_indices(*view, first, last, fps)
        assert list(environment.start().indices) == indices
        seen, used = set(indices), len(indices)
        for _ in range(4):
            operator = drawn_operator(rng)
            observation = environment.step(operator)
            asked = exact_view(operator, view, first, last, fps, 16)
            found = exact_indices(*asked, first, last, fps) if asked else []
            if not found or len(found) > 16 or used + len(found) > limits.max_frames:
                assert observation.refused and observation.text.startswith("invalid: "), operator
                assert observation.novelty == observation.num_frames == 0 and observation.frames is None
                assert list(observation.indices) == exact_indices(*view, first, last, fps), "the view stays"
                refused += 1
                continue
            assert list(observation.indices) == found, (operator, view, footage)
            assert observation.novelty == pytest.approx(len(set(found) - seen) / len(found), abs=1e-12)
            view, seen, used, shown = asked, seen | set(found), used + len(found), shown + 1
    assert shown > draws(150, 40) and refused > draws(150, 40)


@pytest.mark.parametrize("fps", [8, 12, 15, 16, 23.976, 24, 25, 29.97, 30, 60])
def test_the_first_view_is_the_grid_of_the_other_turns(fps):
    for rate in (1, 2, 4):
        view = first_view(Stretch(0, 96, fps), Limits(rate))
        assert list(view_indices(view, Stretch(0, 96, fps))) == sample_indices(97, fps, rate)


def test_limits_are_kept():
    environment, _ = begun(max_operators=1)
    assert not environment.must_answer
    environment.step(Backtrack(1, 0.5))
    assert environment.must_answer
    with pytest.raises(RuntimeError, match="1 operators, and all were used"):
        environment.step(Backtrack(1, 0.5))
    environment, _ = begun()
    assert "81 frames exceed the 16 of a view" in environment.step(Zoom(0, 5, 8)).text
    environment, _ = begun(max_frames=18)
    assert "9 frames more exceed the 18 of an episode (11 shown)" in environment.step(Zoom(2, 3, 4)).text
    assert environment.used == 11 and environment.num_operators == 1


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (Backtrack(3, 0.3), "goes back 0.25, 0.5, 1, 2 s, not 0.3"),
        (Backtrack(-0.5, 0.25), "nothing from -0.75 to -0.50 s"),
        (Backtrack(9, 1), "nothing from 8.00 to 9.00 s; the video has 0.00 to 5.00 s"),
        (Backtrack(math.nan, 1), "finite"),
        (Expand(-1, 0), "at least 0"),
        (Expand(0, math.inf), "finite"),
        (Zoom(2, 3, 3), "by 2, 4, 8, not 3"),
        (Zoom(3, 2, 4), "ends before it starts"),
        (Zoom(4, 6, 4), "leaves the view of 0.00 to 5.00 s"),
        (Zoom(-1, 1, 2), "leaves the view"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_the_reason(operator, said):
    environment, first = begun()
    observation = environment.step(operator)
    assert said in observation.text and observation.refused and observation.view == first.view


def test_an_environment_begins_anew():
    environment, first = begun()
    environment.step(Zoom(2, 3, 4))
    again = environment.start()
    assert again.indices == first.indices and again.novelty == 1
    assert (environment.used, environment.num_operators, environment.view) == (11, 0, first.view)


def test_a_part_of_a_video_is_all_there_is():
    footage = Stretch(32, 64, 16.0)
    environment, first = begun(footage)
    assert first.indices == (32, 40, 48, 56, 64)
    assert next_view(Expand(5, 5), first.view, footage, Limits()) == first.view
    assert environment.step(Backtrack(2.25, 1)).indices == (32,)


def test_moments_with_two_decimals_mean_the_frames_they_were_read_from():
    footage = Stretch(0, 120, 24.0)
    view = View(2.0 + 2 / 24, 4.0 + 4 / 24, 4.0)  # frames 50 to 100, shown as 2.08 and 4.17 s
    asked = next_view(Zoom(2.08, 4.17, 2), view, footage, Limits(max_view_frames=40))
    assert view_indices(asked, footage) == tuple(range(50, 101, 3))
    assert next_view(Backtrack(4.17, 1), view, footage, Limits()).end == 100 / 24


def test_a_view_of_one_frame_can_be_left():
    footage = Stretch(0, 80, 16.0)
    alone = View(2.0, 2.0, 8.0)
    assert view_indices(alone, footage) == (32,)
    assert next_view(Expand(0, 0), alone, footage, Limits()) == alone
    assert next_view(Expand(1, 1), alone, footage, Limits()).rate == 7.5


def test_small_parts():
    assert novelty((), {1}) == 0 and novelty((1, 2), {1}) == 0.5
    assert frames_window(FrameRange(1, 2), (0, 8, 16), 16.0) == (0.5, 1.0)
    with pytest.raises(ValueError, match="frames 1-3 are outside the 3 frames"):
        frames_window(FrameRange(1, 3), (0, 8, 16), 16.0)
    assert view_indices(View(3, 2, 4), FIVE_SECONDS) == ()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Stretch(3, 2, 16), "0 <= first <= last"),
        (lambda: Stretch(0, 2, 0), "a rate above 0"),
        (lambda: Limits(start_fps=0), "above 0"),
        (lambda: Limits(max_view_frames=0), "max_view_frames=0 must be at least 1"),
        (lambda: Limits(max_operators=-1), "at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
