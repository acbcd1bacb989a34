"""Exact frames for the page: decoded by the loader the judge uses, so frame k on the screen is frame k in training.

A browser's video element seeks by time and may show a neighbour; still pictures cannot. They travel in packs, each
picture after its length in four bytes, and are kept encoded for the few videos being looked at.
"""

from __future__ import annotations

import io
import struct
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from cac_align.rating.folder import inside
from cac_align.rating.items import Item
from reward_model.folders import file_digest, unreadable
from reward_model.video.clip import VideoError, load_video

#: Pictures per answer: one request per second of video or so.
PACK = 16
#: Up to this many pixels a picture is sent as PNG, exactly; larger ones as JPEG without colour subsampling.
EXACT_PIXELS = 256 * 256
#: Encoded bytes kept over all videos.
MAX_BYTES = 256 * 2**20


class FramePacks:
    """Packs of encoded frames of a folder's videos.

    Args:
        root: the folder; a video that has become a link out of it is refused.
        max_bytes: encoded pictures kept in memory; the video looked at last always is.
    """

    def __init__(self, root: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, list[bytes]] = OrderedDict()

    def pack(self, item: Item, start: int) -> bytes:
        """Frames ``start`` to ``start + 15``, as far as the video goes.

        Raises:
            VideoError: if the file is gone, broken, or no longer the one that was listed.
            OutsideError: it leads out of the folder.
        """
        pictures = self._pictures(item)[start : start + PACK]
        return b"".join(struct.pack(">I", len(p)) + p for p in pictures)

    def _pictures(self, item: Item) -> list[bytes]:
        # One at a time: decoding two videos at once takes twice the memory and no less time.
        with self._lock:
            if item.key not in self._kept:
                self._kept[item.key] = self._encode(item)
            self._kept.move_to_end(item.key)
            while len(self._kept) > 1 and sum(len(p) for v in self._kept.values() for p in v) > self.max_bytes:
                self._kept.popitem(last=False)
            return self._kept[item.key]

    def _encode(self, item: Item) -> list[bytes]:
        path = inside(self.root, item.video)
        if item.digest and (unreadable(path) or file_digest(path) != item.digest):
            raise VideoError("the file is gone or has changed since it was listed; start the page again")
        frames = load_video(path, item.fps).frames
        if len(frames) != item.num_frames:
            raise VideoError(f"the file holds {len(frames)} frames, but says it has {item.num_frames}; re-encode it")
        return [encode(frame) for frame in frames]


def encode(frame: np.ndarray) -> bytes:
    """One frame (H, W, 3) uint8 as PNG, or as JPEG if it is large."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(frame)
    if picture.width * picture.height <= EXACT_PIXELS:
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
