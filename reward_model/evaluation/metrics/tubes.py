"""vIoU: how well a predicted tube of boxes through space and time covers the true one.

A wrong window hides from the spatial IoU of Equation 5, which looks at common frames only; the tube has to be right in
both.
"""

from __future__ import annotations

from reward_model.grounding import Tube, TubeOverlap, hull_viou, join_boxes, tube_overlap, union_iou
from reward_model.rewards import Rollout
from reward_model.schema import VideoAnnotation
from reward_model.video.clip import sample_indices


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


def rollout_tube_iou(rollout: Rollout, truth: VideoAnnotation, fps: float = 8.0) -> float:
    """vIoU of turn two on the grid it was shown, continued at ``fps`` over the rest of the video; 0 without turn two.

    The truth beyond the clip counts: a clip that missed half of the anomaly cannot reach more than half.
    """
    if rollout.zoom is None or not rollout.clip_indices:
        return 0.0
    clip, grid = rollout.clip_indices, _grid_around(rollout, truth, fps)
    native = {grid[k]: boxes for k, boxes in join_boxes(truth.on_grid(grid)).items()}
    return tube_iou({clip[k]: boxes for k, boxes in join_boxes(rollout.zoom.anomalies).items()}, native)


def rollout_tube_overlap(rollout: Rollout, truth: VideoAnnotation, fps: float = 8.0) -> tuple[TubeOverlap, float]:
    """t_IoU and mv_IoU of turn two as the reward ``tv_verifier`` reads them, and TubeDETR's vIoU, on the same grid as
    :func:`rollout_tube_iou`; 0 without turn two.
    """
    if rollout.zoom is None or not rollout.clip_indices:
        return TubeOverlap(0.0, 0.0, 0.0, 0.0), 0.0
    grid = _grid_around(rollout, truth, fps)
    place = {n: k for k, n in enumerate(grid)}
    shown, placed = [place[n] for n in rollout.clip_indices], truth.on_grid(grid)
    drawn = {shown[k]: boxes for k, boxes in join_boxes(rollout.zoom.anomalies).items()}
    named = {shown[k] for a in rollout.zoom.anomalies for k in a.frames.frames()}
    real, true = {k for a in placed for k in a.frames.frames()}, join_boxes(placed)
    return tube_overlap(drawn, true, pred_frames=named, true_frames=real), hull_viou(drawn, true)


def _grid_around(rollout: Rollout, truth: VideoAnnotation, fps: float) -> list[int]:
    """Native frames of the clip, and of the rest of the video at ``fps``."""
    clip = rollout.clip_indices
    around = sample_indices(truth.num_frames, truth.fps, fps)
    return sorted({*clip, *(n for n in around if n < clip[0] or n > clip[-1]), *rollout.unseen_indices})
