"""Scripts: a few numbers that always give the same video, of any story."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.video.clip import sample_indices
from reward_model.world import KINDS, LOOK_ALIKES, make_video
from reward_model.world.kinds import SETTINGS_OF
from reward_model.world.scripts import Script, check_stories, draw_story
from tests.campaigns import draws

SHARES = {"shifted": 0.4, "look-alike": 0.3, "short": 0.2}
#: Story, stratum and kind of the first six draws, before a share could name one look-alike.
BEFORE = [
    ("shifted", "zoom", "squash"),
    ("bounce", "scan", "squash"),
    ("short", "scan", "squash"),
    ("shifted", "neither", "squash"),
    ("fade", "zoom", "vanish"),
    ("dim", "zoom", "flicker"),
]


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
    for number in range(draws(60, 30)):
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
    for k in range(draws(400, 120)):
        Script(k, setting="objects", story="shifted", draw=k, stored=False).film()


def test_a_share_names_a_look_alike_and_its_stratum():
    rng = np.random.default_rng(3)
    shares = {"zoom/fade": 0.5, "neither/look-alike": 0.2, "dash": 0.2}
    told = [draw_story(rng, shares, "squash", abnormal=bool(k % 2)) for k in range(600)]
    strata = {name: {t["stratum"] for t in told if t["story"] == name} for name in LOOK_ALIKES}
    assert strata["fade"] == {"zoom", "neither"} and strata["pass"] == {"neither"} and len(strata["dash"]) == 3
    fades = [t for t in told if t["story"] == "fade" and t["stratum"] == "zoom"]
    assert np.mean([t in fades for t in told]) == pytest.approx(0.5, abs=0.06)
    assert {t["kind"] for t in fades} == {"", "vanish"}
    assert {t["kind"] for t in told if t["story"] == "plain"} == {"", "squash"}


def test_shares_that_were_there_before_draw_what_they_drew():
    rng = np.random.default_rng(11)
    told = [draw_story(rng, SHARES, "squash", abnormal=True) for _ in range(6)]
    assert [(t["story"], t["stratum"], t["kind"]) for t in told] == BEFORE


@pytest.mark.parametrize(
    "shares",
    [
        {"zoom/shifted": 0.1},
        {"deep/fade": 0.1},
        {"zoom/": 0.1},
        {"shiftd": 0.1},
        {"shifted": -0.1},
        {"shifted": 0.7, "short": 0.4},
    ],
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="must give shares of shifted, short, look-alike from 0 to 1"):
        check_stories(shares)


def test_a_story_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="story='fable' must be plain, shifted, short, or one of fade"):
        Script(1, story="fable").film()
