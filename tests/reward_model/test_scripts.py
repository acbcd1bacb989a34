"""Scripts: a few numbers that always give the same video, of any story."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.video.clip import sample_indices
from reward_model.world import KINDS, LOOK_ALIKES, make_video
from reward_model.world.kinds import SETTINGS_OF
from reward_model.world.scripts import Script, check_stories, draw_story

SHARES = {"shifted": 0.4, "look-alike": 0.3, "short": 0.2}


def draw_script(number: int) -> tuple[Script, bool]:
    rng = np.random.default_rng([7, number])
    kind = str(rng.choice(list(KINDS)))
    abnormal = bool(rng.random() < 0.5)
    story = draw_story(rng, SHARES, kind, abnormal=abnormal)
    return Script(number, setting=str(rng.choice(SETTINGS_OF[kind])), draw=number, stored=False, **story), abnormal


def test_the_plain_story_is_the_published_world():
    frames, truth = make_video(41, "split", setting="objects")
    film = Script(41, "split", "objects").film()
    assert (film.take(range(81)) == frames).all()
    assert film.truth.anomalies == truth.anomalies


def test_every_script_gives_one_video_whose_status_is_known():
    stories = set()
    for number in range(60):
        script, abnormal = draw_script(number)
        film = script.film()
        stories.add(script.story)
        assert (film.truth.status == "abnormal") == abnormal
        index = sample_indices(film.truth.num_frames, film.truth.fps, 1)
        assert (film.take(index) == script.film().take(index)).all()
    assert {"plain", "shifted", "short"} < stories and stories & set(LOOK_ALIKES)


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_what_a_scan_may_suspect_is_the_other_member_of_the_pair(kind):
    normal, abnormal = (Script(5, name, story=kind, draw=3) for name in ("", LOOK_ALIKES[kind]))
    assert normal.film().truth.status == "normal"
    assert normal.suspicion() == abnormal.film().truth
    assert Script(5).suspicion() is None


def test_signs_are_never_mirrored_by_a_shift():
    films = [Script(k, setting="sign", story="shifted", draw=k, stored=False).film() for k in range(60)]
    assert not any(film.shift.mirror for film in films)


def test_bars_never_leave_a_slit_of_the_picture():
    """Bars beside an upright picture made it narrower than a scene can be."""
    for k in range(400):
        Script(k, setting="objects", story="shifted", draw=k, stored=False).film()


@pytest.mark.parametrize("shares", [{"shiftd": 0.1}, {"shifted": -0.1}, {"shifted": 0.7, "short": 0.4}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="must give shares of shifted, short, look-alike from 0 to 1"):
        check_stories(shares)


def test_a_story_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="story='fable' must be plain, shifted, short, or one of fade"):
        Script(1, story="fable").film()
