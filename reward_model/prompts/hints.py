"""Hints about the truth for a teacher that writes reasoning: the four branches of the synthesis prompt (Fig. S4).

A judge never sees them; they exist so that the same wording serves inference and the synthesis of training data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from reward_model.prompts import PromptSet, clean_line, fill
from reward_model.schema import Anomaly, FrameRange


def scan_hint(prompts: PromptSet, anomalies: Sequence[Anomaly]) -> str:
    """The hint of turn one, whole video: what to look out for, or that people found nothing.

    Args:
        prompts: a wording that has hint branches (``"paper"``).
        anomalies: the truth on the sampled grid of the video; empty for a normal one.

    Raises:
        ValueError: if the wording has no hint branches.
    """
    return _hint(prompts, "hint_scan", anomalies, num_frames=0)


def zoom_hint(prompts: PromptSet, anomalies: Sequence[Anomaly], num_frames: int) -> str:
    """The hint of turn two, a clip of ``num_frames`` frames: errors and reference boxes by frame of the clip.

    Fig. S4 calls the whole clip the time region, for its clips are cut to the annotated range. Where this one is wider
    than some range (the least number of frames, several anomalies in one clip), the range of each counts instead.
    """
    return _hint(prompts, "hint_zoom", anomalies, num_frames=num_frames)


def describe_errors(anomalies: Sequence[Anomaly]) -> str:
    """``{error_description}``: one line per anomaly with type, frames, objects, reason and region."""
    lines = []
    for anomaly in anomalies:
        details = [clean_line(t) for t in (", ".join(anomaly.objects), anomaly.reason, anomaly.region) if t]
        lines.append(f"- {anomaly.type.value}, {anomaly.frames}: {'; '.join(details) or 'no description'}")
    return "\n".join(lines)


def describe_boxes(anomalies: Sequence[Anomaly]) -> str:
    """``{bbox_hint_str}``: reference boxes by frame, as JSON in the notation of the answer."""
    boxes: dict[int, list[list[int]]] = {}
    for anomaly in anomalies:
        for frame, regions in anomaly.boxes.items():
            boxes.setdefault(frame, []).extend(b.as_list() for b in regions)
    return json.dumps({f"Frame {k}": v[0] if len(v) == 1 else v for k, v in sorted(boxes.items())})


def _hint(prompts: PromptSet, branch: str, anomalies: Sequence[Anomaly], num_frames: int) -> str:
    name = f"{branch}_{'abnormal' if anomalies else 'normal'}"
    if name not in prompts.texts:
        raise ValueError(
            f"the wording {prompts.name!r} has no {name}.txt; use load_prompts('paper') to synthesise reasoning"
        )
    values = {"last_frame": str(num_frames - 1)}
    if branch == "hint_zoom" and anomalies:
        whole = all(a.frames == FrameRange(0, num_frames - 1) for a in anomalies)
        values["region_hint"] = fill(prompts.texts["hint_region_clip" if whole else "hint_region_part"], values)
    values |= {
        "error_description": describe_errors(anomalies),
        "bbox_hint_str": describe_boxes(anomalies),
        "snippet_length": str(num_frames),
        "hint_tail": prompts.texts["hint_tail"],
    }
    return fill(prompts.texts[name], values) + "\n"
