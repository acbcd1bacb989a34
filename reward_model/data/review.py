"""The second round of review (paper, B.1.3): spot checks by other reviewers, and which batches they confirm.

A spot check takes a random 10 % of each batch and gives every video to a reviewer who neither annotated nor reviewed
it. A batch is kept only if more than 95 % of the videos checked agree; otherwise it goes back. A video agrees if

- the status is the same,
- the set of anomaly types is the same,
- for every type the windows overlap: IoU of all its frames above ``min_window_iou`` (0.5, as in B.2),
- for every type the boxes overlap: mean IoU of the best pairing above ``min_box_iou``, measured from both sides, so
  that a missing box and one too many both count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reward_model.data.records import Record
from reward_model.data.splits import position
from reward_model.grounding import mean_box_iou, temporal_iou
from reward_model.schema import AnomalyType, Box, VideoAnnotation
from reward_model.statistics.agreement import cohen_kappa, krippendorff_alpha

#: Extra keys of a record: who annotated it, who reviewed it in round one, its batch, who spot-checks it.
ANNOTATOR_KEY, REVIEWER_KEY, BATCH_KEY, CHECKER_KEY = "annotator", "reviewer", "batch", "spot_checker"
ASPECTS = ("status", "types", "window", "boxes")


def draw_spot_check(
    records: Iterable[Record], reviewers: Sequence[str], *, fraction: float = 0.1, seed: int = 0
) -> list[Record]:
    """The records to check again, each with its checker in the extra key ``spot_checker``.

    Args:
        records: annotated videos; the extra keys ``batch``, ``annotator`` and ``reviewer`` are used where present.
        reviewers: who may check. Work is spread evenly.
        fraction: share of each batch, rounded up, so that no batch goes unchecked.
        seed: another seed, another draw; the same seed draws the same videos in any order of the records.

    Raises:
        ValueError: a fraction outside (0, 1], no reviewers, or a video that all of them have already had in hand.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction} must be above 0 and at most 1")
    if not reviewers:
        raise ValueError("no reviewers were given; a spot check needs people other than the first reviewer")
    load = Counter(dict.fromkeys(reviewers, 0))
    drawn = []
    for _, batch in sorted(_batches(records).items()):
        ordered = sorted(batch, key=lambda r: position(r.truth.video_id, seed))
        for record in ordered[: math.ceil(fraction * len(batch) - 1e-9)]:
            checker = _free_reviewer(record, load, seed)
            load[checker] += 1
            drawn.append(replace(record, extra={**record.extra, CHECKER_KEY: checker}))
    return drawn


def _free_reviewer(record: Record, load: Counter[str], seed: int) -> str:
    seen = {str(record.extra.get(key)) for key in (ANNOTATOR_KEY, REVIEWER_KEY) if record.extra.get(key) is not None}
    free = [name for name in load if name not in seen]
    if not free:
        raise ValueError(
            f"{record.truth.video_id}: every reviewer has annotated or reviewed it ({', '.join(sorted(seen))}); "
            "name one more"
        )
    return min(free, key=lambda name: (load[name], position(f"{name}\0{record.truth.video_id}", seed)))


def _batches(records: Iterable[Record]) -> dict[str, list[Record]]:
    batches: dict[str, list[Record]] = {}
    for record in records:
        batches.setdefault(str(record.extra.get(BATCH_KEY, "")), []).append(record)
    return batches


def compare_annotations(
    first: VideoAnnotation, second: VideoAnnotation, *, min_window_iou: float = 0.5, min_box_iou: float = 0.5
) -> dict[str, bool]:
    """Agreement of two annotations of one video, by aspect (:data:`ASPECTS`).

    Windows and boxes are compared for the types both name; where there is none to compare, they agree. Boxes agree
    where both sides have none.
    """
    shared = set(first.types) & set(second.types)
    windows, boxes = True, True
    for kind in shared:
        (frames_a, boxes_a), (frames_b, boxes_b) = _of_type(first, kind), _of_type(second, kind)
        windows &= temporal_iou(frames_a, frames_b) > min_window_iou
        boxes &= _box_agreement(boxes_a, boxes_b) > min_box_iou
    return {
        "status": first.status == second.status,
        "types": first.types == second.types,
        "window": windows,
        "boxes": boxes,
    }


def _of_type(truth: VideoAnnotation, kind: AnomalyType) -> tuple[set[int], dict[int, list[Box]]]:
    frames: set[int] = set()
    boxes: dict[int, list[Box]] = {}
    for anomaly in truth.anomalies:
        if anomaly.type is kind:
            frames.update(anomaly.frames.frames())
            for frame, entries in anomaly.boxes.items():
                boxes.setdefault(frame, []).extend(entries)
    return frames, boxes


def _box_agreement(a: Mapping[int, Sequence[Box]], b: Mapping[int, Sequence[Box]]) -> float:
    if not any(a.values()) and not any(b.values()):
        return 1.0
    return min(mean_box_iou(a, b), mean_box_iou(b, a))


@dataclass(frozen=True)
class BatchAgreement:
    """One batch: how many of its videos were checked, how many agree in all aspects, and in each."""

    batch: str
    num_checked: int
    num_agreed: int
    by_aspect: dict[str, int]
    threshold: float
    disputed: tuple[str, ...] = ()

    @property
    def agreement(self) -> float:
        return self.num_agreed / self.num_checked

    @property
    def kept(self) -> bool:
        """More than the threshold agree; at the paper's 95 %, 19 of 20 are not enough."""
        return self.agreement > self.threshold


@dataclass(frozen=True)
class ReviewResult:
    """The outcome of a round of review.

    ``kappa`` and ``alpha`` measure reviewers beyond chance, for the status and for the presence of each type; None
    where only one label occurs.
    """

    batches: list[BatchAgreement]
    kappa: dict[str, float | None]
    alpha: dict[str, float | None]
    unchecked: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        batches = [
            {**b.__dict__, "agreement": b.agreement, "kept": b.kept, "disputed": list(b.disputed)} for b in self.batches
        ]
        return {"batches": batches, "kappa": self.kappa, "alpha": self.alpha, "unchecked": list(self.unchecked)}

    def to_markdown(self) -> str:
        """Two tables: the batches, and agreement beyond chance."""
        from reward_model.statistics.intervals import wilson
        from reward_model.statistics.table import Estimate, Table

        rows = []
        for b in self.batches:
            share = Estimate(b.agreement, wilson(b.num_agreed, b.num_checked))
            aspects = [f"{b.by_aspect[a]}/{b.num_checked}" for a in ASPECTS]
            rows.append((b.batch or "(none)", share, *aspects, "kept" if b.kept else "back to annotation"))
        notes = [f"Never checked: {', '.join(name or '(none)' for name in self.unchecked)}."] if self.unchecked else []
        chance = [(name, self.kappa[name], self.alpha[name]) for name in self.kappa]
        tables = [
            Table("Batches", ("batch", "agreement", *ASPECTS, "outcome"), [rows], tuple(notes)),
            Table("Beyond chance", ("label", "Cohen's kappa", "Krippendorff's alpha"), [chance]),
        ]
        return "\n".join(table.to_markdown() for table in tables)


def review_agreement(
    annotated: Iterable[Record],
    checked: Iterable[Record],
    *,
    threshold: float = 0.95,
    min_window_iou: float = 0.5,
    min_box_iou: float = 0.5,
) -> ReviewResult:
    """Compares annotations with their spot check, video by video and batch by batch.

    Args:
        annotated: the annotations under review; they say which batch a video is in.
        checked: what the reviewers found, for some or all of the videos.

    Raises:
        ValueError: if no video is in both, a checked one is unknown, or a threshold is outside [0, 1].
    """
    limits = {"threshold": threshold, "min_window_iou": min_window_iou, "min_box_iou": min_box_iou}
    for name, value in limits.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1")
    first = {r.truth.video_id: r for r in annotated}
    second = {r.truth.video_id: r for r in checked}
    if not second:
        raise ValueError("no video was checked; the spot check must hold videos of the annotation file")
    for name in second:
        if name not in first:
            raise ValueError(
                f"{name!r} was checked but not annotated; the spot check must hold videos of the annotation file"
            )
    pairs = [(first[name], record) for name, record in second.items()]
    batches = [
        _batch_agreement(batch, [(r, second[r.truth.video_id]) for r in rows], limits)
        for batch, rows in sorted(_batches(r for r, _ in pairs).items())
    ]
    kappa, alpha = reviewer_agreement([[a for a, _ in pairs], [b for _, b in pairs]])
    unchecked = _batches(first.values()).keys() - {b.batch for b in batches}
    return ReviewResult(batches, kappa, alpha, tuple(sorted(unchecked)))


def _batch_agreement(batch: str, pairs: Sequence[tuple[Record, Record]], limits: Mapping[str, float]) -> BatchAgreement:
    ious = {k: v for k, v in limits.items() if k != "threshold"}
    found = {a.truth.video_id: compare_annotations(a.truth, b.truth, **ious) for a, b in pairs}
    agreed = [name for name, aspects in found.items() if all(aspects.values())]
    return BatchAgreement(
        batch,
        len(found),
        len(agreed),
        {aspect: sum(f[aspect] for f in found.values()) for aspect in ASPECTS},
        limits["threshold"],
        tuple(sorted(found.keys() - set(agreed))),
    )


def reviewer_agreement(
    raters: Sequence[Sequence[Record]],
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Agreement beyond chance, for the status and the presence of each type (one decision per type: B.1.2).

    Args:
        raters: what each rater annotated; videos are matched by ``video_id`` and need not be the same for all.

    Returns:
        Cohen's kappa (two raters, on their common videos; None for more raters) and Krippendorff's alpha, by label.

    Raises:
        ValueError: fewer than two raters, or no video with two of them.
    """
    if len(raters) < 2:
        raise ValueError(f"agreement needs at least two raters, got {len(raters)}")
    by_rater = [{r.truth.video_id: r.truth for r in rows} for rows in raters]
    videos = sorted({name for rater in by_rater for name in rater})
    kappa: dict[str, float | None] = {}
    alpha: dict[str, float | None] = {}
    for label in ("status", *(t.value for t in AnomalyType)):
        units = [[_label(rater.get(name), label) for rater in by_rater] for name in videos]
        alpha[label] = krippendorff_alpha(units)
        kappa[label] = _kappa([u for u in units if None not in u]) if len(raters) == 2 else None
    return kappa, alpha


def _kappa(common: Sequence[Sequence[Any]]) -> float | None:
    """Cohen's kappa of pairs of labels; None of nothing."""
    return cohen_kappa([u[0] for u in common], [u[1] for u in common]) if common else None


def _label(truth: VideoAnnotation | None, label: str) -> str | bool | None:
    if truth is None:
        return None
    return truth.status if label == "status" else label in truth.types
