"""Overlap of predicted and annotated anomalies: in time, in space, in both (tubes), and by type (Equations 3 to 5).

Every overlap is an intersection over union (IoU) in [0, 1]. Two empty sets agree: their IoU is 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange

Frames = FrameRange | Iterable[int]
#: Boxes by frame.
Tube = Mapping[int, Sequence[Box]]


def temporal_iou(pred: Frames | None, truth: Frames | None) -> float:
    """Equation 4: common frames over all frames. Both sides count on the same grid; ranges include both ends; None
    stands for an empty set.

    Example:
        >>> round(temporal_iou(FrameRange(4, 7), FrameRange(2, 5)), 4)
        0.3333
        >>> temporal_iou([0, 2, 4], [4])
        0.3333333333333333
    """
    return _set_iou(_frame_set(pred), _frame_set(truth))


def spatial_iou(a: Box, b: Box) -> float:
    """Common area of two boxes over their joint area; boxes that only touch have none.

    Example:
        >>> round(spatial_iou(Box(0, 0, 100, 100), Box(50, 0, 150, 100)), 4)
        0.3333
    """
    width = min(a.xmax, b.xmax) - max(a.xmin, b.xmin)
    height = min(a.ymax, b.ymax) - max(a.ymin, b.ymin)
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(a) + _area(b) - common)


def match_boxes(pred: Sequence[Box], truth: Sequence[Box]) -> list[float]:
    """IoU of each true box with its partner, in the order of ``truth``, under the pairing with the largest sum.

    A true box without a partner has 0; predicted boxes left over cost nothing.

    Example:
        >>> match_boxes([Box(0, 0, 10, 10), Box(0, 0, 10, 5)], [Box(0, 0, 10, 10), Box(500, 500, 510, 510)])
        [1.0, 0.0]
    """
    ious = np.array([[spatial_iou(t, p) for p in pred] for t in truth]).reshape(len(truth), len(pred))
    found = [0.0] * len(truth)
    for row, column in zip(*linear_sum_assignment(ious, maximize=True), strict=True):
        found[row] = float(ious[row, column])
    return found


def mean_box_iou(
    pred: Mapping[int, Sequence[Box]], truth: Mapping[int, Sequence[Box]], frames: Collection[int] | None = None
) -> float:
    """Equation 5: mean over the M true boxes on the given frames; 0 if there is none.

    Args:
        pred, truth: boxes by frame index, on the same grid.
        frames: where boxes are compared, the common frames of prediction and truth in the paper; None is every frame
            with a true box.

    Example:
        >>> box, half = Box(0, 0, 10, 10), Box(0, 0, 10, 5)
        >>> mean_box_iou({0: [box], 1: [half]}, {0: [box], 1: [box], 2: [box]}, frames=[0, 1])
        0.75
    """
    where = truth.keys() if frames is None else truth.keys() & set(frames)
    found = [iou for k in sorted(where) for iou in match_boxes(pred.get(k, ()), truth[k])]
    return sum(found) / len(found) if found else 0.0


def union_iou(a: Sequence[Box], b: Sequence[Box]) -> float:
    """IoU of two regions, each the union of its boxes; exact, overlapping boxes count once.

    Example:
        >>> union_iou([Box(0, 0, 10, 10), Box(0, 0, 10, 10)], [Box(0, 0, 10, 5)])
        0.5
    """
    xs = np.unique([x for box in (*a, *b) for x in (box.xmin, box.xmax)])
    ys = np.unique([y for box in (*a, *b) for y in (box.ymin, box.ymax)])
    cells = np.outer(np.diff(ys), np.diff(xs))
    first, second = _covered(a, xs, ys), _covered(b, xs, ys)
    joint = cells[first | second].sum()
    return float(cells[first & second].sum() / joint) if joint else 1.0


def union_area(boxes: Sequence[Box]) -> int:
    """Area of the union of boxes, in squares of the 0-1000 grid.

    Example:
        >>> union_area([Box(0, 0, 500, 1000), Box(250, 0, 750, 1000)])
        750000
    """
    if len(boxes) == 1:
        return _area(boxes[0])
    xs = np.unique([x for box in boxes for x in (box.xmin, box.xmax)])
    ys = np.unique([y for box in boxes for y in (box.ymin, box.ymax)])
    return int(np.outer(np.diff(ys), np.diff(xs))[_covered(boxes, xs, ys)].sum()) if len(boxes) else 0


@dataclass(frozen=True)
class TubeOverlap:
    """t_IoU and mv_IoU of two tubes. The latter is the mean IoU of their boxes over the frames of both (``inter``), of
    either (``union``), or of the truth (``gt``).

    ``inter`` pays for naming fewer frames: one perfect frame of L has 1/L + 1, an honest tube of mean overlap m has 1 +
    m. The other two do not.
    """

    t_iou: float
    inter: float
    union: float
    gt: float

    def mv_iou(self, norm: str) -> float:
        """mv_IoU by the name of its norm."""
        return {"inter": self.inter, "union": self.union, "gt": self.gt}[norm]


def tube_overlap(
    pred: Tube, truth: Tube, *, pred_frames: Frames | None = None, true_frames: Frames | None = None
) -> TubeOverlap:
    """Overlaps of a predicted tube with the true one, on one grid. Several boxes of a frame count as their union.

    Args:
        pred_frames, true_frames: frames that either side names; None: those with boxes. True frames that nobody drew a
            box on (a thing that is gone) count in time alone.

    Example:
        >>> box, half = Box(0, 0, 10, 10), Box(0, 0, 10, 5)
        >>> tube_overlap({k: [half] for k in range(4, 8)}, {k: [box] for k in range(2, 6)})
        TubeOverlap(t_iou=0.3333333333333333, inter=0.5, union=0.16666666666666666, gt=0.25)
    """
    drawn, true = ({k for k, boxes in tube.items() if boxes} for tube in (pred, truth))
    named = drawn if pred_frames is None else _frame_set(pred_frames)
    real = true if true_frames is None else _frame_set(true_frames)
    in_time = _set_iou(named, real)
    named, real = named - (real - true), real & true
    if not named | real:
        return TubeOverlap(in_time, 1.0, 1.0, 1.0)
    common = named & real
    total = sum(union_iou(pred[k], truth[k]) for k in sorted(common & drawn))
    inter, union, gt = (total / len(s) if s else 0.0 for s in (common, named | real, real))
    return TubeOverlap(in_time, inter, union, gt)


def hull_viou(pred: Tube, truth: Tube) -> float:
    """vIoU of TubeDETR (arXiv 2203.16434): both tubes run from their first to their last frame without a gap, and the
    frames from the earlier start to the later end are the divisor, those between two tubes apart included.

    Example:
        >>> box = [Box(0, 0, 10, 10)]
        >>> hull_viou({0: box}, {3: box}), hull_viou({0: box, 1: box}, {1: box, 2: box, 3: box})
        (0.0, 0.25)
    """
    ours, theirs = (sorted(k for k, boxes in tube.items() if boxes) for tube in (pred, truth))
    if not ours or not theirs:
        return 1.0 if not ours and not theirs else 0.0
    common = set(range(max(ours[0], theirs[0]), min(ours[-1], theirs[-1]) + 1)) & set(ours) & set(theirs)
    length = max(ours[-1], theirs[-1]) - min(ours[0], theirs[0]) + 1
    return sum(union_iou(pred[k], truth[k]) for k in sorted(common)) / length


def join_boxes(anomalies: Sequence[Anomaly]) -> dict[int, tuple[Box, ...]]:
    """Boxes of all anomalies by frame."""
    boxes: dict[int, tuple[Box, ...]] = {}
    for anomaly in anomalies:
        for frame, found in anomaly.boxes.items():
            boxes[frame] = boxes.get(frame, ()) + tuple(found)
    return boxes


def type_iou(pred: Iterable[AnomalyType], truth: Iterable[AnomalyType]) -> float:
    """Equation 3 for one turn: common types over all types.

    Example:
        >>> type_iou({AnomalyType.OBJECT, AnomalyType.MOTION}, {AnomalyType.OBJECT})
        0.5
    """
    return _set_iou(set(pred), set(truth))


def _set_iou(a: set[int] | set[AnomalyType], b: set[int] | set[AnomalyType]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def _frame_set(frames: Frames | None) -> set[int]:
    if frames is None:
        return set()
    return set(frames.frames() if isinstance(frames, FrameRange) else frames)


def _area(box: Box) -> int:
    return (box.xmax - box.xmin) * (box.ymax - box.ymin)


def _covered(boxes: Sequence[Box], xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Cells of the compressed grid that lie in one of the boxes, (len(ys) - 1, len(xs) - 1) booleans."""
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    for box in boxes:
        left, right = np.searchsorted(xs, (box.xmin, box.xmax))
        top, bottom = np.searchsorted(ys, (box.ymin, box.ymax))
        covered[top:bottom, left:right] = True
    return covered
