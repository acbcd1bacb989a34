"""t_IoU and mv_IoU of tubes: golden numbers, a reference that counts frame by frame, and what each norm pays for."""

import numpy as np
import pytest

from reward_model.grounding import hull_viou, spatial_iou, tube_overlap
from reward_model.schema import Box
from tests.campaigns import slow_but

WHOLE, HALF, FULL = Box(0, 0, 100, 100), Box(0, 0, 100, 50), Box(0, 0, 1000, 1000)


def tube(box, frames):
    return dict.fromkeys(frames, (box,))


def test_golden_numbers():
    found = tube_overlap(tube(HALF, range(4, 8)), tube(WHOLE, range(2, 6)))
    assert (found.t_iou, found.inter, found.union, found.gt) == pytest.approx((1 / 3, 0.5, 1 / 6, 0.25), abs=1e-9)
    assert [found.mv_iou(norm) for norm in ("inter", "union", "gt")] == [found.inter, found.union, found.gt]
    with pytest.raises(KeyError):
        found.mv_iou("mean")


def test_shrinking_pays_under_inter_alone():
    """Two true frames; an honest tube has mean overlap .34 (what CaC's Table S4 reports), a shrunk one is one perfect
    frame.
    """
    honest = Box(0, 0, 100, 34)
    truth = tube(WHOLE, range(2))
    full, shrunk = tube_overlap(tube(honest, range(2)), truth), tube_overlap(tube(WHOLE, range(1)), truth)
    assert shrunk.t_iou + shrunk.inter == pytest.approx(1.5, abs=1e-9)
    for norm in ("inter", "union", "gt"):
        assert full.t_iou + full.mv_iou(norm) == pytest.approx(1.34, abs=1e-9)
    for norm in ("union", "gt"):
        assert shrunk.t_iou + shrunk.mv_iou(norm) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("seed", slow_but(range(5), 0))
def test_a_hundred_random_tubes_against_counting(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        pred, truth = (random_tube(rng) for _ in range(2))
        found = tube_overlap({k: (b,) for k, b in pred.items()}, {k: (b,) for k, b in truth.items()})
        common, either = 0, 0
        total = 0.0
        for k in range(30):
            common += k in pred and k in truth
            either += k in pred or k in truth
            total += spatial_iou(pred[k], truth[k]) if k in pred and k in truth else 0.0
        expected = (common / either, total / common if common else 0.0, total / either, total / len(truth))
        assert (found.t_iou, found.inter, found.union, found.gt) == pytest.approx(expected, abs=1e-9)
        span = [*pred, *truth]
        hull = total / (max(span) - min(span) + 1)
        assert hull_viou({k: (b,) for k, b in pred.items()}, {k: (b,) for k, b in truth.items()}) == pytest.approx(hull)


def random_tube(rng):
    start, length = int(rng.integers(0, 20)), int(rng.integers(1, 10))
    boxes = {}
    for k in range(start, start + length):
        (x0, x1), (y0, y1) = (sorted(rng.choice(200, 2, replace=False).tolist()) for _ in range(2))
        boxes[k] = Box(x0, y0, x1, y1)
    return boxes


def test_true_frames_without_a_box_count_in_time_alone():
    """A thing that is gone on frames 1 and 2: naming them is right, and there is no box to miss."""
    truth = {0: (WHOLE,), 3: (WHOLE,)}
    found = tube_overlap(tube(WHOLE, range(4)), truth, true_frames=range(4))
    assert (found.t_iou, found.inter, found.union, found.gt) == (1, 1, 1, 1)
    bare = tube_overlap({0: (WHOLE,)}, truth, pred_frames=range(4), true_frames=range(4))
    assert (bare.t_iou, bare.inter, bare.union, bare.gt) == (1, 0.5, 0.5, 0.5)


def test_empty_tubes():
    nothing = tube_overlap({}, {})
    assert (nothing.t_iou, nothing.inter, nothing.union, nothing.gt) == (1, 1, 1, 1)
    missed = tube_overlap({}, tube(WHOLE, range(3)))
    assert (missed.t_iou, missed.inter, missed.union, missed.gt) == (0, 0, 0, 0)
    assert hull_viou({}, {}) == 1 and hull_viou({}, {0: (WHOLE,)}) == 0


@pytest.mark.parametrize("seed", slow_but(range(3), 0))
def test_hacks_score_below_an_honest_tube_under_union_but_not_under_inter(seed):
    """Answers about short events (two or three frames): the whole video, one perfect frame and the full frame against
    an honest tube whose boxes are half a side off.
    """
    rng = np.random.default_rng(seed)
    totals = {name: dict.fromkeys(("inter", "union", "gt"), 0.0) for name in ("honest", "video", "frame", "full")}
    for _ in range(100):
        start, length = int(rng.integers(4, 10)), int(rng.integers(2, 4))
        x, y, side = int(rng.integers(0, 500)), int(rng.integers(0, 700)), int(rng.integers(100, 300))
        box, near = Box(x, y, x + side, y + side), Box(x + side // 2, y, x + side // 2 + side, y + side)
        truth = tube(box, range(start, start + length))
        answers = {
            "honest": tube(near, range(start, start + length)),
            "video": tube(near, range(40)),
            "frame": tube(box, [start + length // 2]),
            "full": tube(FULL, range(start, start + length)),
        }
        for name, answer in answers.items():
            found = tube_overlap(answer, truth)
            for norm in totals[name]:
                totals[name][norm] += (found.t_iou + found.mv_iou(norm)) / 100
    for norm in ("union", "gt"):
        assert all(totals[hack][norm] < totals["honest"][norm] for hack in ("video", "frame", "full")), norm
    assert totals["frame"]["inter"] > totals["honest"]["inter"]
