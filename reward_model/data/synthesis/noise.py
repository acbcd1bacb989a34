"""Mistakes a teacher makes, on purpose and repeatably: one of seven faults in an answer that was right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from reward_model.grounding import temporal_iou
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.terminal.described import check_settings, setting


@dataclass(frozen=True)
class Noise:
    """Probability of each fault per answer of an average sample; their sum is that of any fault.

    ``hard_share`` of the samples are hard: there every probability is ``hard_factor`` times as large, elsewhere smaller
    so that the mean stays. Hard samples are what becomes non-salient or is discarded.
    """

    status: float = setting(0.0, least=0)
    type: float = setting(0.0, least=0)
    window: float = setting(0.0, least=0)
    box: float = setting(0.0, least=0)
    json: float = setting(0.0, least=0)
    hint: float = setting(0.0, least=0)
    cut: float = setting(0.0, least=0)
    hard_share: float = setting(0.3, least=0)
    hard_factor: float = setting(2.0, least=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if sum(self.faults().values()) > 1 or self.hard_share * self.hard_factor > 1:
            raise ValueError(
                f"noise probabilities sum to {sum(self.faults().values()):.3g} and hard_share x hard_factor is "
                f"{self.hard_share * self.hard_factor:.3g}; neither may exceed 1"
            )

    @classmethod
    def even(cls, total: float) -> Noise:
        """Every fault equally likely, ``total`` together.

        Example:
            >>> round(sum(Noise.even(0.35).faults().values()), 6)
            0.35
        """
        return cls(*[total / 7] * 7)

    def faults(self) -> dict[str, float]:
        """Probability by fault, in a fixed order."""
        return {name: getattr(self, name) for name in ("status", "type", "window", "box", "json", "hint", "cut")}

    def draw(self, rng: random.Random, *, hard: bool) -> str | None:
        """The fault of one answer, or None; at most 95 % of a hard sample's answers are faulty."""
        easy = (1 - self.hard_share * self.hard_factor) / (1 - self.hard_share) if self.hard_share < 1 else 1.0
        factor = self.hard_factor if hard else easy
        total = sum(self.faults().values()) * factor
        shrink = min(1.0, 0.95 / total) if total else 1.0
        at = rng.random()
        for name, probability in self.faults().items():
            at -= probability * factor * shrink
            if at < 0:
                return name
        return None


def spoil_report(report: TurnReport, fault: str, num_frames: int, rng: random.Random) -> TurnReport:
    """The report with one fault of substance; a fault it has no place for becomes the next one that it has."""
    if fault == "status":
        return _other_status(report, num_frames)
    if fault == "hint":
        return replace(report, cot=f"{report.cot} As told in the hint.".strip())
    if not report.anomalies:
        return report
    if fault == "box" and not report.anomalies[0].boxes:
        fault = "window"
    spoil: Callable[[Anomaly], Anomaly] = {
        "type": lambda a: replace(a, type=rng.choice([t for t in AnomalyType if t != a.type])),
        "window": lambda a: replace(a, frames=_other_window(a.frames, num_frames, rng)),
        "box": lambda a: replace(a, boxes={k: tuple(map(_shrunken, v)) for k, v in a.boxes.items()}),
    }[fault]
    return replace(report, anomalies=(spoil(report.anomalies[0]), *report.anomalies[1:]))


def spoil_text(text: str, fault: str) -> str:
    """An answer without its last brace (``json``), or half of it (``cut``)."""
    return text.rstrip().removesuffix("}") if fault == "json" else text[: len(text) // 2]


def _other_status(report: TurnReport, num_frames: int) -> TurnReport:
    if report.anomalies:
        return TurnReport("normal", report.cot)
    whole, middle = FrameRange(0, num_frames - 1), Box(250, 250, 750, 750)
    boxes = dict.fromkeys(range(num_frames), (middle,))
    seen = Anomaly(AnomalyType.OBJECT, whole, boxes, reason="the object looks wrong", region="centre")
    return TurnReport("abnormal", report.cot, (seen,))


def _other_window(window: FrameRange, num_frames: int, rng: random.Random) -> FrameRange:
    """Another window; half of the time one that the IoU rule lets pass and the reviewer may not."""
    others = [FrameRange(a, b) for a in range(num_frames) for b in range(a, num_frames) if FrameRange(a, b) != window]
    far = [w for w in others if temporal_iou(w, window) <= 0.5]
    near = [w for w in others if w not in far]
    return rng.choice(near if near and (not far or rng.random() < 0.5) else far or [window])


def _shrunken(box: Box) -> Box:
    """The upper left corner of a box: 60 % of each side where the grid allows, IoU 0.36."""
    width, height = (box.xmax - box.xmin) * 3 // 5, (box.ymax - box.ymin) * 3 // 5
    return Box(box.xmin, box.ymin, box.xmin + max(width, 1), box.ymin + max(height, 1))
