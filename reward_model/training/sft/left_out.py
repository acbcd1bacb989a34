"""Abnormal videos that stage 1 does not use, and why: most types of anomaly show only in a comparison of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_model.data.annotations import Record


def unused_in_stage1(records: Sequence[Record], used: Collection[int], told: Collection[str] | None = None) -> str:
    """A sentence on the abnormal videos that give no frame to stage 1; empty if all of them do.

    Args:
        records: the annotated videos of the stage.
        used: numbers of the records that rows were made of.
        told: names of the videos with verified reasoning, where only those are used.
    """
    abnormal = {k: r for k, r in enumerate(records) if r.truth.status == "abnormal"}
    reasons = [_reason(r, told) for k, r in abnormal.items() if k not in used]
    if not reasons:
        return ""
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(reasons).items()))
    return f"{len(reasons)} of {len(abnormal)} abnormal videos not used: {listed}"


def _reason(record: Record, told: Collection[str] | None) -> str:
    truth = record.truth
    if not any(a.type.single_frame for a in truth.anomalies):
        types = sorted({a.type.value for a in truth.anomalies})
        return f"of types that one frame cannot show ({' and '.join(types)}; stage 2 trains on them)"
    if not any(n in a.frames for a in truth.anomalies if a.type.single_frame for n in a.boxes):
        return "without a box on the frames of the anomaly"
    if told is not None and truth.video_id not in told:
        return "without verified reasoning"
    return "not drawn (normal and abnormal samples are 1:1)"
