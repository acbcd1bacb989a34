"""Pairs that a coarse grid cannot tell apart, and short anomalies: what each grid sees, by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from reward_model.schema import Box, FrameRange
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from reward_model.world import (
    KINDS,
    LOOK_ALIKES,
    SHORT_KINDS,
    STRATA,
    make_annotation,
    make_pair,
    make_pair_scenes,
    make_scene,
)
from reward_model.world.kinds import REASONS
from reward_model.world.narration import visible_anomalies
from reward_model.world.palette import STYLES
from reward_model.world.short import make_short, make_short_scene
from reward_model.world.video import render
from tests.campaigns import draws

#: Grids of the two turns, frame rates and lengths that pairs are tried under.
FOOTAGE = ((81, 16.0), (97, 24.0), (121, 30.0), (61, 12.0))
#: Grey levels by which the two members differ at least inside the box, on the finer grid.
VISIBLE = 12.0


def differing(kind: str, seed: int, indices: Sequence[int], **options) -> list[int]:
    """Those of the given native frames on which the two members of a pair are not equal."""
    pair = make_pair_scenes(seed, kind, **options)
    a, b = (render(scene, indices) for scene in (pair.normal, pair.abnormal))
    return [n for n, x, y in zip(indices, a, b, strict=True) if (x != y).any()]


@pytest.mark.parametrize("kind", LOOK_ALIKES)
@pytest.mark.parametrize("footage", [*FOOTAGE[::2], *(pytest.param(f, marks=pytest.mark.slow) for f in FOOTAGE[1::2])])
def test_a_pair_is_equal_on_the_scan_grid_and_differs_on_the_zoom_grid(kind, footage):
    num_frames, fps = footage
    scan, zoom = (sample_indices(num_frames, fps, rate) for rate in (4, 8))
    for seed in range(draws(6, 1)):
        pair = make_pair_scenes(seed, kind, num_frames=num_frames, fps=fps)
        apart = differing(kind, seed, sorted({*scan, *zoom}), num_frames=num_frames, fps=fps)
        assert not set(apart) & set(scan), (seed, apart)
        assert {pair.moment.left, pair.moment.right} <= set(apart) & set(zoom), (seed, apart)
        # What turn two is shown when turn one suspects the frame in the middle: both frames that decide are in it.
        here = scan.index(pair.moment.middle)
        shown = zoom_indices(native_window(FrameRange(here, here), scan, num_frames), num_frames, fps, 8)
        assert {pair.moment.left, pair.moment.right} <= set(shown), (seed, shown)


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_strata_say_which_grid_decides(kind):
    scan, zoom = (sample_indices(81, 16, rate) for rate in (4, 8))
    for seed in range(20, 20 + draws(8, 1)):
        assert differing(kind, seed, scan, stratum="scan"), seed
        apart = differing(kind, seed, range(81), stratum="neither")
        assert apart and not set(apart) & set(zoom), (seed, apart)


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_pairs_are_pairs_in_every_style_shape_and_size(kind):
    """No shadow, contour, pattern or camera tells what the grid hides."""
    scan = sample_indices(81, 16, 4)
    looks = [{"style": style, "pan": 0.08, "zoom": 0.2} for style in STYLES] + [{"aspect": 16 / 9}, {"aspect": 9 / 16}]
    for seed, options in [*enumerate(looks)][:: draws(1, 3)]:
        pair = make_pair_scenes(seed, kind, **options)
        for size in (24, 64)[: draws(2, 1)]:
            a, b = (render(scene, scan, size) for scene in (pair.normal, pair.abnormal))
            np.testing.assert_array_equal(a, b, err_msg=str(options))
        a, b = (render(scene, [pair.moment.left, pair.moment.right]) for scene in (pair.normal, pair.abnormal))
        assert (a != b).any((1, 2, 3)).all() and make_annotation(pair.abnormal).anomalies[0].boxes, options


@pytest.mark.parametrize("kind", LOOK_ALIKES)
@pytest.mark.parametrize("zoom_fps", [4, 8])
def test_the_aliasing_suite_is_equal_at_2_fps_and_decided_above(kind, zoom_fps):
    for seed in range(draws(4, 1)):
        options = {"scan_fps": 2, "zoom_fps": zoom_fps}
        assert not differing(kind, seed, sample_indices(81, 16, 2), **options)
        assert len(differing(kind, seed, sample_indices(81, 16, zoom_fps), **options)) >= 2


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_the_difference_can_be_seen(kind):
    """Inside the box of the anomaly, or of where the thing is in the normal member, not on a pixel somewhere."""
    found = []
    for seed in range(draws(30, 6)):
        pair = make_pair_scenes(seed, kind, nuisance=0)
        frames = [pair.moment.left, pair.moment.right]
        a, b = (render(scene, frames).astype(int) for scene in (pair.normal, pair.abnormal))
        apart = np.abs(a - b).max(-1)
        for difference in apart:
            rows, columns = np.nonzero(difference > 0)
            held = difference[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert held.size >= 12, (seed, held.shape)
            found.append(held.mean())
    assert min(found) > VISIBLE and np.mean(found) > 2 * VISIBLE, (min(found), np.mean(found))


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_the_truth_of_a_pair_is_that_of_the_world_s_other_anomalies(kind):
    for stratum in STRATA:
        for seed in range(draws(3, 1)):
            (normal, calm), (abnormal, wrong) = make_pair(seed, kind, stratum=stratum, size=24)
            moment = make_pair_scenes(seed, kind, stratum=stratum).moment
            assert calm.anomalies == () and calm.prompt == wrong.prompt and calm.video_id != wrong.video_id
            anomaly = wrong.anomalies[0]
            assert anomaly.type is KINDS[LOOK_ALIKES[kind]] and anomaly.reason.endswith(REASONS[LOOK_ALIKES[kind]])
            assert moment.start < anomaly.frames.start <= moment.middle <= anomaly.frames.end < moment.end
            vanishes = LOOK_ALIKES[kind] == "vanish"
            ends = [anomaly.frames.start - 1, anomaly.frames.end + 1]
            assert sorted(anomaly.boxes) == (ends if vanishes else list(anomaly.frames.frames())), (stratum, seed)
            assert normal.shape == abnormal.shape == (81, 24, 24, 3)


def test_who_passes_behind_a_bar_is_hidden_in_the_middle_and_seen_beside_it():
    for seed in range(draws(20, 4)):
        pair = make_pair_scenes(seed, "pass", nuisance=0)
        thing, bar = pair.normal.actors
        extent = np.abs(pair.normal.focus.path[:, bar.axis] - bar.middle)
        middle = pair.moment.middle
        assert extent[middle] == 0
        covered = render(pair.normal, [middle])
        alone = replace(pair.normal, actors=(bar,), focus=bar)
        np.testing.assert_array_equal(covered, render(alone, [middle]))
        for n in (pair.moment.left, pair.moment.right):
            assert (render(pair.normal, [n]) != render(alone, [n])).any(-1).sum() >= 8, seed
            np.testing.assert_array_equal(render(pair.abnormal, [n]), render(alone, [n]))
        assert thing is pair.normal.focus


def test_an_elastic_thing_is_squashed_only_while_it_touches_the_floor():
    for seed in range(20):
        pair = make_pair_scenes(seed, "bounce")
        floor, thing = pair.normal.actors
        bottom = thing.path[:, 1] + 0.886 * thing.radius / thing.stretch[:, 0] * (thing.shape == "square")
        bottom += thing.radius / thing.stretch[:, 0] * (thing.shape == "ball")
        squashed = thing.stretch[:, 0] > 1.001
        assert squashed[pair.moment.middle] and np.abs(bottom[squashed] - floor.level).max() < 1e-6
        carried = pair.abnormal.focus.stretch[:, 0] > 1.5
        assert carried[pair.moment.left] and bottom[pair.moment.left] < floor.level - 0.05, seed


def test_boxes_hold_what_the_anomaly_is_about():
    light = make_pair(3, "dim")[1][1].anomalies[0]
    assert {b for boxes in light.boxes.values() for b in boxes} == {Box(0, 0, 1000, 1000)}
    for seed in range(8):
        pair = make_pair_scenes(seed, "bounce", nuisance=0)
        truth = make_annotation(pair.abnormal)
        for n, (box,) in truth.anomalies[0].boxes.items():
            x0, y0, x1, y1 = box.to_pixels(48, 48)
            assert (x1 - x0) > 1.3 * (y1 - y0), (seed, n)  # the squashed shape, not the usual one


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: make_pair(0, "melt"), "no look-alike 'melt'"),
        (lambda: make_pair(0, "fade", stratum="some"), "must be one of scan, zoom, neither"),
        (lambda: make_pair(0, "fade", fps=8, stratum="neither"), r"8 fps cannot tell apart and 8 fps can"),
        (lambda: make_pair(0, "fade", num_frames=7), "use a longer video"),
        (lambda: make_pair(0, "fade", scan_fps=8), "below zoom_fps"),
        (lambda: make_short_scene(0, "float"), "'float' cannot be short"),
        (lambda: make_short_scene(0, "squash", meets=2), "must be 1, or 0"),
        (lambda: make_short_scene(0, "squash", meets=0, fps=8), "no window of 2 to 6"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# --- short anomalies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meets", [0, 1])
@pytest.mark.parametrize("fps", [16.0, 24.0])
def test_short_anomalies_meet_the_scan_as_often_as_asked(meets, fps):
    grid = sample_indices(97, fps, 4)
    lengths = set()
    for k, kind in enumerate(SHORT_KINDS * 3):
        scene = make_short_scene(k, kind, meets=meets, fps=fps, num_frames=97)
        truth = make_annotation(scene)
        window = truth.anomalies[0].frames
        lengths.add(len(window))
        assert sum(n in window for n in grid) == meets and len(visible_anomalies(truth, grid)) == meets
        assert truth.anomalies[0].boxes and scene.fault.kind == kind
    assert min(lengths) == 2 and max(lengths) == (6 if meets else min(6, int(fps / 4) - 1))


@pytest.mark.parametrize("kind", SHORT_KINDS)
def test_a_short_anomaly_can_be_seen_in_its_frames(kind):
    """Against the normal twin, which for an overlap plays another story: there, against the frame before."""
    for seed in range(draws(6, 1)):
        frames, truth = make_short(seed, kind, nuisance=0)
        window = list(truth.anomalies[0].frames.frames())
        scene = make_short_scene(seed, kind, nuisance=0)
        twin = make_scene(seed, None, setting=scene.setting, nuisance=0)
        usual = frames[[n - 1 for n in window]] if kind == "overlap" else render(twin, window)
        changed = (np.abs(frames[window].astype(int) - usual).max(-1) > 25).sum((1, 2))
        assert (changed >= 4).all(), (seed, changed)
