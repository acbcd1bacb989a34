"""Log of stage 3: numbers of each rollout, their means, and a table of samples with their clips.

Numbers go to ``metrics.jsonl``, samples to ``samples.jsonl`` and ``samples/*.gif``, both to the trackers of a run.
Everything a model wrote is escaped before it is shown.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.engine.run_log import METRICS, RunWriter
from reward_model.engine.video_summary import encode_gif
from reward_model.evidence.answer import Evidence
from reward_model.rewards import (
    ANNOTATED,
    NEEDS,
    Need,
    RewardConfig,
    RewardParts,
    mean_saliency,
    spatial_reward,
    temporal_reward,
    turn_type_ious,
)
from reward_model.schema import Anomaly, VideoAnnotation
from reward_model.training.grpo.batches import ScoredRollouts
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.maths import zero_variance
from reward_model.training.grpo.rollouts import INVALID, RolloutRecord, TurnDraw

SAMPLES = "samples.jsonl"
TERMS = ("format", "status", "type", "temporal", "spatial")
#: What overlaps are measured by, where that is not the window alone.
_BY_WINDOWS: frozenset[Need] = frozenset({"gt_windows"})
_MEASURED_BY: Mapping[str, frozenset[Need]] = {
    "overlap/type_scan": frozenset({"gt_types"}),
    "overlap/type_zoom": frozenset({"gt_types"}),
    "overlap/spatial": frozenset({"gt_windows", "gt_boxes"}),
}
PREDICTED, TRUE = (230, 60, 50), (60, 190, 90)
#: Frames per second clips play at: half the rate they are sampled at, slow enough to follow.
SHOWN_FPS = 4


def rollout_numbers(
    record: RolloutRecord,
    truth: VideoAnnotation,
    parts: RewardParts | None,
    config: RewardConfig,
    given: frozenset[Need] = ANNOTATED,
) -> dict[str, float]:
    """The monitors of one rollout. A key is absent where it means nothing, so means are over those that have it; what
    the truth does not tell (``given``) is not measured.
    """
    if record.scan is None or parts is None:
        return {"rollouts/unscored": 1.0}
    kind = truth.status
    numbers = {"rollouts/unscored": 0.0, "reward/mean": parts.total, f"reward/{kind}": parts.total}
    numbers |= _terms(parts, truth, config, given)
    numbers |= _turns(record, kind)
    if kind == "abnormal":
        numbers |= {k: v for k, v in _overlaps(record, truth).items() if _MEASURED_BY.get(k, _BY_WINDOWS) <= given}
    return numbers


def step_rollout_numbers(experience: ScoredRollouts, config: RewardConfig) -> list[dict[str, float]]:
    """:func:`rollout_numbers` of each rollout of a step, and whether each group's rewards are all equal."""
    rows = [
        rollout_numbers(r, s.truth, mark.parts, config, s.given) | _refereed(mark.evidence)
        for group, s, marks in zip(experience.groups, experience.samples, experience.marks, strict=True)
        for r, mark in zip(group, marks, strict=True)
    ]
    return rows + [{"rollouts/zero_variance": float(flat)} for flat in zero_variance(experience.rewards)]


def _refereed(evidence: Evidence | None) -> dict[str, float]:
    """A referee's view of a rollout's evidence: its claims, means of the two grades, and how it failed."""
    if evidence is None:
        return {}
    opinions = evidence.opinions
    numbers = {"referee/claims": float(evidence.claims.raw), "referee/loose": evidence.loose}
    numbers["referee/unanswered"] = float(any(o.error for o in opinions))
    if opinions and evidence.score is not None:
        numbers["referee/garbled"] = sum(o.garbled for o in opinions) / len(opinions)
        numbers["referee/relevance"] = sum(o.relevance for o in opinions) / len(opinions)
        numbers["referee/localisation"] = sum(o.localisation for o in opinions) / len(opinions)
    return numbers


def _terms(
    parts: RewardParts, truth: VideoAnnotation, config: RewardConfig, given: frozenset[Need]
) -> dict[str, float]:
    """Each term of Equation 6, raw and as it enters the sum; overlap terms for anomalous videos only."""
    w, gbar = config.weights, mean_saliency(truth)
    known = [name for name in TERMS if NEEDS[name] <= given]
    raw = {name: getattr(parts, name) for name in known if truth.status == "abnormal" or name in TERMS[:2]}
    weighted = {"format": w.format * parts.format, "status": w.status * gbar * parts.status}
    weighted |= {name: getattr(w, name) * (1 - gbar * (1 - raw[name])) for name in TERMS[2:] if name in raw}
    if w.ser and truth.status == "abnormal":
        raw["ser"], weighted["ser"] = parts.ser, w.ser * parts.ser
    return {f"raw/{k}": v for k, v in raw.items()} | {f"weighted/{k}": v for k, v in weighted.items()}


def _turns(record: RolloutRecord, kind: str) -> dict[str, float]:
    scan = record.scan
    assert scan is not None
    zoomed = bool(record.zooms)
    invalid = [d.invalid for d in (scan, *record.zooms)]
    said = _said([scan]) if not zoomed else _said(record.zooms)
    numbers = {f"invalid/{name}": float(name in invalid) for name in INVALID}
    numbers |= {
        "rollouts/turn_two": float(zoomed),
        "rollouts/status_right": float(said == kind),
        f"rollouts/status_right_{kind}": float(said == kind),
        f"rollouts/scan_right_{kind}": float(_said([scan]) == kind),
        "length/turn_one": float(len(scan.ids)),
    }
    if zoomed:
        numbers["length/turn_two"] = float(sum(len(z.ids) for z in record.zooms))
    if kind == "normal" and _said([scan]) == "abnormal":
        numbers["rollouts/rescued"] = float(zoomed and said == "normal")
    if scan.report is not None and scan.report.anomalies:
        numbers["window/one_frame"] = float(len({k for a in scan.report.anomalies for k in a.frames.frames()}) == 1)
    return numbers


def _said(draws: Sequence[TurnDraw]) -> str | None:
    """The status these answers give together; None if any is invalid."""
    reports = [d.report for d in draws]
    if any(r is None for r in reports):
        return None
    return "abnormal" if any(r.status == "abnormal" for r in reports if r) else "normal"


def _overlaps(record: RolloutRecord, truth: VideoAnnotation) -> dict[str, float]:
    """J1, J2, tau and sigma before the gate, as the paper reads them; and the frames that each turn names against the
    true ones it was shown, where a policy would shrink its answer to the easiest: turn one's window, and turn two on
    its clip.
    """
    assert record.scan is not None
    outcome = record.outcome()
    first, second = turn_type_ious(outcome, truth)
    numbers = {"overlap/type_scan": first, "overlap/temporal": temporal_reward(outcome, truth)}
    if record.zooms:
        numbers |= {"overlap/type_zoom": second, "overlap/spatial": spatial_reward(outcome, truth)}
    shown = {
        "window/pred_to_true": (outcome.scan, outcome.scan_indices),
        "window/named_to_true": (outcome.zoom, outcome.clip_indices),
    }
    for key, (report, indices) in shown.items():
        if report is None or not report.anomalies:
            continue
        if true := {k for a in truth.on_grid(indices) for k in a.frames.frames()}:
            numbers[key] = len({k for a in report.anomalies for k in a.frames.frames()}) / len(true)
    return numbers


def mean_numbers(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each key over the rows that have it; rewards also with their sample std."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    found = {key: math.fsum(v) / len(v) for key, v in sorted(values.items())}
    for key in [k for k in found if k.startswith("reward/")]:
        found[key.replace("reward/", "reward_std/")] = (
            float(np.std(values[key], ddof=1)) if len(values[key]) > 1 else 0.0
        )
    return found


class StepLog(RunWriter):
    """Writes the log of a run; in processes other than the main one it writes nothing."""

    def __init__(
        self, folder: Path, *, active: bool = True, first_step: int = 0, config: GrpoConfig | None = None
    ) -> None:
        config = config or GrpoConfig()
        super().__init__(
            folder,
            active=active,
            first_step=first_step,
            lines=(METRICS, SAMPLES),
            report_to=config.report_to,
            settings=config.to_dict(),
            digits=6,
        )

    def samples(self, step: int, experience: ScoredRollouts, wanted: int) -> None:
        """A table of ``wanted`` rollouts, spread evenly, and their clips with boxes: predicted red, true green."""
        if self.trackers is None:
            return
        truths = [s.truth for s, group in zip(experience.samples, experience.groups, strict=True) for _ in group]
        values = experience.rewards.flatten().tolist(), experience.advantages.flatten().tolist()
        flat = list(zip(experience.records, truths, *values, strict=True))
        places = np.linspace(0, len(flat) - 1, min(wanted, len(flat))).round().astype(int)
        rows = []
        for number, (record, truth, reward, advantage) in enumerate(flat[k] for k in places):
            if record.scan is None:
                continue
            row = {
                "step": step,
                "video": truth.video_id,
                "truth": truth.status,
                "reward": reward,
                "advantage": advantage,
                "turn_one": record.scan.text,
                "turn_two": "\n".join(z.text for z in record.zooms),
                "invalid": [d.reason for d in (record.scan, *record.zooms) if d.invalid],
            }
            rows.append(row)
            self.append(SAMPLES, row)
            if pictures := clip_pictures(record, truth):
                self._clip(f"step-{step:05d}-{number}.gif", f"clips/{number}", pictures, step)
        columns, cells = _cells(rows)
        self.trackers.table(step, "samples", columns, cells, _table(rows))

    def _clip(self, name: str, tag: str, pictures: Sequence[np.ndarray], step: int) -> None:
        path = self.folder / "samples" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_gif(pictures, SHOWN_FPS))
        if self.trackers is not None:
            self.trackers.video(step, tag, path, pictures, fps=SHOWN_FPS)


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns of a table of samples, and its cells."""
    columns = [name for name in rows[0] if name != "step"] if rows else []
    return columns, [[_cell(row[name]) for name in columns] for row in rows]


def clip_pictures(record: RolloutRecord, truth: VideoAnnotation, height: int = 144) -> list[np.ndarray]:
    """The frames of the first clip, (height, W, 3) uint8 each, with predicted and true boxes; none without a clip."""
    from PIL import Image, ImageDraw

    if not record.rows or not record.zooms:
        return []
    zoom = record.zooms[0]
    chat = len(record.rows[0].pictures) > 1  # the clip follows in turn one's row
    frames = record.rows[0 if chat else 1].pictures[-1].frames
    placed = truth.on_grid(zoom.indices)
    named = zoom.report.anomalies if zoom.report else ()
    pictures = []
    for k, frame in enumerate(frames):
        width = max(1, round(height * frame.shape[1] / frame.shape[0]))
        picture = Image.fromarray(np.asarray(frame)).resize((width, height), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(picture)
        for anomalies, colour in ((placed, TRUE), (named, PREDICTED)):
            for box in _boxes_at(anomalies, k):
                draw.rectangle(box.to_pixels(width - 1, height - 1), outline=colour, width=2)
        pictures.append(np.asarray(picture))
    return pictures


def _boxes_at(anomalies: Sequence[Anomaly], frame: int) -> list[Any]:
    return [box for a in anomalies for box in a.boxes.get(frame, ())]


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, list) else value


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; cells hold escaped text on one line."""
    lines = ["| truth | reward | advantage | turn one | turn two | invalid |", "|---|---|---|---|---|---|"]
    for row in rows:
        texts = [row["turn_one"], row["turn_two"], "; ".join(row["invalid"])]
        cells = [html.escape(t).replace("|", "&#124;").replace("\n", "<br>").replace("`", "&#96;") for t in texts]
        lines.append(f"| {row['truth']} | {row['reward']:.3f} | {row['advantage']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)
