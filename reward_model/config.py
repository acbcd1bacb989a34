"""Settings of the two-turn judge, and the ``judge.json`` a checkpoint carries so that it is asked the way it was
trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from reward_model.readout import READOUTS

JUDGE_FILE = "judge.json"


@dataclass(frozen=True)
class JudgeConfig:
    """How a video is shown and how the verdict is read.

    Rates are frames per second; ``frame_size`` is the side of the square every frame is resized to (None: left to the
    processor, which keeps the aspect ratio). ``demo_scale`` marks checkpoints that know the procedural world only.
    """

    prompts: str = "paper"
    prompt_version: str | None = None
    scan_fps: float = 4.0
    zoom_fps: float = 8.0
    min_zoom_frames: int = 4
    max_zoom_frames: int = 48
    frame_size: int | None = None
    max_scan_tokens: int = 6144
    max_zoom_tokens: int = 6144
    readout: Literal["paper", "direct", "log_odds"] = "paper"
    all_readouts: bool = False
    reasoning: bool = True
    num_turns: int = 2
    context: Literal["fresh", "chat"] = "fresh"
    aggregate: Literal["final", "joint"] = "final"
    log_odds_temperature: float = 4.0
    temperature: float = 0.0
    seed: int | None = None
    batch_size: int = 8
    demo_scale: bool = False

    def __post_init__(self) -> None:
        choices = {
            "readout": READOUTS,
            "context": ("fresh", "chat"),
            "aggregate": ("final", "joint"),
            "num_turns": (1, 2),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, allowed))}")
        for name in (
            "scan_fps",
            "zoom_fps",
            "min_zoom_frames",
            "max_scan_tokens",
            "max_zoom_tokens",
            "log_odds_temperature",
            "batch_size",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above zero")
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature!r} must be zero (the likeliest answer) or above")
        if self.min_zoom_frames > self.max_zoom_frames:
            raise ValueError(f"min_zoom_frames={self.min_zoom_frames} exceeds max_zoom_frames={self.max_zoom_frames}")
        if not self.reasoning and self.readout == "paper":
            raise ValueError(
                "readout='paper' reads the verdict after the reasoning; "
                "with reasoning=False use readout='direct' or 'log_odds'"
            )

    def override(self, **changes: Any) -> JudgeConfig:
        """A copy with some settings changed; None means "as it was".

        Raises:
            ValueError: an unknown setting, or a value the rules refuse.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"unknown judge setting(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        changes = {k: v for k, v in changes.items() if v is not None}
        if changes.get("reasoning") is False and "readout" not in changes and self.readout == "paper":
            changes["readout"] = "direct"
        return replace(self, **changes)


def load_judge_config(folder: str | Path) -> JudgeConfig:
    """The ``judge.json`` of a checkpoint folder, or the full-size defaults where there is none.

    Raises:
        ValueError: the file is not JSON or names unknown settings.
    """
    path = Path(folder) / JUDGE_FILE
    if not path.is_file():
        return JudgeConfig()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    tokens = data.pop("max_new_tokens", {})
    data.update({f"max_{turn}_tokens": count for turn, count in tokens.items()})
    return JudgeConfig().override(**data)
