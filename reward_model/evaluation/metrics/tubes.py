"""vIoU: how well a predicted tube of boxes through space and time covers the true one.

A wrong window hides from the spatial IoU of Equation 5, which looks at common frames only; the tube has to be right in
both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_model.rewards import Rollout
from reward_model.schema import Anomaly, Box, VideoAnnotation
from reward_model.video.sampling import sample_indices

Tube = Mapping[int, Sequence[Box]]


def tube_iou(pred: Tube, truth: Tube) -> float:
    """Sum over common frames of the IoU of the joined boxes, over the number of frames that have boxes on either side.

    Two empty tubes agree: 1.

    Example:
        >>> whole, half = Box(0, 0, 10, 10), Box(0, 0, 10, 5)
        >>> tube_iou({0: [whole], 1: [half]}, {1: [whole], 2: [whole]})
        0.16666666666666666
    """
    ours, theirs = ({k for k, boxes in tube.items() if boxes} for tube in (pred, truth))
    if not ours | theirs:
        return 1.0
    return sum(union_iou(pred[k], truth[k]) for k in sorted(ours & theirs)) / len(ours | theirs)


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
    """Area of the union of boxes, in squares of the 0-1000 grid."""
    xs = np.unique([x for box in boxes for x in (box.xmin, box.xmax)])
    ys = np.unique([y for box in boxes for y in (box.ymin, box.ymax)])
    return int(np.outer(np.diff(ys), np.diff(xs))[_covered(boxes, xs, ys)].sum()) if len(boxes) else 0


def rollout_tube_iou(rollout: Rollout, truth: VideoAnnotation, fps: float = 8.0) -> float:
    """vIoU of turn two on the grid it was shown, continued at ``fps`` over the rest of the video; 0 without turn two.

    The truth beyond the clip counts: a clip that missed half of the anomaly cannot reach more than half.
    """
    if rollout.zoom is None or not rollout.clip_indices:
        return 0.0
    clip = list(rollout.clip_indices)
    around = sample_indices(truth.num_frames, truth.fps, fps)
    grid = sorted({*clip, *(n for n in around if n < clip[0] or n > clip[-1]), *rollout.unseen_indices})
    placed = [p for a in truth.anomalies if (p := a.on_grid(grid)) is not None]
    native = {grid[k]: boxes for k, boxes in join_boxes(placed).items()}
    return tube_iou({clip[k]: boxes for k, boxes in join_boxes(rollout.zoom.anomalies).items()}, native)


def join_boxes(anomalies: Sequence[Anomaly]) -> dict[int, tuple[Box, ...]]:
    """Boxes of all anomalies by frame."""
    boxes: dict[int, tuple[Box, ...]] = {}
    for anomaly in anomalies:
        for frame, found in anomaly.boxes.items():
            boxes[frame] = boxes.get(frame, ()) + tuple(found)
    return boxes


def _covered(boxes: Sequence[Box], xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Cells of the compressed grid that lie in one of the boxes, (len(ys) - 1, len(xs) - 1) booleans."""
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    for box in boxes:
        left, right = np.searchsorted(xs, (box.xmin, box.xmax))
        top, bottom = np.searchsorted(ys, (box.ymin, box.ymax))
        covered[top:bottom, left:right] = True
    return covered
