"""The judge: all that knows what an anomaly is. Usable without diffusers.

Names load when they are first used, so importing this package costs nothing.

Example:
    >>> from reward_model import LocalBackend, TwoTurnJudge                                   # doctest: +SKIP
    >>> judge = TwoTurnJudge(LocalBackend("Qwen/Qwen3-VL-8B-Instruct"))                       # doctest: +SKIP
    >>> judge.judge(["clip.mp4"])[0].status                                                   # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names
from reward_model.moved import find_former_names

_HOMES = {
    "Anomaly": "reward_model.schema",
    "AnomalyType": "reward_model.schema",
    "Box": "reward_model.schema",
    "FrameRange": "reward_model.schema",
    "JudgeConfig": "reward_model.config",
    "LocalBackend": "reward_model.backends.local",
    "OpenAIBackend": "reward_model.backends.openai",
    "ParseError": "reward_model.parsing",
    "RecordingBackend": "reward_model.backends.replay",
    "ReplayBackend": "reward_model.backends.replay",
    "TurnReport": "reward_model.schema",
    "TwoTurnJudge": "reward_model.judge",
    "Verdict": "reward_model.schema",
    "VideoAnnotation": "reward_model.schema",
    "VideoError": "reward_model.video.clip",
    "parse_turn": "reward_model.parsing",
}

__all__ = [
    "Anomaly",
    "AnomalyType",
    "Box",
    "FrameRange",
    "JudgeConfig",
    "LocalBackend",
    "OpenAIBackend",
    "ParseError",
    "RecordingBackend",
    "ReplayBackend",
    "TurnReport",
    "TwoTurnJudge",
    "Verdict",
    "VideoAnnotation",
    "VideoError",
    "parse_turn",
]

if TYPE_CHECKING:
    from reward_model.backends.local import LocalBackend
    from reward_model.backends.openai import OpenAIBackend
    from reward_model.backends.replay import RecordingBackend, ReplayBackend
    from reward_model.config import JudgeConfig
    from reward_model.judge import TwoTurnJudge
    from reward_model.parsing import ParseError, parse_turn
    from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, Verdict, VideoAnnotation
    from reward_model.video.clip import VideoError

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
find_former_names()
