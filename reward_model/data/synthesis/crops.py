"""Enlarged parts of annotated regions, shown to the teacher after the frames of an abnormal clip (3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reward_model.conversation import Conversation
from reward_model.prompts import fill
from reward_model.prompts.verification import load_verification
from reward_model.schema import Anomaly, Box
from reward_model.video.crops import enlarged

#: Longer side of an enlarged part in pixels, and how much wider than the box it is cut on each side.
CROP_SIZE = 384
MARGIN = 0.25


def with_crops(asked: Conversation, frames: np.ndarray, anomalies: Sequence[Anomaly], max_crops: int) -> Conversation:
    """The same question with up to ``max_crops`` enlarged parts right after its last frame.

    Args:
        asked: a conversation whose last message holds the frames.
        frames: (T, H, W, 3) uint8, the clip at full size.
        anomalies: on the frames of the clip; their boxes say what is cut.
        max_crops: the boxed frames are thinned evenly to this number.
    """
    boxed = [(k, box) for a in anomalies for k, found in sorted(a.boxes.items()) for box in found]
    if not boxed or max_crops < 1:
        return asked
    picked = sorted({round(i) for i in np.linspace(0, len(boxed) - 1, min(max_crops, len(boxed)))})
    texts, content = load_verification().texts, asked[-1].content
    parts: list[str | np.ndarray] = ["\n" + texts["crops"] + "\n"]
    for frame, box in (boxed[i] for i in picked):
        parts += [fill(texts["crop"], {"number": str(frame)}), cut_out(frames[frame], box)]
    after = max(i for i, part in enumerate(content) if not isinstance(part, str)) + 1
    return (*asked[:-1], replace(asked[-1], content=(*content[:after], *parts, "\n", *content[after:])))


def cut_out(frame: np.ndarray, box: Box) -> np.ndarray:
    """The box of a frame (H, W, 3) uint8 with a margin, enlarged to :data:`CROP_SIZE` on its longer side."""
    return enlarged(frame, box, margin=MARGIN, side=CROP_SIZE)
