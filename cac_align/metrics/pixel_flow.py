"""Speed of a video by pixels alone: optical flow between neighbouring frames without a network.

Lucas and Kanade (1981): where brightness only moves, its change in time is I_t = -(I_x u + I_y v). Over a small window
that is solved for (u, v) by least squares. What changes by the same amount all over the picture, as in flicker, is
taken off first; a difference of frames would count it. The flow is exact for small motions, so large pictures are made
small.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reward_model.video.clip import resize_frames

#: Longer side of the copy that is looked at, in pixels. Smaller videos stay as they are.
SIDE = 64
#: The share of pixels that counts, the fastest ones, as in VBench's dynamic degree: things that move are small.
FASTEST = 0.05
#: Standard deviations in pixels of the smoothing of pictures, and of the windows.
_SMOOTH, _WINDOW = 1.0, 1.5
#: Grey levels squared that gradients are weighed against: noise on an even ground does not move.
_NOISE = 4.0


def pixel_flow(frames: np.ndarray) -> np.ndarray:
    """The motion of every pixel from each frame to the next, (T - 1, 2, H, W) in pixels (x, y).

    Args:
        frames: (T, H, W) grey levels, T >= 2.
    """
    smooth = ndimage.gaussian_filter(frames.astype(np.float32), (0, _SMOOTH, _SMOOTH))
    middle, change = (smooth[1:] + smooth[:-1]) / 2, smooth[1:] - smooth[:-1]
    change -= np.median(change, axis=(1, 2), keepdims=True)  # the light of the whole picture
    down, across = np.gradient(middle, axis=(1, 2))

    def windowed(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (0, _WINDOW, _WINDOW))

    xx, yy, xy = windowed(across * across) + _NOISE, windowed(down * down) + _NOISE, windowed(across * down)
    xt, yt = windowed(across * change), windowed(down * change)
    area = xx * yy - xy * xy
    return np.stack([(xy * yt - yy * xt) / area, (xy * xt - xx * yt) / area], axis=1)


def pixel_speed(frames: np.ndarray, fps: float) -> float:
    """Speed of the fastest twentieth of the picture, in longer sides of the picture per second.

    The median over neighbouring frames, since a mean would count a cut or a jump as motion.

    Args:
        frames: (T, H, W, 3) uint8, T >= 2.
        fps: frames per second.
    """
    height, width = frames.shape[1:3]
    factor = min(1.0, SIDE / max(height, width))
    small = resize_frames(frames, (max(2, round(height * factor)), max(2, round(width * factor)))).mean(-1)
    lengths = np.linalg.norm(pixel_flow(small), axis=1).reshape(len(small) - 1, -1)
    count = max(1, int(lengths.shape[1] * FASTEST))
    fastest = np.partition(lengths, -count, axis=1)[:, -count:].mean(1)
    return float(np.median(fastest)) * fps / max(small.shape[1:])
