"""The vocabulary of judges: reports, turns, scores and verdicts, about the anomalies of
:mod:`reward_model.anomalies`, whose names stand here as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from reward_model.anomalies import (
    BOX_SCALE,
    MAX_FRAMES,
    Anomaly,
    AnomalyType,
    Box,
    FrameRange,
    Status,
    VideoAnnotation,
    sort_types,
)

if TYPE_CHECKING:
    from reward_model.domain import Familiarity

#: The least probability that the two verdict words must hold together for their ratio to be a reward. A word picked
#: blindly from the 151,936 tokens of Qwen's vocabulary has 7e-6; trained judges give them 0.99 and more.
MIN_P_BOTH = 1e-6

__all__ = [
    "BOX_SCALE",
    "MAX_FRAMES",
    "MIN_P_BOTH",
    "Anomaly",
    "AnomalyType",
    "Box",
    "FrameRange",
    "Status",
    "Turn",
    "TurnReport",
    "Verdict",
    "VerdictScore",
    "VideoAnnotation",
    "at_true_rate",
    "decided",
    "sort_types",
    "sound",
]


@dataclass(frozen=True)
class TurnReport:
    """One parsed answer of the judge (section 3.3 schema): indices are frames of that turn's clip, counted from
    zero.
    """

    status: Status
    cot: str = ""
    anomalies: tuple[Anomaly, ...] = ()

    def __post_init__(self) -> None:
        if (self.status == "normal") != (not self.anomalies):
            raise ValueError(
                f"status {self.status!r} contradicts {len(self.anomalies)} anomalies: "
                "normal means none, abnormal at least one"
            )

    @property
    def types(self) -> tuple[AnomalyType, ...]:
        return sort_types(a.type for a in self.anomalies)

    @property
    def window(self) -> FrameRange | None:
        """The hull of all predicted frame ranges, or None for a normal report."""
        if not self.anomalies:
            return None
        return FrameRange(min(a.frames.start for a in self.anomalies), max(a.frames.end for a in self.anomalies))

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "cot": self.cot, "anomalies": [a.to_dict() for a in self.anomalies]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TurnReport:
        return cls(data["status"], data["cot"], tuple(Anomaly.from_dict(a) for a in data["anomalies"]))


@dataclass(frozen=True)
class VerdictScore:
    """Log-probabilities (natural log) of the two whole words after the same prefix, and whether the prefix had to be
    forced.

    ``bounded``: at least one of the two is an upper bound, because a server lists only its likeliest tokens.
    ``error``: why there are no probabilities for this one (both are NaN then).
    """

    log_p_normal: float
    log_p_abnormal: float
    forced: bool = False
    bounded: bool = False
    error: str | None = None

    @property
    def fault(self) -> str | None:
        """Reason why nothing may be read from this score; None for a sound one."""
        if self.error is not None:
            return self.error
        if not (math.isfinite(self.log_p_normal) and math.isfinite(self.log_p_abnormal)):
            return (
                f"the model gave log-probabilities of {self.log_p_normal} (normal) and {self.log_p_abnormal} "
                "(abnormal): its weights are damaged, or its precision overflows (use dtype='bfloat16' or 'float32')"
            )
        if self.p_both < MIN_P_BOTH:
            return (
                f"'normal' and 'abnormal' have a probability of {self.p_both:.1g} together, less than {MIN_P_BOTH:g}: "
                "the model would write another word there, and the ratio of two tails is not a verdict. Was it "
                "trained with these prompts, and for this readout?"
            )
        return None

    @property
    def p_both(self) -> float:
        """``P_norm + P_abn``: how much of the probability the two words hold together; not above 1."""
        return min(1.0, math.exp(min(self.log_p_normal, 0.0)) + math.exp(min(self.log_p_abnormal, 0.0)))

    @property
    def log_odds(self) -> float:
        """``log P(normal) - log P(abnormal)``: graded where the probability itself is saturated."""
        return self.log_p_normal - self.log_p_abnormal

    @property
    def p_normal(self) -> float:
        """Equation 7: ``P_norm / (P_norm + P_abn)``, computed without overflow."""
        # Divided by P_norm the ratio is 1 / (1 + e^-odds), by P_abn e^odds / (e^odds + 1): the same number. The one is
        # taken whose exponent is not positive, so that no power overflows; P_norm and P_abn themselves may be 0.
        odds = self.log_odds
        return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> VerdictScore | None:
        return None if data is None else cls(**data)


#: Fields of a turn that are left out of its JSON where there is nothing to say.
_SELDOM = ("familiarity", "unlike_training", "operator", "early")


@dataclass(frozen=True)
class Turn:
    """One exchange with the judge, as it happened.

    ``status`` is the report's, or the likelier word if the answer did not parse (``parse_error``). ``error``: why the
    turn has no status. ``frame_indices`` are the native frames shown; ``score`` is read after the reasoning,
    ``direct_score`` before it. Of a scan: ``familiarity`` of what it showed, None where the backend cannot tell, and
    ``unlike_training``, reasons why the video is not what the checkpoint says it was trained on. Of a judge that asks
    for its frames: ``operator``, what brought these, with the reason where it was refused; empty for the first view.
    Of a cascade: ``early``, true where its status was read before any reasoning, beyond the calibrated bounds.
    """

    number: int
    frame_indices: tuple[int, ...]
    fps: float
    text: str
    status: Status | None = None
    report: TurnReport | None = None
    parse_error: str | None = None
    error: str | None = None
    score: VerdictScore | None = None
    direct_score: VerdictScore | None = None
    num_tokens: int = 0
    seconds: float = 0.0
    familiarity: Familiarity | None = None
    unlike_training: tuple[str, ...] = ()
    operator: str = ""
    early: bool = False

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SELDOM or getattr(self, f.name)}
        nested = {k: v.to_dict() for k, v in plain.items() if hasattr(v, "to_dict")}
        lists = {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        return {**plain, **nested, **lists}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Turn:
        return cls(
            **{
                **data,
                "frame_indices": tuple(data["frame_indices"]),
                "report": TurnReport.from_dict(data["report"]) if data["report"] else None,
                "score": VerdictScore.from_dict(data["score"]),
                "direct_score": VerdictScore.from_dict(data["direct_score"]),
                "familiarity": _familiarity(data),
                "unlike_training": tuple(data.get("unlike_training", ())),
            }
        )


# --- answered turns, made fit to decide ------------------------------------------------------------------------------


def at_true_rate(turn: Turn, fps: float) -> Turn:
    """The turn of a video of ``fps`` frames per second, with the rate its frames really have: that of the video where
    it is slower than what was asked for, and less where they were thinned.
    """
    turn = replace(turn, fps=min(turn.fps, fps))
    index, steps = turn.frame_indices, len(turn.frame_indices) - 1
    if steps < 1:
        return turn
    stride, full = (index[-1] - index[0]) / steps, fps / turn.fps
    # Indices are rounded to whole frames, which moves the mean by less than one frame over all steps.
    return replace(turn, fps=fps / stride) if stride > full + 1 / steps + 1e-9 else turn


def sound(turn: Turn, readout: str) -> Turn:
    """A turn without scores that nothing can be read from; the turn has failed where its verdict depends on one."""
    lost = {name: s.fault for name in ("score", "direct_score") if (s := getattr(turn, name)) is not None and s.fault}
    if not lost:
        return turn
    needed = "score" if readout == "paper" else "direct_score"
    rest = replace(
        turn,
        score=None if "score" in lost else turn.score,
        direct_score=None if "direct_score" in lost else turn.direct_score,
    )
    decides = needed in lost or (turn.status is None and rest.score is None and rest.direct_score is None)
    reason = turn.error or lost.get(needed) or next(iter(lost.values()))
    return replace(rest, status=None, error=reason) if decides else rest


def decided(turn: Turn) -> Turn:
    """A turn without a report takes the likelier word; without probabilities either, it has no status and says so."""
    if turn.error or turn.status is not None:
        return turn
    score = turn.score or turn.direct_score
    if score is None:
        return replace(
            turn, error=f"the answer could not be parsed ({turn.parse_error}) and the backend gives no probabilities"
        )
    status: Status = "normal" if score.log_odds >= 0 else "abnormal"
    return replace(turn, status=status)


@dataclass(frozen=True)
class Verdict:
    """The judge's decision about one video, with its evidence.

    ``score`` is the reward in [0, 1] (None: the judge could not judge, ``error`` says why). ``anomalies`` carry native
    frame indices of the video; they are those of turn two where it confirmed. ``window`` is the suspicious range turn
    one reported, in native frames.

    ``out_of_domain``: whether the video is unlike what the checkpoint was trained on, for the reason ``domain_reason``;
    None: the checkpoint or the server cannot tell. ``familiarity`` is that of the least familiar part.
    ``readouts_disagree``: whether a score of a turn that decides contradicts its status; None: there is no score.
    """

    status: Status | None
    score: float | None
    turns: tuple[Turn, ...] = ()
    window: FrameRange | None = None
    anomalies: tuple[Anomaly, ...] = ()
    readout: str = "paper"
    log_odds: float | None = None
    forced: bool = False
    error: str | None = None
    num_frames: int = 0
    fps: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    out_of_domain: bool | None = None
    domain_reason: str = ""
    familiarity: Familiarity | None = None
    readouts_disagree: bool | None = None

    @property
    def window_s(self) -> tuple[float, float] | None:
        """Start and end of the window in seconds; the end is that of its last frame."""
        if self.window is None:
            return None
        return self.window.start / self.fps, (self.window.end + 1) / self.fps

    @property
    def types(self) -> tuple[AnomalyType, ...]:
        return sort_types(a.type for a in self.anomalies)

    @property
    def decided_by(self) -> Literal["reasoning", "readout"]:
        """The way of the decision: by the judge's reasoning, or by the readout before it, beyond the bounds of its
        cascade (:attr:`reward_model.config.JudgeConfig.cascade`). Of a video in several parts, those that have the
        verdict's status count: the readout decided if it did for all of them. A judge that is set to write no reasoning
        decides by the readout alone.
        """
        if self.provenance.get("reasoning") is False:
            return "readout"
        following = [*self.turns[1:], None]
        ends = [t for t, after in zip(self.turns, following, strict=True) if after is None or after.number == 1]
        early = [turn.early for turn in ends if turn.status == self.status]
        return "readout" if early and all(early) else "reasoning"

    @property
    def operators(self) -> tuple[str, ...]:
        """Operators that the judge used to get its frames, in order; none of a two-turn judge."""
        return tuple(turn.operator for turn in self.turns if turn.operator)

    def on_grid(self, indices: Sequence[int]) -> tuple[Anomaly, ...]:
        """The anomalies that a sampled grid does not lie wholly outside of, as :meth:`Anomaly.on_grid` places them."""
        return tuple(placed for a in self.anomalies if (placed := a.on_grid(indices)) is not None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-safe values; :meth:`from_dict` restores an equal verdict."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["turns"] = [t.to_dict() for t in self.turns]
        plain["anomalies"] = [a.to_dict() for a in self.anomalies]
        plain["window"] = None if self.window is None else [self.window.start, self.window.end]
        plain["provenance"] = dict(self.provenance)
        plain["familiarity"] = self.familiarity.to_dict() if self.familiarity else None
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        return cls(
            **{
                **data,
                "turns": tuple(Turn.from_dict(t) for t in data["turns"]),
                "anomalies": tuple(Anomaly.from_dict(a) for a in data["anomalies"]),
                "window": None if data["window"] is None else FrameRange(*data["window"]),
                "familiarity": _familiarity(data),
            }
        )


def _familiarity(data: Mapping[str, Any]) -> Familiarity | None:
    if data.get("familiarity") is None:
        return None
    from reward_model.domain import Familiarity  # with numpy, which words need not load

    return Familiarity.from_dict(data["familiarity"])
