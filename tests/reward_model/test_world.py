"""The procedural world: its truth must be the truth of its pixels."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from reward_model.schema import AnomalyType, Box
from reward_model.world import KINDS, make_annotation, make_scene, make_video
from reward_model.world.cells import CELLS, anomaly_cell, covered_share
from reward_model.world.kinds import BOUNDARY, REASONS, SETTINGS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.palette import WORDS
from reward_model.world.signs import letter_bitmap, spell
from reward_model.world.video import render
from tests.campaigns import draws, slow_but

SEEDS = range(draws(8, 1))
SIZE = 48
#: Kinds whose scene is the normal one again when the window ends; a stopped clock or another bounce stays late.
RETURNING = [k for k, family in KINDS.items() if family is not AnomalyType.PHYSICAL]


def setting_of(kind: str) -> str:
    return SETTINGS_OF[kind][-1]


@cache
def normal_video(seed: int, setting: str):
    return make_video(seed, None, setting=setting, size=SIZE)


def truth_of(seed: int, anomaly: str, size: int = SIZE, **options):
    """What :func:`make_video` says of a video, without drawing it."""
    return make_annotation(make_scene(seed, anomaly, **options), size)


def without_focus(scene, index):
    """The scene's frames with the main actor taken away: what differs from the real ones is the actor."""
    rest = tuple(a for a in scene.actors if a is not scene.focus)
    return render(dataclasses.replace(scene, actors=rest), index, SIZE)


@pytest.mark.parametrize("kind", RETURNING)
def test_twins_differ_in_the_window_and_only_there(kind):
    for seed in SEEDS:
        frames, truth = make_video(seed, kind, setting=setting_of(kind), size=SIZE)
        twin, normal = normal_video(seed, setting_of(kind))
        window = truth.anomalies[0].frames
        differs = [bool((a != b).any()) for a, b in zip(frames, twin, strict=True)]
        assert [k for k, d in enumerate(differs) if d] == list(window.frames()), (seed, kind)
        assert normal.anomalies == () and normal.prompt == truth.prompt


@pytest.mark.parametrize("kind", RETURNING)
def test_the_anomaly_can_be_seen(kind):
    """Not a difference of one grey level: in every frame of the window some twenty-five grey levels on some pixels."""
    for seed in SEEDS:
        scene, twin = (make_scene(seed, k, setting=setting_of(kind), nuisance=0) for k in (kind, None))
        index = list(scene.fault.frames.frames())
        frames, normal = (render(s, index, SIZE).astype(int) for s in (scene, twin))
        changed = (np.abs(frames - normal).max(-1) > 25).sum((1, 2))
        assert (changed >= 4).all(), (seed, kind, changed.min())
        assert changed.mean() >= 9, (seed, kind, changed.mean())


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in (*BOUNDARY, "missing_limb", "change", "mirror", "scramble")]
)
def test_boxes_hold_the_actor_and_nothing_of_it_sticks_out(kind):
    for seed in SEEDS:
        scene = make_scene(seed, kind, setting=setting_of(kind), nuisance=0)
        anomaly = make_annotation(scene, SIZE).anomalies[0]
        index = list(anomaly.frames.frames())
        assert set(anomaly.boxes) == set(index), (seed, kind)
        drawn = np.abs(render(scene, index, SIZE).astype(int) - without_focus(scene, index)).max(-1)
        for picture, k in zip(drawn, index, strict=True):
            mask = picture > 0.6 * picture.max()
            inside = np.zeros((SIZE, SIZE), bool)
            for box in anomaly.boxes[k]:
                x0, y0, x1, y1 = (round(v) for v in box.to_pixels(SIZE, SIZE))
                inside[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
                assert (picture[y0:y1, x0:x1] > 25).any(), (seed, kind, k, "an empty box")
            if KINDS[kind] is not AnomalyType.HUMAN:  # a person's box holds the half of the body that is wrong
                assert mask[inside].sum() >= 0.97 * mask.sum(), (seed, kind, k)


def test_things_are_boxed_tightly():
    for kind in ("squash", "teleport", "float"):
        for seed in SEEDS:
            scene = make_scene(seed, kind, setting=setting_of(kind), nuisance=0)
            anomaly = make_annotation(scene, SIZE).anomalies[0]
            index = list(anomaly.frames.frames())
            drawn = np.abs(render(scene, index, SIZE).astype(int) - without_focus(scene, index)).max(-1)
            for picture, k in zip(drawn, index, strict=True):
                rows, columns = np.nonzero(picture > 0.5 * drawn.max())
                seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert np.abs(np.subtract(anomaly.boxes[k][0].to_pixels(SIZE, SIZE), seen)).max() <= 2.1, (seed, kind)


def test_a_split_has_a_box_for_each_half():
    boxes = [b for seed in SEEDS for b in truth_of(seed, "split").anomalies[0].boxes.values()]
    assert {len(b) for b in boxes} == {2}


@pytest.mark.parametrize("kind", BOUNDARY)
def test_what_comes_or_goes_is_boxed_at_the_edge_of_the_event(kind):
    """The last frame that shows a thing before it goes, the first one after, or the other way round."""
    for seed in SEEDS:
        scene = make_scene(seed, kind, setting="objects", nuisance=0)
        anomaly = make_annotation(scene, SIZE).anomalies[0]
        start, end = anomaly.frames.start, anomaly.frames.end
        assert sorted(anomaly.boxes) == ([start - 1, end + 1] if kind == "vanish" else [start, end])
        frames = range(scene.num_frames)
        there = (render(scene, frames, SIZE) != without_focus(scene, frames)).any((1, 2, 3))
        expected = [(n in anomaly.frames) == (kind == "appear") for n in frames]
        assert there.tolist() == expected, (seed, kind)


def test_a_hanging_thing_hangs_where_nothing_hangs():
    """Its place is the same in the whole window, and it is neither at the floor nor at the top of its arc."""
    for seed in range(60):
        scene = make_scene(seed, "float")
        heights = scene.focus.path[:, 1]
        window = list(scene.fault.frames.frames())
        assert np.ptp(heights[window]) < 1e-9
        before = np.abs(np.diff(make_scene(seed, None, setting="physics").focus.path[:, 1])).max()
        assert abs(heights[window[-1] + 1] - heights[window[-1]]) > 0.15 * before or window[-1] > 76


def test_a_rebound_is_higher_than_anything_before_it_and_exactly_in_its_window():
    for seed in range(60):
        scene = make_scene(seed, "rebound")
        height, window = -scene.focus.path[:, 1], scene.fault.frames
        usual = height[: window.start].max()
        assert usual > height.min() + 0.1, "a whole bounce has been seen before"
        above = [n for n in range(scene.num_frames) if height[n] > usual + 0.02]
        assert above and set(above) <= set(window.frames())
        assert len(above) >= 0.6 * len(window), (seed, len(above), len(window))


def test_normal_bounces_never_rise_again():
    for seed in range(80):
        scene = make_scene(seed, None, setting="physics")
        if "bounces" not in scene.prompt:
            continue
        y = scene.focus.path[:, 1]
        tops = [y[n] for n in range(1, 80) if y[n] < y[n - 1] and y[n] <= y[n + 1]]
        assert all(later > earlier - 0.02 for earlier, later in pairwise(tops)), seed


def test_things_touch_the_block_during_an_overlap_and_never_otherwise():
    for seed in range(60):
        for kind in ("overlap", None):
            scene = make_scene(seed, kind, setting="physics")
            if "block" not in scene.prompt:
                continue
            block = scene.actors[1]
            reach = block.radius * 0.886 + scene.focus.radius * (1.0 if scene.focus.shape == "ball" else 0.886)
            apart = np.abs(scene.focus.path[:, 0] - block.path[:, 0]) - reach
            inside = set(np.flatnonzero(apart < -1e-9))
            assert inside == (set(scene.fault.frames.frames()) if kind else set()), (seed, kind)


def test_words_on_signs_can_be_told_from_their_mirror_images():
    for word in WORDS:
        assert spell(word).shape == (7, 17)
        odd = [c for c in word if (letter_bitmap(c) != letter_bitmap(c)[:, ::-1]).any()]
        assert len(odd) >= 2, word
    assert len({spell(w).tobytes() for w in WORDS}) == len(WORDS)


def test_a_sign_reads_its_word_outside_the_window():
    for kind in ("scramble", "mirror", "change"):
        scene = make_scene(4, kind)
        word = scene.prompt.split("reads ")[1][:3]
        for n in range(scene.num_frames):
            shown = scene.focus.texts[scene.focus.which[n]]
            assert (shown == spell(word)).all() == (n not in scene.fault.frames)


@pytest.mark.parametrize("setting", SETTINGS)
def test_main_actors_stay_in_the_picture(setting):
    for seed in range(draws(40, 10)):
        scene = make_scene(seed, None, setting=setting, nuisance=0)
        there = (render(scene, range(0, 81, 8), SIZE) != without_focus(scene, range(0, 81, 8))).any((1, 2, 3))
        assert there.all(), seed


@pytest.mark.parametrize("kind", ["squash", "split"])
def test_faulty_things_stay_in_the_picture_for_the_most_part(kind):
    """Stretching may push a thing over the rim; what is left must still show the fault. Both kinds keep the area."""
    for seed in range(draws(60, 12)):
        scene = make_scene(seed, kind, setting="objects", nuisance=0)
        twin = make_scene(seed, None, setting="objects", nuisance=0)
        window = list(scene.fault.frames.frames())
        area, usual = ((render(s, window, SIZE) != without_focus(s, window)).any(-1).sum((1, 2)) for s in (scene, twin))
        assert (area > 0.5 * usual).all(), seed


@pytest.mark.parametrize("kind", slow_but([None, *KINDS], None, *[*KINDS][::2]))
def test_a_frame_is_the_same_in_any_selection(kind):
    scene = make_scene(11, kind)
    whole = render(scene, range(81))
    for selection in ([0], [80, 3, 3], list(range(0, 81, 4)), list(range(40, 60, 2))):
        np.testing.assert_array_equal(render(scene, selection), whole[selection])


def test_videos_follow_from_their_seed():
    for kind in (None, *KINDS)[:: draws(1, 3)]:
        (a, truth_a), (b, truth_b) = (make_video(5, kind, size=24) for _ in range(2))
        np.testing.assert_array_equal(a, b)
        assert truth_a == truth_b
    assert any((make_video(5)[0] != make_video(6)[0]).ravel())
    assert len({make_scene(s).prompt for s in range(60)}) > 50
    assert {make_scene(s).setting for s in range(60)} == set(SETTINGS)


def test_shape_type_and_annotation_are_what_is_promised():
    frames, truth = make_video(3, AnomalyType.MOTION, size=40, num_frames=49, fps=12)
    assert frames.shape == (49, 40, 40, 3) and frames.dtype == np.uint8
    assert (truth.num_frames, truth.fps, truth.width, truth.height) == (49, 12, 40, 40)
    assert truth.types == (AnomalyType.MOTION,)
    assert make_annotation(make_scene(3, AnomalyType.MOTION, num_frames=49, fps=12), 40) == truth


def test_windows_are_inside_and_as_long_as_asked():
    lengths = []
    for seed in range(draws(300, 120)):
        window = make_scene(seed, list(KINDS)[seed % len(KINDS)]).fault.frames
        assert window.start >= 2 and window.end <= 78
        lengths.append(len(window) / 16)
    assert 0.35 <= min(lengths) < 0.6 and 2.1 < max(lengths) <= 2.4
    short = [len(make_scene(s, k, duration_s=(0.4, 0.9)).fault.frames) / 16 for s in range(8) for k in KINDS]
    assert max(short) <= 0.9


def test_every_family_and_kind_is_there_and_single_frame_kinds_are_of_single_frame_families():
    assert set(KINDS.values()) == set(AnomalyType) and set(REASONS) == set(KINDS) == set(SETTINGS_OF)
    assert all(KINDS[k].single_frame or k == "overlap" for k in SINGLE_FRAME)
    for kind, family in KINDS.items():
        assert truth_of(1, kind).types == (family,)
    for family in AnomalyType:
        drawn = {make_scene(s, family).fault.kind for s in range(60)}
        assert drawn == {k for k, f in KINDS.items() if f is family}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"anomaly": "melting"}, "the world has no anomaly 'melting'"),
        ({"anomaly": "squash", "num_frames": 8}, "needs at least"),
        ({"anomaly": "squash", "setting": "sign"}, "cannot happen in the setting 'sign'"),
        ({"setting": "sea"}, "must be one of single"),
        ({"style": "oil"}, "must be one of plain, ink"),
        ({"num_frames": 0}, "must be positive"),
        ({"fps": 0}, "must be positive"),
        ({"fps": float("nan")}, "must be positive"),
    ],
)
def test_impossible_wishes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        make_video(0, **arguments)


def test_nuisance_changes_the_picture_and_not_the_truth():
    plain, truth = make_video(9, "squash", nuisance=0)
    noisy, same = make_video(9, "squash", nuisance=1)
    assert same.anomalies[0].frames == truth.anomalies[0].frames and (plain != noisy).any(-1).mean() > 0.5


def test_the_ink_style_looks_different_and_tells_the_same_story():
    for kind in (None, "squash", "bent_limb", "mirror"):
        plain, truth = make_video(9, kind)
        ink, same = make_video(9, kind, style="ink")
        assert [a.frames for a in truth.anomalies] == [a.frames for a in same.anomalies]
        assert abs(float(plain.mean()) - float(ink.mean())) > 20
        assert same.source == "world-ink"


@pytest.mark.slow
def test_every_cell_of_the_hard_bench_can_be_filled_from_every_family():
    found = {
        (KINDS[k], anomaly_cell(truth_of(s, k, 24, scale=scale)))
        for k in KINDS
        for s in range(8)
        for scale in ((0.65, 1.2), (2.2, 2.8))
    }
    assert found == {(family, cell) for family in AnomalyType for cell in CELLS}


def test_covered_share_counts_common_area_once():
    assert covered_share([Box(0, 0, 500, 500), Box(250, 0, 750, 500)]) == pytest.approx(0.375)
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = np.sort(rng.integers(0, 49, size=(4, 2, 2)), axis=1)
        boxes = [Box(*(20 * v for v in (*low, *(high + 1)))) for low, high in corners]
        grid = np.zeros((51, 51), bool)
        for low, high in corners:
            grid[low[1] : high[1] + 1, low[0] : high[0] + 1] = True
        assert covered_share(boxes) == pytest.approx(grid[:50, :50].sum() / 2500)


def test_a_normal_video_is_in_no_cell():
    with pytest.raises(ValueError, match="needs an anomaly with boxes"):
        anomaly_cell(make_video(0)[1])
