"""Settings of the synthesis, in two groups: what decides the answers that are paid for, and the rules they are held to.

Where the paper gives no number, the value is a project choice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from reward_model.data.cot import MAX_ROUNDS
from reward_model.terminal.described import check_settings, described, setting
from reward_model.video.clip import MAX_ZOOM_FRAMES, MIN_ZOOM_FRAMES, SCAN_FPS, ZOOM_FPS

Verify = Literal["rule", "judge", "both"]


@described
@dataclass(frozen=True)
class RuleConfig:
    """Rules an answer must keep. Changing them costs no new answers where the recorded ones suffice."""

    verify: Verify = "both"
    """The rule of section B.2, the reviewer of Fig. S6, or both."""
    temporal_iou: float = setting(0.5, least=0, below=1, hint="matches lie above it")
    """An anomaly's range matches strictly above it (section B.2)."""
    spatial_iou: float = setting(0.5, least=0, below=1, hint="matches lie above it")
    """An anomaly's boxes match strictly above it (section B.2)."""
    one_to_one: bool = True
    """An answer must not list anomalies beyond the annotated ones."""
    boundary: bool = False
    """Ask :func:`~reward_model.data.synthesis.rule_check.boundary_check` of every window, too."""
    zoom_window: Literal["annotated", "either"] = "annotated"
    """Window that a clip's time region is compared with: the annotated range (B.2), or either, which also accepts the
    whole clip where the clip is wider than the range."""
    check_frames: bool = True
    """Every frame has its own paragraph (Fig. S4); off for wordings that ask for less."""
    max_rounds: int = setting(MAX_ROUNDS, least=1, most=MAX_ROUNDS)
    """Answers a sample may try (section 3.1)."""
    salient_rounds: int = setting(3, least=1)
    """A match up to this round is salient, a later one is not."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.salient_rounds > self.max_rounds:
            raise ValueError(
                f"salient_rounds={self.salient_rounds} and max_rounds={self.max_rounds} must satisfy salient_rounds <= "
                "max_rounds"
            )


@described
@dataclass(frozen=True)
class AskConfig:
    """Settings of the questions. Answers recorded under other values cannot be used."""

    prompts: str = "paper"
    """A wording with hint branches."""
    scan_fps: float = setting(SCAN_FPS, above=0)
    """Frames per second of turn one."""
    zoom_fps: float = setting(ZOOM_FPS, above=0)
    """Frames per second of turn two."""
    min_zoom_frames: int = setting(MIN_ZOOM_FRAMES, least=1)
    """A clip is widened to as many frames."""
    max_zoom_frames: int = setting(MAX_ZOOM_FRAMES, least=1)
    """A clip is thinned to as many frames."""
    crop: Literal["hull", "per_window"] = "hull"
    """One clip over the hull of all windows if it fits ``max_zoom_frames``, or one per window."""
    normal_window_s: tuple[float, float] = setting((0.25, 1.0), above=0)
    """Shortest and longest random clip of a normal video, in seconds (section 3.2)."""
    frame_size: int | None = setting(None, least=1)
    """Longer side of each frame in pixels; its shape is kept. None shows frames as they are."""
    max_crops: int = setting(8, least=0, hint="0 shows none")
    """Enlarged parts shown after the frames of an abnormal clip, as in 3.1, which gives no number."""
    temperature: float = setting(1.0, above=0)
    """Temperature at which answers are drawn."""
    top_p: float = setting(0.95, above=0, most=1)
    """Share of the probability from which tokens are drawn."""
    max_new_tokens: int = setting(16384, above=0)
    """Most tokens of a teacher's answer."""
    judge_max_tokens: int = setting(1024, above=0)
    """Most tokens of the reviewer's answer; models that think first need room for it."""
    call_attempts: int = setting(3, above=0)
    """Attempts of a call that brings no answer; also how many answers of one round the token limit may cut before the
    round counts as failed."""
    seed: int = 0
    """Seed of random windows and of each round."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.min_zoom_frames > self.max_zoom_frames:
            raise ValueError(
                f"min_zoom_frames={self.min_zoom_frames} and max_zoom_frames={self.max_zoom_frames} must satisfy min "
                "<= max"
            )
        if len(self.normal_window_s) != 2 or self.normal_window_s[0] > self.normal_window_s[1]:
            raise ValueError(f"normal_window_s={self.normal_window_s} must be two rising numbers of seconds")


def settings(config: RuleConfig | AskConfig) -> dict[str, Any]:
    """All fields as JSON-safe values."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
