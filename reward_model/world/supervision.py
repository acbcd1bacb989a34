"""Annotations as people give them: windows that are off, boxes that are about right, types that nobody chose.

For training only: rewards and benches go by the exact truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from reward_model.grounding import spatial_iou
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation

#: The type that stands where a form is left as it was: the first of the paper's order.
DEFAULT_TYPE = AnomalyType.OBJECT
#: Spread of the IoU of a person's boxes about its mean, and the least and greatest that are drawn.
_IOU_SPREAD, _IOU_RANGE = 0.12, (0.25, 0.95)


def as_people_annotate(
    truth: VideoAnnotation,
    rng: np.random.Generator,
    *,
    off_s: float = 0.5,
    box_iou: float = 0.6,
    untyped: float = 0.2,
) -> VideoAnnotation:
    """The annotation that a person in a hurry would have given.

    Whether a video is normal stays true. Each end of a window is off by up to ``off_s``, evenly; the boxes of an
    anomaly are all moved and stretched alike, as one hand draws them, and stand on the frames of the new window.

    Args:
        truth: exact annotation.
        rng: decides.
        off_s: seconds by which an end of a window is off at most.
        box_iou: mean IoU of the boxes with the true ones, above 0.3 and at most 0.9.
        untyped: share of the anomalies whose type nobody chose: it stays :data:`DEFAULT_TYPE`.

    Raises:
        ValueError: if a number is out of its range.
    """
    if off_s < 0 or not 0.3 < box_iou <= 0.9 or not 0 <= untyped <= 1:
        raise ValueError(
            f"off_s={off_s} must be at least 0, box_iou={box_iou} above 0.3 and at most 0.9, untyped={untyped} between "
            "0 and 1"
        )
    return replace(truth, anomalies=tuple(_blunt(a, truth, rng, off_s, box_iou, untyped) for a in truth.anomalies))


def _blunt(
    anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, off_s: float, box_iou: float, untyped: float
) -> Anomaly:
    last = truth.num_frames - 1
    # What is seen whole in the first or the last frame is not called wrong there.
    low, high = min(1, anomaly.frames.start), max(last - 1, anomaly.frames.end)
    start, end = (
        int(np.clip(edge + round(rng.uniform(-off_s, off_s) * truth.fps), low, high))
        for edge in (anomaly.frames.start, anomaly.frames.end)
    )
    window = FrameRange(min(start, end), max(start, end))
    edges = rng.uniform(-1, 1, size=4)
    overlap = float(np.clip(rng.normal(box_iou, _IOU_SPREAD), *_IOU_RANGE))
    boxes = {
        n: tuple(blunt_box(box, edges, overlap) for box in found) for n, found in _placed(anomaly, window, last).items()
    }
    kind = DEFAULT_TYPE if rng.random() < untyped else anomaly.type
    return replace(anomaly, type=kind, frames=window, boxes=boxes)


def _placed(anomaly: Anomaly, window: FrameRange, last: int) -> Mapping[int, tuple[Box, ...]]:
    """The boxes on the frames of another window: on all of them where they were on all, else as far from its ends."""
    if not anomaly.boxes:
        return {}
    known = sorted(anomaly.boxes)
    if set(anomaly.frames.frames()) <= set(known):
        return {n: anomaly.boxes[min(known, key=lambda k: abs(k - n))] for n in window.frames()}
    middle = (anomaly.frames.start + anomaly.frames.end) / 2
    moved = (window.start - anomaly.frames.start, window.end - anomaly.frames.end)
    return {min(max(n + moved[n > middle], 0), last): anomaly.boxes[n] for n in known}


def blunt_box(box: Box, edges: Sequence[float] | np.ndarray, overlap: float) -> Box:
    """A box whose IoU with another is about ``overlap``: its edges are moved in the ratio of ``edges`` (4,), left, top,
    right, bottom, as far as that takes.
    """
    low, high = 0.0, 1.0
    for _ in range(12):
        step = (low + high) / 2
        low, high = (step, high) if spatial_iou(box, _moved(box, edges, step)) > overlap else (low, step)
    return _moved(box, edges, (low + high) / 2)


def _moved(box: Box, edges: Sequence[float] | np.ndarray, step: float) -> Box:
    width, height = box.xmax - box.xmin, box.ymax - box.ymin
    x0, y0, x1, y1 = (
        round(min(max(value + step * edge * side, 0), BOX_SCALE))
        for value, edge, side in zip(box.as_list(), edges, (width, height, width, height), strict=True)
    )
    left, top = min(x0, x1, BOX_SCALE - 1), min(y0, y1, BOX_SCALE - 1)
    return Box(left, top, max(x0, x1, left + 1), max(y0, y1, top + 1))
