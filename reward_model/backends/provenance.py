"""Provenance of a verdict: who judged, by which settings, and how long it took. Never a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reward_model.backends.base import Backend
from reward_model.config import JudgeConfig
from reward_model.schema import Turn
from reward_model.tracks.codec import codec_of


def judge_provenance(
    backend: Backend, config: JudgeConfig, prompts: str, turns: Sequence[Turn], fps: float, release: str
) -> dict[str, Any]:
    """Provenance of a video's verdict.

    Args:
        prompts: version of the wording.
        turns: turns of the verdict.
        fps: frames per second of the video.
        release: version of this software.
    """
    asked = {1: min(config.scan_fps, fps), 2: min(config.zoom_fps, fps)}
    num_chunks = sum(t.number == 1 for t in turns)
    slower = {str(t.number): round(t.fps, 4) for t in turns if t.fps < asked.get(t.number, t.fps)}
    return {
        "model": backend.describe(),
        "backend": backend.name,
        "prompts": prompts,
        "readout": config.readout,
        "scan_fps": config.scan_fps,
        "zoom_fps": config.zoom_fps,
        "max_scan_frames": config.max_scan_frames,
        "long_videos": config.long_videos,
        **({"chunks": num_chunks, "scan_overlap": config.chunk_overlap} if num_chunks > 1 else {}),
        "min_zoom_frames": config.min_zoom_frames,
        "max_zoom_frames": config.max_zoom_frames,
        **({"thinned_to_fps": slower} if slower else {}),
        "frame_size": config.frame_size,
        **({"frame_fit": config.frame_fit} if config.frame_size is not None else {}),
        "window_margin": config.window_margin,
        "crop": config.crop,
        "context": config.context,
        **({"track": codec_of(config).version} if config.track != "per_frame" else {}),
        "num_turns": config.num_turns,
        "max_scan_tokens": config.max_scan_tokens,
        "max_zoom_tokens": config.max_zoom_tokens,
        "aggregate": config.aggregate,
        "reasoning": config.reasoning,
        **({"cascade": _cascade(config, turns)} if config.cascade != "off" else {}),
        "temperature": config.temperature,
        "log_odds_temperature": config.log_odds_temperature,
        "seed": config.seed,
        "demo_scale": config.demo_scale,
        "seconds": round(sum(t.seconds for t in turns), 4),
        "cac_align": release,
    }


def _cascade(config: JudgeConfig, turns: Sequence[Turn]) -> dict[str, Any]:
    early = sum(turn.early for turn in turns)
    return {
        "mode": config.cascade,
        "normal_above": config.normal_above,
        "abnormal_below": config.abnormal_below,
        "error": config.cascade_error,
        "decided_by_readout": early,
    }
