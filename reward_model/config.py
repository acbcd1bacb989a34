"""Settings of the two-turn judge, and the ``judge.json`` a checkpoint carries so that it is asked the way it was
trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from reward_model.domain import TrainedOn
from reward_model.prompts import answer_limit, load_prompts
from reward_model.terminal.described import as_chosen, check_settings, described, setting
from reward_model.video.clip import MAX_ZOOM_FRAMES, MIN_ZOOM_FRAMES, SCAN_FPS, ZOOM_FPS
from reward_model.video.framing import FrameFit

__all__ = [
    "JUDGE_FILE",
    "OF_THE_WEIGHTS",
    "READOUTS",
    "UNIFIED_FILE",
    "JudgeConfig",
    "Readout",
    "answer_limit",
    "judge_json",
    "load_judge_config",
]

JUDGE_FILE = "judge.json"
#: A checkpoint with this file rates videos by a protocol of UnifiedReward and gives no verdicts.
UNIFIED_FILE = "unified.json"

Readout = Literal["paper", "direct", "log_odds"]
#: Places of the score and scales of it, see :mod:`reward_model.turns`.
READOUTS: tuple[str, ...] = get_args(Readout)

#: Settings of old checkpoints, whose ``judge.json`` was written before there was a choice.
BEFORE_THE_SETTING = {"window_margin": "half", "frame_fit": "squeeze"}

#: Settings that leave the cascade no place, the value that does, and what to set instead.
_BESIDE_CASCADE: tuple[tuple[str, object, str], ...] = (
    ("readout", "paper", "readout='direct' or 'log_odds', which are read before the reasoning"),
    ("reasoning", False, "reasoning=True, or leave the cascade off: every verdict is read without reasoning already"),
    ("all_readouts", True, "all_readouts=False: what stands without reasoning is not read after it"),
    ("policy", "active", "policy='two_turn': an active judge chooses its frames by reasoning"),
)


@described
@dataclass(frozen=True)
class JudgeConfig:
    """Settings of a judge: how a video is shown and how the verdict is read. A checkpoint's ``judge.json`` holds the
    values it was trained with; the defaults are those of the full-size judge.

    Raises:
        ValueError: if a value is not of its kind, is out of bounds or contradicts another; the message names it.

    Example:
        >>> JudgeConfig(zoom_fps=12.0).answer_limit(turn=1, num_frames=21)
        7744
    """

    # --- wording ------------------------------------------------------------------------------------------------------
    prompts: str = "paper"
    """The wording: paper (after Figs. S4 and S5), or compact, which the shipped mini was trained with."""
    prompt_version: str | None = None
    """Version of the wording that the checkpoint was trained with; another version causes a warning. None: not
    recorded."""

    # --- frames -------------------------------------------------------------------------------------------------------
    scan_fps: float = setting(SCAN_FPS, above=0, most=1000)
    """Frames per second of turn one. Paper: 4."""
    zoom_fps: float = setting(ZOOM_FPS, above=0, most=1000)
    """Frames per second of turn two. Paper: 8."""
    max_scan_frames: int | None = setting(128, least=1, most=100_000)
    """Most frames of one question of turn one; long_videos says what happens to longer grids. 128 are 32 s at 4 fps,
    longer than today's generators draw; at 480p they are 50,000 tokens and 7 GB of an 8B model's cache. None: no
    limit."""
    long_videos: Literal["chunks", "thin"] = "chunks"
    """A grid longer than max_scan_frames is scanned in overlapping chunks at the full rate, each judged by itself, with
    one verdict (chunks), or once, thinned evenly (thin)."""
    scan_overlap: int | None = setting(None, least=0, most=100_000)
    """Fewest frames that neighbouring chunks share. None: about one second of the grid, at most half a chunk."""
    min_zoom_frames: int = setting(MIN_ZOOM_FRAMES, least=1, most=10_000)
    """Fewest frames of turn two; shorter windows are widened, so that there is something to compare."""
    max_zoom_frames: int = setting(MAX_ZOOM_FRAMES, least=1, most=10_000)
    """Most frames of turn two; longer windows are thinned evenly."""
    frame_size: int | None = setting(None, least=1, most=4096)
    """Side in pixels of the square that every frame is shown in. None: left to the processor, which keeps the aspect
    ratio."""
    frame_fit: FrameFit = "pad"
    """With a frame_size: frames keep their aspect ratio, centred on even grey (pad), or are stretched onto the square
    (squeeze). Boxes of verdicts lie on the native frame either way."""

    # --- boxes of turn two --------------------------------------------------------------------------------------------
    track: Literal["per_frame", "1s", "0.5s", "0.25s"] = "per_frame"
    """Boxes that turn two is asked for: on every frame (per_frame, the paper), or at ticks 1, 0.5 or 0.25 seconds
    apart, from which those of the frames are smoothed and interpolated."""
    track_smoothing: Literal["whittaker", "whittaker_fixed", "moving_average", "kalman", "none"] = "whittaker"
    """With ticks: smoothing across them, as strong as a track's own noise calls for (whittaker) or of fixed strength
    (whittaker_fixed, moving_average, kalman), never across a jump."""

    # --- length of answers --------------------------------------------------------------------------------------------
    max_scan_tokens: int | None = setting(None, least=1, most=1_000_000)
    """Most new tokens of an answer of turn one. None: 320 for each frame and 1,024."""
    max_zoom_tokens: int | None = setting(None, least=1, most=1_000_000)
    """Most new tokens of an answer of turn two; None likewise."""

    # --- readout ------------------------------------------------------------------------------------------------------
    readout: Readout = "paper"
    """Place of the score: after the reasoning (paper, Equation 7), before it (direct), or before it with the log-odds
    of the two words divided by a temperature (log_odds)."""
    readouts: tuple[str, ...] = ("paper",)
    """Readouts at which this checkpoint was trained to give its verdict, the best first."""
    all_readouts: bool = False
    """Read the score at every place, for ``Verdict.scores``; takes longer."""
    reasoning: bool = True
    """Write reasoning before the verdict. Off: the score is read right after the question, faster, without boxes."""

    # --- cascade ------------------------------------------------------------------------------------------------------
    cascade: Literal["off", "normal", "windows", "scores"] = "off"
    """Verdicts that stand on the probability read before reasoning, where it lies beyond the calibrated bounds: none
    (off); those that say normal (normal), so that windows and boxes stay; also abnormal ones, with turn one's window
    and without turn two's boxes (windows), or without a window (scores). Needs a readout before reasoning."""
    normal_above: float | None = setting(None, below=math.inf)
    """Cascade: log-odds of normal before reasoning above which a video is normal. None: not calibrated, none is."""
    abnormal_below: float | None = setting(None, below=math.inf)
    """Cascade: log-odds of normal before reasoning below which a video is abnormal. None: not calibrated, none is."""
    cascade_error: float | None = setting(None, above=0, below=1)
    """Cascade: most videos, as a share, whose verdict the calibration allowed to become false. None: not stated."""

    # --- turns --------------------------------------------------------------------------------------------------------
    num_turns: Literal[1, 2] = 2
    """Number of turns; 1 stops after the scan."""
    window_margin: Literal["half", "none"] = "none"
    """The clip of turn two is turn one's window as it was named (none, the paper), or reaches half a stride of the scan
    beyond both its ends (half), where what was seen may have begun and ended."""
    crop: Literal["hull", "per_window"] = "hull"
    """Several windows give one clip, their hull, or one each where the hull exceeds max_zoom_frames (per_window)."""
    context: Literal["fresh", "chat", "clip_only"] = "fresh"
    """Turn two sees the clip and turn one's reasoning (fresh, the paper), turn one's whole chat (chat), or the clip
    alone (clip_only)."""
    require_all_frames: bool = False
    """An anomaly of turn two needs a box on every frame of its clip, or the answer is invalid; as in training."""
    lenient_invalid: bool = False
    """Read only the status of an answer outside the schema, if it is legible; as in training."""

    # --- active evidence ----------------------------------------------------------------------------------------------
    policy: Literal["two_turn", "active"] = "two_turn"
    """Policy that chooses the frames to look at: the two turns at their fixed rates (two_turn, the paper), or the judge
    itself, look after look (active), for a checkpoint that was trained so."""
    start_fps: float = setting(2.0, above=0, most=1000)
    """Active: frames per second of the first view."""
    max_operators: int = setting(4, least=0, most=100)
    """Active: most operators of an episode; 0 answers at the first view."""
    max_episode_frames: int = setting(64, least=1, most=100_000)
    """Active: most frames of all views of an episode together."""
    max_view_frames: int = setting(16, least=1, most=10_000)
    """Active: most frames of one view. A video whose first view has more is judged in overlapping parts."""

    # --- score --------------------------------------------------------------------------------------------------------
    aggregate: Literal["final", "joint"] = "final"
    """Score of the last turn (final, the paper), or 1 minus the product of both turns' P(abnormal) (joint)."""
    log_odds_temperature: float = setting(4.0, above=0, most=1_000_000)
    """Divisor of the log-odds in the readout log_odds."""

    # --- drawing answers ----------------------------------------------------------------------------------------------
    temperature: float = setting(0.0, least=0, hint="0 takes the likeliest answer")
    """Sampling temperature; 0 takes the likeliest answer."""
    seed: int | None = None
    """Seed of answers sampled at a temperature above 0."""
    batch_size: int = setting(8, least=1, most=10_000)
    """Videos judged in one batch."""
    demo_scale: bool = False
    """Marks a checkpoint that knows the procedural world only."""
    trained_on: TrainedOn | None = None
    """The training videos, as far as that is stated: seconds, fps, side (pixels) and aspect (width over height) as
    [least, most], and footage in words. Videos outside are said to be out of domain. None: not stated."""

    def __post_init__(self) -> None:
        if isinstance(self.readouts, list):
            object.__setattr__(self, "readouts", tuple(self.readouts))
        if isinstance(self.trained_on, dict):
            object.__setattr__(self, "trained_on", TrainedOn.from_dict(self.trained_on))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Real) and not isinstance(value, int | float):  # of numpy, which JSON does not know
                object.__setattr__(self, field.name, int(value) if isinstance(value, Integral) else float(value))
        check_settings(self)
        self._check_together()

    def _check_together(self) -> None:
        """Settings that contradict each other, each within its own bounds."""
        if not self.readouts or not set(self.readouts) <= set(READOUTS) or len(set(self.readouts)) < len(self.readouts):
            raise ValueError(
                f"readouts={list(self.readouts)!r} must list some of {', '.join(map(repr, READOUTS))}, the best first"
            )
        if self.min_zoom_frames > self.max_zoom_frames:
            raise ValueError(f"min_zoom_frames={self.min_zoom_frames} exceeds max_zoom_frames={self.max_zoom_frames}")
        if self.scan_overlap is not None and self.scan_overlap >= (self.max_scan_frames or self.scan_overlap + 1):
            raise ValueError(
                f"scan_overlap={self.scan_overlap} must be less than max_scan_frames={self.max_scan_frames}, the "
                "frames of a chunk"
            )
        if self.max_view_frames > self.max_episode_frames:
            raise ValueError(
                f"max_view_frames={self.max_view_frames} exceeds max_episode_frames={self.max_episode_frames}, the "
                "frames of all views together"
            )
        if self.policy == "active" and self.track != "per_frame":
            raise ValueError(
                f"track={self.track!r} asks turn two for boxes at ticks, and policy='active' has no turn two: it draws "
                "them on the frames it has seen. Leave track at 'per_frame'"
            )
        self._check_cascade()
        if not self.reasoning and self.readout == "paper":
            raise ValueError(
                "readout='paper' reads the verdict after the reasoning; "
                "with reasoning=False use readout='direct' or 'log_odds'"
            )

    def _check_cascade(self) -> None:
        low, high = self.abnormal_below, self.normal_above
        if low is not None and high is not None and low > high:
            raise ValueError(f"abnormal_below={low} exceeds normal_above={high}")
        if self.cascade == "off":
            return
        for name, refused, wanted in _BESIDE_CASCADE:
            if getattr(self, name) == refused:
                raise ValueError(f"cascade={self.cascade!r} does not go with {name}={refused!r}; use {wanted}")

    def check_bounds(self) -> None:
        """Raises ValueError for a cascade without calibrated bounds."""
        if self.cascade != "off" and self.normal_above is None and self.abnormal_below is None:
            raise ValueError(
                f"cascade={self.cascade!r} needs bounds, and this checkpoint's {JUDGE_FILE} has none: write them with "
                "`cac-align run cascade calibrate`, or set normal_above and abnormal_below"
            )

    @property
    def best_readout(self) -> str:
        """The default readout: the first of ``readouts`` that these settings can read. Without reasoning, or with a
        cascade, there is no place after it, and a checkpoint that was trained for no other is read at ``direct``.

        >>> JudgeConfig(readouts=("paper", "log_odds")).best_readout
        'paper'
        >>> JudgeConfig(readouts=("paper", "log_odds")).override(reasoning=False).best_readout
        'log_odds'
        """
        return _best_readout(self.readouts, self.reasoning and self.cascade == "off")

    @property
    def chunk_overlap(self) -> int:
        """Fewest frames that neighbouring chunks of a long video share.

        >>> JudgeConfig(max_scan_frames=25).chunk_overlap
        4
        """
        if self.scan_overlap is not None:
            return self.scan_overlap
        return min(max(1, round(self.scan_fps)), (self.max_scan_frames or 0) // 2)

    def answer_limit(self, turn: int, num_frames: int) -> int:
        """New tokens of an answer of turn 1 or 2 about ``num_frames`` frames."""
        return answer_limit(num_frames, self.max_scan_tokens if turn == 1 else self.max_zoom_tokens)

    def override(self, **changes: Any) -> JudgeConfig:
        """A copy with some settings changed; None means "as it was".

        Raises:
            ValueError: an unknown setting, or a value the rules refuse.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"unknown judge setting(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        changes = as_chosen(JudgeConfig, {k: v for k, v in changes.items() if v is not None})
        if "cascade" not in changes and any(changes.get(name) == refused for name, refused, _ in _BESIDE_CASCADE):
            changes["cascade"] = "off"
        elif changes.get("cascade", "off") != "off" and "readout" not in changes and self.readout == "paper":
            changes["readout"] = _best_readout(changes.get("readouts", self.readouts), reasoning=False)
        if changes.get("reasoning") is False and "readout" not in changes and self.readout == "paper":
            changes["readout"] = _best_readout(changes.get("readouts", self.readouts), reasoning=False)
        return replace(self, **changes)


def _best_readout(trained: Iterable[str], reasoning: bool) -> str:
    return next((r for r in trained if reasoning or r != "paper"), "paper" if reasoning else "direct")


def load_judge_config(folder: str | Path) -> JudgeConfig:
    """The ``judge.json`` of a checkpoint folder, or the full-size defaults where there is none.

    A file that lacks a setting was written before there was a choice (:data:`BEFORE_THE_SETTING`).

    Raises:
        ValueError: if the file is not JSON, names unknown settings or holds a value the rules refuse; the message names
            the file.
    """
    path = Path(folder) / JUDGE_FILE
    if not path.is_file():
        if (Path(folder) / UNIFIED_FILE).is_file():
            raise ValueError(
                f"{str(folder)!r} holds {UNIFIED_FILE}: it rates videos and was never taught to give a verdict; ask it "
                "with UnifiedReward(...), or pass a CaC judge (a folder with judge.json)"
            )
        return JudgeConfig()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    tokens = data.pop("max_new_tokens", {}) if isinstance(data, dict) else None
    if not isinstance(tokens, dict):
        raise ValueError(f'{path} must hold a JSON object of judge settings, such as {{"prompts": "paper"}}')
    data.update({f"max_{turn}_tokens": count for turn, count in tokens.items()})
    try:
        config = JudgeConfig().override(**{**BEFORE_THE_SETTING, **data})
        config.check_bounds()
        return config
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


#: Settings that are true of one set of weights only: a checkpoint trained on from it has to be calibrated anew.
OF_THE_WEIGHTS = ("cascade", "normal_above", "abnormal_below", "cascade_error")


def judge_json(judge: JudgeConfig, *, same_weights: bool = False) -> str:
    """The text of ``judge.json``: how this checkpoint has to be asked, as it was in training; with ``same_weights``
    also its calibrated cascade.
    """
    names: tuple[str, ...] = (
        "prompts",
        "scan_fps",
        "zoom_fps",
        "min_zoom_frames",
        "max_zoom_frames",
        "frame_size",
        "frame_fit",
        "max_scan_tokens",
        "max_zoom_tokens",
        "max_scan_frames",
        "long_videos",
        "scan_overlap",
        "window_margin",
        "crop",
        "context",
        "num_turns",
        "require_all_frames",
        "lenient_invalid",
        "demo_scale",
    )
    if judge.policy == "active":
        names += ("policy", "start_fps", "max_operators", "max_episode_frames", "max_view_frames")
    if same_weights and (judge.normal_above, judge.abnormal_below) != (None, None):
        names += OF_THE_WEIGHTS
    settings = {n: getattr(judge, n) for n in names if getattr(judge, n) is not None}
    if judge.track != "per_frame":
        settings |= {"track": judge.track, "track_smoothing": judge.track_smoothing}
    if judge.trained_on is not None:
        settings["trained_on"] = judge.trained_on.to_dict()
    settings["readouts"] = list(judge.readouts)
    settings["prompt_version"] = load_prompts(judge.prompts).version
    assert set(settings) <= {f.name for f in fields(JudgeConfig)}
    return json.dumps(settings, indent=2) + "\n"
