"""Keyframes: thinning and expanding give the same boxes back, lines are straight, ends are where they were said."""

from __future__ import annotations

import random

import pytest

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.tracks import Keyframe, expand, from_tracks, keyframes, to_tracks
from reward_model.schema import Box


def random_track(rng: random.Random, num_frames: int = 60) -> dict[int, Box]:
    track: dict[int, Box] = {}
    frame = rng.randint(0, 5)
    while frame < num_frames:
        x, y, dx, dy = rng.randint(0, 400), rng.randint(0, 400), rng.randint(-3, 8), rng.randint(-3, 8)
        for k in range(rng.randint(1, 15)):
            if frame + k < num_frames:
                jitter = rng.choice([0, 0, 0, 1])
                left, top = max(x + dx * k + jitter, 0), max(y + dy * k, 0)
                track[frame + k] = Box(left, top, left + 100, top + 80 + k)
        frame += 15 + rng.randint(1, 10)
    return track


def test_thinned_tracks_expand_to_the_same_boxes():
    rng = random.Random(0)
    for _ in range(50):
        track = random_track(rng)
        found = expand(keyframes(track), 60)
        assert found.boxes == track and found.open_from is None


def test_straight_motion_needs_two_keyframes():
    track = {n: Box(2 * n, 10, 2 * n + 100, 90) for n in range(3, 40)}
    assert [k.frame for k in keyframes(track)] == [3, 39]
    assert [k.ends for k in keyframes(track)] == [False, True]


def test_corners_between_keyframes_lie_on_the_line():
    keys = [Keyframe(0, (0, 0, 100, 100)), Keyframe(4, (40, 80, 140, 180), ends=True)]
    assert expand(keys, 10).boxes[3] == Box(30, 60, 130, 160)
    assert sorted(expand(keys, 10).boxes) == [0, 1, 2, 3, 4]


def test_an_open_track_stays_to_the_end_and_says_since_when():
    found = expand([Keyframe(2, (0, 0, 9, 9))], 6)
    assert sorted(found.boxes) == [2, 3, 4, 5] and found.open_from == 3


def test_an_end_leaves_a_gap_and_so_does_an_invisible_keyframe():
    box = (0.0, 0.0, 9.0, 9.0)
    ended = expand([Keyframe(0, box, ends=True), Keyframe(5, box, ends=True)], 9)
    hidden = expand([Keyframe(0, box), Keyframe(1, box, visible=False), Keyframe(5, box, ends=True)], 9)
    assert sorted(ended.boxes) == sorted(hidden.boxes) == [0, 5]


def test_order_does_not_matter_and_the_later_entry_of_a_frame_counts():
    keys = [Keyframe(4, (0, 0, 5, 5), ends=True), Keyframe(0, (0, 0, 5, 5)), Keyframe(0, (0, 0, 9, 5))]
    assert expand(keys, 9).boxes[0] == Box(0, 0, 9, 5)


@pytest.mark.parametrize("frame", [-1, 7, 10**12])
def test_keyframes_outside_the_video_are_refused(frame):
    with pytest.raises(FormatError, match="outside a video of 6 frames"):
        expand([Keyframe(0, (0, 0, 9, 9)), Keyframe(frame, (0, 0, 9, 9))], 6)


def test_a_keyframe_just_behind_the_end_only_ends_the_track():
    keys = [Keyframe(3, (0, 0, 9, 9)), Keyframe(6, (0, 0, 9, 9), visible=False)]
    assert sorted(expand(keys, 6).boxes) == [3, 4, 5]


def test_boxes_of_a_frame_keep_their_order_in_tracks():
    a, b, c = Box(0, 0, 1, 1), Box(2, 2, 3, 3), Box(4, 4, 5, 5)
    boxes = {0: (a, b), 1: (b,), 2: (c, a, b)}
    assert from_tracks(to_tracks(boxes)) == boxes
    assert to_tracks({}) == []
