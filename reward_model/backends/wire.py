"""Conversations as the chat API writes them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from reward_model.conversation import Conversation, Message


def to_wire(conversation: Sequence[Message], image_format: Literal["png", "jpeg"] = "png") -> list[dict[str, Any]]:
    """Messages with frames as data URLs; a message of text alone is a plain string, which every server accepts in every
    role.
    """
    return [{"role": m.role, "content": _content(m.content, image_format)} for m in conversation]


def _content(parts: Sequence[str | np.ndarray], image_format: Literal["png", "jpeg"]) -> str | list[dict[str, Any]]:
    if all(isinstance(part, str) for part in parts):
        return "".join(str(part) for part in parts)
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part, image_format)}}
        for part in parts
    ]


def check_frames(conversations: Sequence[Conversation]) -> None:
    """Raises ValueError for the first frame that is not (H, W, 3) uint8."""
    for part in (part for conversation in conversations for message in conversation for part in message.content):
        if not isinstance(part, str) and (part.dtype != np.uint8 or part.ndim != 3 or part.shape[2] != 3):
            raise ValueError(
                f"a frame must be (H, W, 3) uint8, got {part.shape} {part.dtype}; convert it with reward_model.video"
            )


def data_url(frame: np.ndarray, image_format: Literal["png", "jpeg"] = "png") -> str:
    """One frame (H, W, 3) uint8 as ``data:image/...;base64,...``: PNG is exact, JPEG has quality 95 and full colour
    resolution.
    """
    file = io.BytesIO()
    how = {"compress_level": 1} if image_format == "png" else {"quality": 95, "subsampling": 0}
    Image.fromarray(np.ascontiguousarray(frame)).save(file, image_format, **how)
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"
