"""The procedural world: its truth must be the truth of its pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reward_model.schema import AnomalyType
from reward_model.world import KINDS, make_annotation, make_scene, make_video
from reward_model.world.video import render

SEEDS = range(24)
SIZE = 48


def clean(seed: int, anomaly: str | None = None, size: int = SIZE):
    return make_video(seed, anomaly, size=size, nuisance=0)


def object_pixels(frames: np.ndarray, seed: int, size: int = SIZE, threshold: float = 0.5) -> np.ndarray:
    """(T, H, W) where a clean frame shows more object than background, by colour alone."""
    scene = make_scene(seed, nuisance=0)
    empty = dataclasses.replace(scene, path=np.full_like(scene.path, 9.0))  # the object far outside the picture
    ground = render(empty, [0], size)[0].astype(float)
    colour = frames.reshape(-1, 3)[np.abs(frames.astype(float) - ground).sum(-1).argmax()].astype(float)
    along = (colour - ground)[None]
    share = ((frames - ground) * along).sum(-1) / (along**2).sum(-1)
    return share > threshold


@pytest.mark.parametrize("kind", KINDS)
def test_twins_differ_in_the_window_and_only_there(kind):
    for seed in SEEDS:
        frames, truth = make_video(seed, kind, size=SIZE)
        twin, normal = make_video(seed, None, size=SIZE)
        window = truth.anomalies[0].frames
        differs = [bool((a != b).any()) for a, b in zip(frames, twin, strict=True)]
        assert [k for k, d in enumerate(differs) if d] == list(window.frames()), (seed, kind)
        assert normal.anomalies == () and normal.prompt == truth.prompt


@pytest.mark.parametrize("kind", KINDS)
def test_the_anomaly_can_be_seen(kind):
    """Not a difference of one grey level: the twins' frames differ by at least a tenth of the object somewhere."""
    for seed in SEEDS:
        (frames, truth), (twin, _) = clean(seed, kind), clean(seed)
        index = list(truth.anomalies[0].frames.frames())
        changed = (np.abs(frames[index].astype(int) - twin[index]).max(-1) > 24).sum((1, 2))
        area = object_pixels(twin, seed)[index].sum((1, 2))
        assert (changed > 0.1 * area).all(), (seed, kind)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "vanish"])
def test_boxes_enclose_what_is_drawn_and_are_tight(kind):
    for seed in SEEDS:
        frames, truth = clean(seed, kind)
        anomaly = truth.anomalies[0]
        assert set(anomaly.boxes) == set(anomaly.frames.frames())
        drawn = object_pixels(frames, seed)
        for k, boxes in anomaly.boxes.items():
            rows, columns = np.nonzero(drawn[k])
            corners = np.array([b.to_pixels(SIZE, SIZE) for b in boxes])
            hull = (*corners[:, :2].min(0), *corners[:, 2:].max(0))
            seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.abs(np.subtract(hull, seen)).max() <= 1.1, (seed, kind, k)
            held = [
                any(x0 <= c + 0.5 <= x1 and y0 <= r + 0.5 <= y1 for x0, y0, x1, y1 in corners)
                for r, c in zip(rows, columns, strict=True)
            ]
            assert np.mean(held) > 0.97, (seed, kind, k)


def test_a_split_has_a_box_for_each_half():
    boxes = [b for seed in SEEDS for b in make_video(seed, "split")[1].anomalies[0].boxes.values()]
    assert {len(b) for b in boxes} == {2}


def test_a_vanished_thing_is_gone_and_boxed_where_it_is_last_and_first_seen():
    for seed in SEEDS:
        frames, truth = clean(seed, "vanish")
        anomaly = truth.anomalies[0]
        drawn = object_pixels(frames, seed)
        gone = [k for k in range(len(frames)) if not drawn[k].any()]
        assert gone == list(anomaly.frames.frames())
        assert sorted(anomaly.boxes) == [anomaly.frames.start - 1, anomaly.frames.end + 1]


def test_objects_stay_inside_the_picture():
    for seed in range(100):
        frames, _ = clean(seed, size=32)
        drawn = object_pixels(frames, seed, 32)
        assert drawn.any((1, 2)).all(), seed
        assert not drawn[:, [0, -1]].any() and not drawn[:, :, [0, -1]].any(), seed


@pytest.mark.parametrize("kind", ["squash", "split"])
def test_faulty_objects_stay_in_the_picture_for_the_most_part(kind):
    """Stretching may push an object over the rim; what is left must still show the fault. Both kinds keep the area."""
    for seed in range(100):
        (frames, truth), (twin, _) = clean(seed, kind, size=32), clean(seed, size=32)
        window = list(truth.anomalies[0].frames.frames())
        area = object_pixels(frames, seed, 32)[window].sum((1, 2))
        assert (area > 0.5 * object_pixels(twin, seed, 32)[window].sum((1, 2))).all(), seed


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_frame_is_the_same_in_any_selection(kind):
    scene = make_scene(11, kind)
    whole = render(scene, range(81))
    for selection in ([0], [80, 3, 3], list(range(0, 81, 4)), list(range(40, 60, 2))):
        np.testing.assert_array_equal(render(scene, selection), whole[selection])


def test_videos_follow_from_their_seed():
    for kind in (None, *KINDS):
        (a, truth_a), (b, truth_b) = make_video(5, kind), make_video(5, kind)
        np.testing.assert_array_equal(a, b)
        assert truth_a == truth_b
    assert any((make_video(5)[0] != make_video(6)[0]).ravel())
    assert len({make_scene(s).prompt for s in range(60)}) > 30


def test_shape_type_and_annotation_are_what_is_promised():
    frames, truth = make_video(3, AnomalyType.MOTION, size=40, num_frames=49, fps=12)
    assert frames.shape == (49, 40, 40, 3) and frames.dtype == np.uint8
    assert (truth.num_frames, truth.fps, truth.width, truth.height) == (49, 12, 40, 40)
    assert truth.types == (AnomalyType.MOTION,) and truth.anomalies[0].objects[0] in truth.prompt
    assert make_annotation(make_scene(3, AnomalyType.MOTION, num_frames=49, fps=12), 40) == truth


def test_windows_are_inside_and_between_four_tenths_and_two_seconds_long():
    lengths = []
    for seed in range(300):
        window = make_scene(seed, list(KINDS)[seed % len(KINDS)]).fault.frames
        assert window.start >= 2 and window.end <= 78
        lengths.append(len(window) / 16)
    assert 0.35 <= min(lengths) < 0.6 and 1.7 < max(lengths) <= 2.0


def test_every_kind_belongs_to_its_type_and_every_kind_is_drawn():
    for kind, family in KINDS.items():
        assert make_video(1, kind)[1].types == (family,)
    drawn = {make_scene(s, AnomalyType.OBJECT).fault.kind for s in range(40)}
    assert drawn == {k for k, f in KINDS.items() if f is AnomalyType.OBJECT}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"anomaly": "melting"}, "the world has no anomaly 'melting'"),
        ({"anomaly": "squash", "num_frames": 8}, "needs at least"),
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
