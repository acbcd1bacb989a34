"""Tables about referees: how valid their grades are, and what judges' evidence is worth under each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reward_model.chunks import boxed_turns
from reward_model.evaluation.metrics.validity import Validity, validity
from reward_model.evidence.answer import AnswerEvidence, Evidence
from reward_model.evidence.practice import WAYS, Practice
from reward_model.evidence.referee import Opinion
from reward_model.evidence.score import RELEVANT
from reward_model.schema import FrameRange, Verdict, VideoAnnotation
from reward_model.statistics.intervals import mean_interval
from reward_model.statistics.table import Cell, Estimate, Table
from reward_model.turns import merge_clips

#: What a referee should reach to stand in for true boxes; choices of this project.
WANTED = {"relevance accuracy": 0.85, "Spearman": 0.6, "ECE": 0.1}


def validity_table(
    practice: Sequence[Practice], opinions: Mapping[str, Sequence[Opinion]], kinds: Sequence[str], title: str
) -> Table:
    """A row for each referee, and below it one for each kind of anomaly and each way of being wrong.

    Args:
        practice: claims with exact grades.
        opinions: referee -> its opinions of them.
        kinds: the kind of anomaly each claim is about.
    """
    groups = [_rows(name, practice, found, kinds) for name, found in opinions.items()]
    columns = ["referee", "claims", "relevance accuracy", "Spearman of localisation", "ECE of relevance", "garbled"]
    wanted = ", ".join(f"{name} {value}" for name, value in WANTED.items())
    notes = (
        "95 % intervals: Wilson's of shares, bootstrap elsewhere. Localisation is compared with the IoU of the boxes "
        f"of relevant claims. Wanted: {wanted} (at most).",
    )
    return Table(title, tuple(columns), tuple(groups), notes)


def _rows(
    name: str, practice: Sequence[Practice], opinions: Sequence[Opinion], kinds: Sequence[str]
) -> list[list[Cell]]:
    rows = [_row(name, validity(practice, opinions))]
    for label, keys in (("", list(kinds)), ("claims: ", [p.way for p in practice])):
        order = WAYS if label else sorted(set(keys))
        for key in order:
            chosen = [k for k, value in enumerate(keys) if value == key and not opinions[k].error]
            if chosen:
                part = validity([practice[k] for k in chosen], [opinions[k] for k in chosen], num_resamples=200)
                rows.append(_row(f"  {label}{key}", part))
    return rows


def _row(name: str, found: Validity) -> list[Cell]:
    figures = (found.relevance_accuracy, found.localisation_rank, found.calibration)
    return [name, found.num, *figures, found.garbled]


def answer_of_verdict(
    verdict: Verdict, truth: VideoAnnotation, frames: Callable[[Sequence[int]], np.ndarray]
) -> AnswerEvidence:
    """A judge's verdict about a short video as an answer whose evidence is to be scored.

    Args:
        frames: native frames of the video -> (N, H, W, 3) uint8.
    """
    scans = [t for t in verdict.turns if t.number == 1]
    zooms = [(t.report, t.frame_indices) for t in boxed_turns(verdict)]
    report, indices = merge_clips(zooms)
    scan = scans[0] if scans else None
    hull = scan.report.window if scan is not None and scan.report is not None else None
    window = FrameRange(scan.frame_indices[hull.start], scan.frame_indices[hull.end]) if scan and hull else None
    return AnswerEvidence(truth, report, indices, window, frames)


def swap_table(evidence: Mapping[tuple[str, str], Sequence[Evidence]], title: str) -> Table:
    """The worth of each judge's evidence under each referee: trained under one, scored under others.

    Args:
        evidence: (judge, referee) -> the evidence of its answers about the same videos.
    """
    judges, referees = (list(dict.fromkeys(pair[k] for pair in evidence)) for k in (0, 1))
    rows: list[list[Cell]] = []
    for judge in judges:
        found = [evidence[judge, referee] for referee in referees]
        rows.append([judge, len(found[0]), *(_mean_score(e) for e in found), *(_relevant(e) for e in found[:1])])
    columns = ["judge", "videos", *(f"SER under {r}" for r in referees), f"claims relevant to {referees[0]}"]
    notes = (
        "Mean R_SER over abnormal videos with 95 % bootstrap intervals; an answer without evidence counts 0. A judge "
        "that has learned to please its own referee falls under the others.",
    )
    return Table(title, tuple(columns), (rows,), notes)


def _mean_score(evidence: Sequence[Evidence]) -> Estimate:
    scores = np.array([e.score for e in evidence if e.score is not None])
    if not len(scores):
        return Estimate(None)
    return Estimate(float(scores.mean()), mean_interval(scores))


def _relevant(evidence: Sequence[Evidence]) -> float | None:
    marks = [o.relevance >= RELEVANT for e in evidence for o in e.opinions if not o.error]
    return float(np.mean(marks)) if marks else None
