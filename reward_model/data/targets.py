"""The anomalies that the answer about a sample has to report, on the grid of the frames it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reward_model.schema import Anomaly, VideoAnnotation


def targets_of(truth: VideoAnnotation, task: str, indices: Sequence[int]) -> tuple[Anomaly, ...]:
    """The anomalies a row is to report, on the grid of its frames: those that at least one of them shows.

    Turn-two answers need boxes for each: an anomaly that has none on these frames takes the annotated box
    nearest in time (a thing that is gone), and one that has none at all is not asked for. A single frame shows only
    single-frame types.
    """
    targets = []
    for anomaly in truth.anomalies:
        if task == "frame" and not anomaly.type.single_frame:
            continue
        moved = anomaly.on_grid(indices) if any(n in anomaly.frames for n in indices) else None
        if moved is not None and task != "scan" and not moved.boxes:
            pairs = [(abs(indices[k] - n), k, n) for k in moved.frames.frames() for n in anomaly.boxes]
            moved = replace(moved, boxes={min(pairs)[1]: anomaly.boxes[min(pairs)[2]]}) if pairs else None
        if moved is not None:
            targets.append(moved)
    return tuple(targets)


def drawn_throughout(anomaly: Anomaly, num_frames: int) -> Anomaly:
    """The anomaly with a box on every frame of its clip, as the paper's prompt asks (Fig. S5): where there is none,
    that of the nearest frame is repeated. The mini's wording asks for boxes where something is seen.
    """
    if not anomaly.boxes:
        return anomaly
    nearest = {k: min(anomaly.boxes, key=lambda n: (abs(n - k), n)) for k in range(num_frames)}
    return replace(anomaly, boxes={k: anomaly.boxes[n] for k, n in nearest.items()})
