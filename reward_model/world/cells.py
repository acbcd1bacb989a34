"""The four cells of the hard bench (Fig. 4): how long an anomaly lasts and how much of the picture it takes."""

from __future__ import annotations

from itertools import pairwise

from reward_model.schema import BOX_SCALE, Box, VideoAnnotation

#: Where the cells part: seconds of the anomaly, and share of the picture (A.1).
CELL_SECONDS, CELL_AREA = 1.0, 0.2
SHORT, LONG = "<1s", ">=1s"
SMALL, LARGE = "<20%", ">=20%"
CELLS = ((SHORT, SMALL), (SHORT, LARGE), (LONG, SMALL), (LONG, LARGE))


def anomaly_cell(truth: VideoAnnotation) -> tuple[str, str]:
    """Duration and area cell of an anomalous video.

    Duration is that of all anomalous frames together; area is the mean over the boxed frames of the share of the
    picture that the frame's boxes cover.

    Raises:
        ValueError: if the video is normal, or has no boxes.
    """
    frames = {n for a in truth.anomalies for n in a.frames.frames()}
    boxes: dict[int, list[Box]] = {}
    for anomaly in truth.anomalies:
        for n, found in anomaly.boxes.items():
            boxes.setdefault(n, []).extend(found)
    if not frames or not boxes:
        raise ValueError(f"{truth.video_id}: a cell needs an anomaly with boxes")
    area = sum(covered_share(found) for found in boxes.values()) / len(boxes)
    short, small = len(frames) / truth.fps < CELL_SECONDS, area < CELL_AREA
    return SHORT if short else LONG, SMALL if small else LARGE


def covered_share(boxes: list[Box]) -> float:
    """Share of the picture inside at least one of the boxes, exactly."""
    xs = sorted({v for b in boxes for v in (b.xmin, b.xmax)})
    ys = sorted({v for b in boxes for v in (b.ymin, b.ymax)})
    total = 0
    for x0, x1 in pairwise(xs):
        for y0, y1 in pairwise(ys):
            if any(b.xmin <= x0 and x1 <= b.xmax and b.ymin <= y0 and y1 <= b.ymax for b in boxes):
                total += (x1 - x0) * (y1 - y0)
    return total / BOX_SCALE**2
