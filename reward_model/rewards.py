"""Rewards of a judge's two turns in training: Equations 2 to 6, as pure functions of parsed reports (section 3.3).

An invalid turn (unparsable, outside the schema, cut by the token limit) is ``None`` and nothing is read from it, but
its status where that is asked for. The paper leaves open what a missing turn two is worth; the readings chosen here
are the rows of the table in ``tests/reward_model/test_rewards.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from reward_model.grounding import join_boxes, mean_box_iou, temporal_iou, tube_overlap, type_iou
from reward_model.schema import Anomaly, Status, TurnReport, VideoAnnotation
from reward_model.terminal.described import check_settings, setting

SALIENCY = {True: 1.0, None: 1.0, False: 0.5}

#: What a term may have to be told beside the answer: facts of the truth, or a referee's opinion.
Need = Literal["gt_status", "gt_types", "gt_windows", "gt_boxes", "referee"]
#: The needs of a whole annotation.
ANNOTATED: frozenset[Need] = frozenset({"gt_status", "gt_types", "gt_windows", "gt_boxes"})
#: The needs of each term, by the name of its weight.
NEEDS: Mapping[str, frozenset[Need]] = {
    "format": frozenset(),
    "status": frozenset({"gt_status"}),
    "type": frozenset({"gt_types"}),
    "temporal": frozenset({"gt_windows"}),
    "spatial": frozenset({"gt_windows", "gt_boxes"}),
    "ser": frozenset({"referee"}),
}
#: Needs as a message names them.
_NEEDED = {
    "gt_status": "a status of each video",
    "gt_types": "types of the anomalies",
    "gt_windows": "windows of the anomalies",
    "gt_boxes": "true boxes",
    "referee": "a referee",
}


@dataclass(frozen=True)
class RewardWeights:
    """Weights of Equation 6, in the paper's order w1 to w5; then those of terms that the paper does not have.

    ``ser``: evidence scored by a referee (:mod:`reward_model.evidence`), in place of true boxes.
    """

    format: float = 1.0
    status: float = 2.0
    type: float = 2.0
    temporal: float = 2.0
    spatial: float = 5.0
    ser: float = 0.0


@dataclass(frozen=True)
class RewardConfig:
    """Weights and the readings of what the paper leaves open.

    ``gate``: overlaps count only where both statuses are right (``"both"``, the paper's sentence), or turn by turn.
    ``gate_outside``: a failed gate takes the whole anomalous term, not the overlaps inside the saliency discount.
    ``rescued_normal``: status reward of a normal video that turn one suspected and turn two cleared, -1 to 0.
    ``spatial_norm``: the true boxes that Equation 5 averages over. ``"pred"`` (the paper): those on the frames of the
    clip that lie in turn one's window, the F_pred of Equation 4. ``"named"``: those on the frames that turn two itself
    names, which pays for leaving hard frames out of its answer. ``"gt"``: all true boxes, missed ones counting 0; the
    only reading under which no narrower window pays.
    ``localisation``: Equations 4 and 5 of turn one's window and turn two's boxes (``"paper"``), or t_IoU and mv_IoU of
    turn two's tube in their places (``"tv_verifier"``, after arXiv 2606.29023), with the weights of those terms.
    ``mv_norm``: the frames mv_IoU averages over: of both tubes (``"inter"``, which pays for naming few frames), of
    either (``"union"``), or of the truth (``"gt"``).
    ``clip_restricted``: turn two's types are compared with those of the anomalies that its clip shows, not with those
    of the whole video, as Equation 3 is printed.
    ``num_turns``: 1 is the control without turn two, where the scan is the whole answer and no box is ever drawn.
    ``ser_gate``: evidence for a wrong answer is not paid (``"answer"``: both statuses must be right), or it is
    (``"none"``).
    """

    weights: RewardWeights = field(default_factory=RewardWeights)
    gate: Literal["both", "turnwise"] = "both"
    gate_outside: bool = False
    rescued_normal: float = setting(0.0, least=-1, most=0)
    spatial_norm: Literal["pred", "named", "gt"] = "pred"
    localisation: Literal["paper", "tv_verifier"] = "paper"
    mv_norm: Literal["inter", "union", "gt"] = "union"
    num_turns: Literal[1, 2] = 2
    clip_restricted: bool = False
    ser_gate: Literal["answer", "none"] = "answer"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.num_turns == 1 and self.weights.ser:
            raise ValueError(
                f"weight_ser={self.weights.ser:g} pays for boxes, which a judge of one turn never draws; set it to 0, "
                "or num_turns to 2"
            )

    @property
    def needs(self) -> dict[str, frozenset[Need]]:
        """The needs of each term that counts, by the name of its weight."""
        counted = [f.name for f in fields(self.weights) if getattr(self.weights, f.name)]
        found = {name: NEEDS[name] for name in counted if self.num_turns == 2 or name != "spatial"}
        if self.clip_restricted and "type" in found:
            found["type"] |= {"gt_windows"}
        return found


@dataclass(frozen=True)
class Rollout:
    """Two turns about one video.

    ``scan`` and ``zoom`` are the parsed reports, None if the turn was invalid. ``zoomed`` says whether turn two took
    place. ``scan_indices`` and ``clip_indices`` are the native frames each turn was shown; ``unseen_indices`` are the
    frames of turn two's grid that lie outside the clip, needed by ``spatial_norm="gt"`` and ``"tv_verifier"``.
    ``legible`` holds the statuses that count although their turn is invalid (``lenient_invalid``); None if none does.
    """

    scan: TurnReport | None
    zoom: TurnReport | None
    zoomed: bool
    scan_indices: Sequence[int]
    clip_indices: Sequence[int] = ()
    unseen_indices: Sequence[int] = ()
    legible: tuple[Status | None, Status | None] = (None, None)

    @property
    def statuses(self) -> tuple[Status | None, Status | None]:
        """Status of each turn; None if there was none, or nothing legible."""
        scan, zoom = (r.status if r is not None else None for r in (self.scan, self.zoom))
        return scan or self.legible[0], zoom or self.legible[1]

    @property
    def vacuous(self) -> bool:
        """True if turn two was not due, because turn one said "normal"."""
        return not self.zoomed and self.statuses[0] == "normal"

    @property
    def valid(self) -> tuple[bool, bool]:
        """Valid_1 and Valid_2 of Equation 2: a missing turn two is valid only after a valid "normal"."""
        return self.scan is not None, self.zoom is not None or self.vacuous

    def predicted_frames(self) -> set[int]:
        """F_pred of Equations 4 and 5 on the grid of turn two: the frames of the clip that lie in a range turn one
        named, not those that were added around it. A range between two frames of the clip is its nearest frame.
        """
        if self.scan is None or not self.clip_indices:
            return set()
        found: set[int] = set()
        for anomaly in self.scan.anomalies:
            first, last = self.scan_indices[anomaly.frames.start], self.scan_indices[anomaly.frames.end]
            inside = {k for k, n in enumerate(self.clip_indices) if first <= n <= last}
            middle = (first + last) / 2
            found |= inside or {min(range(len(self.clip_indices)), key=lambda k: abs(self.clip_indices[k] - middle))}
        return found


@dataclass(frozen=True)
class RewardParts:
    """The five terms before weights and discount, and the total of Equation 6; then the terms beside the paper's, 0
    where they do not count.
    """

    format: float
    status: float
    type: float
    temporal: float
    spatial: float
    total: float
    ser: float = 0.0


def check_reward_needs(config: RewardConfig, given: Collection[Need], source: str = "the data") -> None:
    """Every term that counts is told what it needs.

    Args:
        config: the reward.
        given: what is there.
        source: where it comes from, for the message.

    Raises:
        ValueError: if something is missing; the message names the weights and the remedy in one line.
    """
    lacking = {name: [n for n in _NEEDED if n in needs and n not in given] for name, needs in config.needs.items()}
    lacking = {name: needs for name, needs in lacking.items() if needs}
    if not lacking:
        return
    asks = (
        f"weight_{name}={getattr(config.weights, name):g} needs {' and '.join(_NEEDED[n] for n in needs)}"
        for name, needs in lacking.items()
    )
    remedy = " and ".join(f"weight_{name}" for name in lacking)
    referee = " or name a referee" if "ser" in lacking else ""
    raise ValueError(f"{'; '.join(asks)}: {source} has none. Set {remedy} to 0{referee}")


def format_reward(rollout: Rollout) -> float:
    """Equation 2: half a point lost for each invalid turn; 0, -1/2 or -1."""
    return -0.5 * sum(not v for v in rollout.valid)


def status_reward(rollout: Rollout, truth: VideoAnnotation, *, rescued_normal: float = 0.0) -> float:
    """0 where the statuses are right, down to -1 (section 3.3): an anomalous video needs both turns, a normal one may
    pass on turn one.
    """
    statuses = _statuses(rollout)
    if truth.status == "abnormal":
        return 0.0 if statuses == ("abnormal", "abnormal") else -1.0
    if None in statuses:
        return -1.0
    if statuses == ("abnormal", "normal"):
        return rescued_normal
    return 0.0 if statuses[0] == "normal" else -1.0


def turn_type_ious(rollout: Rollout, truth: VideoAnnotation, *, clip_restricted: bool = False) -> tuple[float, float]:
    """Overlap of the type sets of each turn; 0 for a turn that is missing or invalid. Their mean is Equation 3.

    ``clip_restricted`` compares turn two with the types of the anomalies that the clip shows.
    """
    shown = truth.types
    if clip_restricted and rollout.clip_indices:
        shown = tuple({a.type for a in truth.on_grid(rollout.clip_indices)})
    reports = ((rollout.scan, truth.types), (rollout.zoom if rollout.zoomed else None, shown))
    first, second = (type_iou(r.types, true) if r is not None and r.anomalies else 0.0 for r, true in reports)
    return first, second


def temporal_reward(rollout: Rollout, truth: VideoAnnotation) -> float:
    """Equation 4: union of the ranges turn one reported against all true frames, on the grid turn one was shown."""
    if rollout.scan is None:
        return 0.0
    return temporal_iou(_frames(rollout.scan.anomalies), _frames(truth.on_grid(rollout.scan_indices)))


def spatial_reward(rollout: Rollout, truth: VideoAnnotation, *, norm: str = "pred") -> float:
    """Equation 5: mean overlap of the true boxes on the matched frames, F_pred and F_gt, of the clip; 0 if there is
    none.

    F_pred is what it is in Equation 4, the window of turn one: a true box that turn two leaves out counts 0 there.
    ``norm="named"`` takes the frames that turn two names in its place. ``norm="gt"`` divides by the true boxes of the
    whole anomaly, on the clip and on the frames turn two was not shown: naming fewer frames then never pays.
    """
    if rollout.zoom is None or not rollout.clip_indices:
        return 0.0
    placed = truth.on_grid(rollout.clip_indices)
    drawn, true = join_boxes(rollout.zoom.anomalies), join_boxes(placed)
    if norm == "pred":
        return mean_box_iou(drawn, true, rollout.predicted_frames() & _frames(placed))
    common = _frames(rollout.zoom.anomalies) & _frames(placed)
    if norm == "named":
        return mean_box_iou(drawn, true, common)
    everywhere = sorted({*rollout.clip_indices, *rollout.unseen_indices})
    shown = set(rollout.clip_indices)
    missed = sum(len(v) for k, v in join_boxes(truth.on_grid(everywhere)).items() if everywhere[k] not in shown)
    total = sum(len(v) for v in true.values()) + missed
    found = sum(len(true[k]) for k in true.keys() & common)
    # The mean over the boxes looked at, times their share of all true boxes: those that were not shown count 0.
    return mean_box_iou(drawn, true, common) * found / total if total else 0.0


def tube_reward(rollout: Rollout, truth: VideoAnnotation, *, norm: str = "union") -> tuple[float, float]:
    """t_IoU and mv_IoU of turn two's tube on its grid, which goes on over the rest of the video; 0 without turn two.

    True frames and boxes that the clip did not show count as missed, so that a narrower window never pays.
    """
    if rollout.zoom is None or not rollout.clip_indices:
        return 0.0, 0.0
    grid = sorted({*rollout.clip_indices, *rollout.unseen_indices})
    place = {n: k for k, n in enumerate(grid)}
    on_grid = [place[n] for n in rollout.clip_indices]
    drawn = {on_grid[k]: boxes for k, boxes in join_boxes(rollout.zoom.anomalies).items()}
    named, placed = {on_grid[k] for k in _frames(rollout.zoom.anomalies)}, truth.on_grid(grid)
    found = tube_overlap(drawn, join_boxes(placed), pred_frames=named, true_frames=_frames(placed))
    return found.t_iou, found.mv_iou(norm)


def _localisation(rollout: Rollout, truth: VideoAnnotation, config: RewardConfig) -> tuple[float, float]:
    """The temporal and the spatial term. A judge of one turn has no tube: Equation 4 stands."""
    if config.localisation == "tv_verifier" and config.num_turns == 2:
        return tube_reward(rollout, truth, norm=config.mv_norm)
    return temporal_reward(rollout, truth), spatial_reward(rollout, truth, norm=config.spatial_norm)


def mean_saliency(truth: VideoAnnotation) -> float:
    """gbar: mean over the true anomalies of 1 (salient, or unknown) and 1/2 (not salient); 1 for a normal video."""
    values = [SALIENCY[a.salient] for a in truth.anomalies]
    return sum(values) / len(values) if values else 1.0


def total_reward(
    rollout: Rollout, truth: VideoAnnotation, config: RewardConfig | None = None, *, ser: float | None = None
) -> RewardParts:
    """Equation 6: ``w1 R_fmt + w2 gbar R_stat + m (w3 R~_type + w4 R~_temp + w5 R~_spa)``, ``R~ = 1 - gbar (1 - R)``;
    with ``weights.ser`` also ``m w_ser g R_SER``, g of ``ser_gate``.

    Ranges with the paper's weights: [-3, 9] for a salient anomaly, [-3, 0] for a normal video.

    Args:
        ser: R_SER of the answer (:func:`reward_model.evidence.score.evidence_score`); of no account without its weight,
            and for a normal video.

    Raises:
        ValueError: if ``weights.ser`` counts and there is none.
    """
    config = config or RewardConfig()
    w, gbar = config.weights, mean_saliency(truth)
    if config.num_turns == 1:
        rollout = _one_turn(rollout)
    form = format_reward(rollout)  # the one term that saliency does not discount: it does not depend on what is seen
    status = status_reward(rollout, truth, rescued_normal=config.rescued_normal)
    total = w.format * form + w.status * gbar * status
    if truth.status == "normal":  # nothing to name, time or place
        return RewardParts(form, status, 0.0, 0.0, 0.0, total)
    scan_passes, zoom_passes = _gates(rollout, config.gate)
    types = turn_type_ious(rollout, truth, clip_restricted=config.clip_restricted)
    kind = (types[0] * scan_passes + types[1] * zoom_passes) / 2  # Equation 3
    when, where = _localisation(rollout, truth, config)
    when, where = when * scan_passes, where * zoom_passes
    if not config.gate_outside or scan_passes or zoom_passes:
        # R~: the discount lies on what is missed, 1 - R. A full score stays full, and missing what hardly shows costs
        # half as much.
        total += sum(k * (1 - gbar * (1 - r)) for k, r in ((w.type, kind), (w.temporal, when), (w.spatial, where)))
    shown = _paid_evidence(rollout, config, ser)
    return RewardParts(form, status, kind, when, where, total + w.ser * shown, shown)


def _paid_evidence(rollout: Rollout, config: RewardConfig, ser: float | None) -> float:
    """``g R_SER``; 0 where it does not count."""
    if not config.weights.ser:
        return 0.0
    if ser is None:
        raise ValueError(
            f"weight_ser={config.weights.ser:g} needs a referee's score of the evidence, and there is none"
        )
    return ser if config.ser_gate == "none" or all(_gates(rollout, "both")) else 0.0


def _one_turn(rollout: Rollout) -> Rollout:
    """Treats the scan as both turns, so Equations 2 and 3 count it in full; there are no boxes to score."""
    scan, legible = rollout.scan, rollout.legible[0]
    return Rollout(scan, scan, True, rollout.scan_indices, legible=(legible, legible))


def _statuses(rollout: Rollout) -> tuple[Status | None, Status | None]:
    """Status of each turn; None if it is invalid. A turn two that was not due repeats turn one's "normal"."""
    first, second = rollout.statuses
    return first, second or ("normal" if rollout.vacuous else None)


def _gates(rollout: Rollout, gate: str) -> tuple[bool, bool]:
    passes = tuple(status == "abnormal" for status in _statuses(rollout))
    return (all(passes), all(passes)) if gate == "both" else (passes[0], passes[1])


def _frames(anomalies: Sequence[Anomaly]) -> set[int]:
    return {k for a in anomalies for k in a.frames.frames()}
