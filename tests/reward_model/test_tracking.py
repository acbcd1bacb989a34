"""The referee: silent on every normal world video, and names each kind of fault."""

import numpy as np
import pytest

from reward_model.world import make_video
from reward_model.world.tracking import find_faults, track_object
from tests.campaigns import draws

SEEDS = range(910_000, 910_000 + draws(12, 4))


def test_normal_videos_pass_with_all_their_nuisances():
    assert [seed for seed in SEEDS if find_faults(make_video(seed, setting="single")[0])] == []


@pytest.mark.parametrize(("kind", "name"), [("squash", "deforms"), ("split", "splits"), ("vanish", "vanishes")])
def test_each_kind_is_named(kind, name):
    assert all(find_faults(make_video(seed, kind, setting="single")[0]) == [name] for seed in SEEDS)


def test_an_empty_video_has_no_object():
    assert find_faults(np.full((20, 32, 32, 3), 90, np.uint8)) == ["missing"]


def test_growth_and_jumps():
    def square(side, x):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[10 : 10 + side, x : x + side] = 255
        return frame

    steady = [square(8, 4) for _ in range(20)]
    assert find_faults(np.stack(steady)) == []
    assert find_faults(np.stack(steady[:10] + [square(12, 4)] * 4 + steady[:10])) == ["grows"]
    assert find_faults(np.stack(steady[:10] + [square(12, 4)] * 2 + steady[:10])) == [], "two frames are forgiven"
    assert find_faults(np.stack(steady[:10] + [square(8, 20)] * 10)) == ["jumps"]


def test_measures_are_fractions_of_the_picture():
    frames, truth = make_video(4, setting="single")
    track = track_object(frames)
    assert truth.status == "normal" and np.all((track.area > 0.02) & (track.area < 0.2))
    assert np.all((track.centre > 0) & (track.centre < 1)) and np.all(track.pieces == 1)
