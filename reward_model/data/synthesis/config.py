"""Settings of the synthesis, in two groups: what decides the answers that are paid for, and the rules they are held to.

Where the paper gives no number, the value is a project choice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from reward_model.data.cot import MAX_ROUNDS
from reward_model.video.clip import MAX_ZOOM_FRAMES, MIN_ZOOM_FRAMES, SCAN_FPS, ZOOM_FPS

Verify = Literal["rule", "judge", "both"]


@dataclass(frozen=True)
class RuleConfig:
    """Rules an answer must keep. Changing them costs no new answers where the recorded ones suffice.

    Attributes:
        verify: the rule of section B.2, the reviewer of Fig. S6, or both.
        temporal_iou, spatial_iou: an anomaly matches strictly above these (section B.2).
        one_to_one: an answer must not list anomalies beyond the annotated ones.
        boundary: also ask :func:`~reward_model.data.synthesis.rule_check.boundary_check` of every window.
        zoom_window: what a clip's time region is compared with: the ``"annotated"`` range (B.2), or ``"either"``, which
            also accepts the whole clip where the clip is wider than the range.
        check_frames: every frame has its own paragraph (Fig. S4); off for wordings that ask for less.
        max_rounds: answers a sample may try (section 3.1).
        salient_rounds: a match up to this round is salient, a later one is not.
    """

    verify: Verify = "both"
    temporal_iou: float = 0.5
    spatial_iou: float = 0.5
    one_to_one: bool = True
    boundary: bool = False
    zoom_window: Literal["annotated", "either"] = "annotated"
    check_frames: bool = True
    max_rounds: int = MAX_ROUNDS
    salient_rounds: int = 3

    def __post_init__(self) -> None:
        _one_of(self, verify=("rule", "judge", "both"), zoom_window=("annotated", "either"))
        for name in ("temporal_iou", "spatial_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 0 and below 1: matches lie above it")
        if not 1 <= self.salient_rounds <= self.max_rounds <= MAX_ROUNDS:
            raise ValueError(
                f"salient_rounds={self.salient_rounds} and max_rounds={self.max_rounds} must satisfy "
                f"1 <= salient_rounds <= max_rounds <= {MAX_ROUNDS}"
            )


@dataclass(frozen=True)
class AskConfig:
    """Settings of the questions. Answers recorded under other values cannot be used.

    Attributes:
        prompts: a wording with hint branches.
        scan_fps, zoom_fps: frames per second of turn one and turn two.
        min_zoom_frames, max_zoom_frames: a clip is widened to the first and thinned to the second.
        crop: one clip over the hull of all windows if it fits ``max_zoom_frames``, or one per window.
        normal_window_s: shortest and longest random clip of a normal video, in seconds (section 3.2).
        frame_size: side of the square each frame is resized to; None shows frames as they are.
        max_crops: enlarged parts shown after the frames of an abnormal clip, as in 3.1, which gives no number; 0 shows
            none.
        temperature, top_p, max_new_tokens: how answers are drawn.
        judge_max_tokens: limit of the reviewer's answer; models that think first need room for it.
        call_attempts: how often a call is made that brings no answer; also how many answers of one round the token
            limit may cut before the round counts as failed.
        seed: seed of random windows and of each round.
    """

    prompts: str = "paper"
    scan_fps: float = SCAN_FPS
    zoom_fps: float = ZOOM_FPS
    min_zoom_frames: int = MIN_ZOOM_FRAMES
    max_zoom_frames: int = MAX_ZOOM_FRAMES
    crop: Literal["hull", "per_window"] = "hull"
    normal_window_s: tuple[float, float] = (0.25, 1.0)
    frame_size: int | None = None
    max_crops: int = 8
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 16384
    judge_max_tokens: int = 1024
    call_attempts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of(self, crop=("hull", "per_window"))
        for name in ("scan_fps", "zoom_fps", "temperature", "max_new_tokens", "judge_max_tokens", "call_attempts"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above zero")
        if not 1 <= self.min_zoom_frames <= self.max_zoom_frames:
            raise ValueError(
                f"min_zoom_frames={self.min_zoom_frames} and max_zoom_frames={self.max_zoom_frames} must satisfy 1 <= "
                "min <= max"
            )
        if not 0 < self.normal_window_s[0] <= self.normal_window_s[1]:
            raise ValueError(f"normal_window_s={self.normal_window_s} must be two rising numbers of seconds above zero")
        if self.max_crops < 0:
            raise ValueError(f"max_crops={self.max_crops} must be at least 0")


def settings(config: RuleConfig | AskConfig) -> dict[str, Any]:
    """All fields as JSON-safe values."""
    found = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _one_of(config: Any, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name}={getattr(config, name)!r} must be one of {', '.join(map(repr, allowed))}")
