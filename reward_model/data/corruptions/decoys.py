"""Normal variants of a video: everything an edited video carries except the anomaly.

A set whose abnormal half is edited and whose normal half is not teaches a judge to find edits. Each normal video here
can carry the same global changes as its abnormal twin, and a local reblend: a region resampled by a fraction of a
pixel, regrained and blended back with the same masks that the operators use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import CorruptionError
from reward_model.data.corruptions.blend import blend_edit, soft_mask
from reward_model.data.corruptions.footage import Footage, sample_rect
from reward_model.data.corruptions.region import find_region
from reward_model.schema import FrameRange


def lighting(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness and contrast drift slowly over the whole video."""
    turn = np.sin(np.linspace(0, np.pi * rng.uniform(0.5, 2), len(frames)) + rng.uniform(0, 2 * np.pi))
    gains, lifts = 1 + rng.uniform(0.04, 0.14) * turn, rng.uniform(-8, 8) * turn
    levels = np.arange(256)
    tables = np.clip(128 + gains[:, None] * (levels - 128) + lifts[:, None] + 0.5, 0, 255).astype(np.uint8)
    return np.stack([table[frame] for table, frame in zip(tables, frames, strict=True)])


def soften(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole video is slightly out of focus."""
    sigma = float(rng.uniform(0.5, 1.1)) * max(1.0, min(frames.shape[1:3]) / 480)
    return np.stack([ndimage.gaussian_filter(frame, (sigma, sigma, 0)) for frame in frames])


def drift(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole picture sways by up to two hundredths of its shorter side, as a hand-held camera does."""
    reach, time = 0.02 * min(frames.shape[1:3]), np.linspace(0, 2 * np.pi, len(frames))
    speed, phase = rng.uniform(0.5, 1.5, 2), rng.uniform(0, 2 * np.pi, 2)
    shifts = np.round(reach * np.sin(speed * time[:, None] + phase)).astype(int)
    pad = int(np.abs(shifts).max())
    out = np.empty_like(frames)
    for k, (dx, dy) in enumerate(shifts):
        padded = np.pad(frames[k], ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        out[k] = padded[pad + dy : pad + dy + frames.shape[1], pad + dx : pad + dx + frames.shape[2]]
    return out


def compression(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blocks and ringing of a low bit rate: every frame goes through JPEG."""
    import io

    from PIL import Image

    quality, out = int(rng.integers(35, 75)), np.empty_like(frames)
    for k, frame in enumerate(frames):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        out[k] = np.asarray(Image.open(buffer))
    return out


#: Changes of the whole picture that are not anomalies.
DECOYS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = MappingProxyType(
    {"lighting": lighting, "soften": soften, "drift": drift, "compression": compression}
)


def reblend(footage: Footage, rng: np.random.Generator) -> np.ndarray:
    """A copy of a video in which one region, over one window, has been lifted out and put back: the same cut, feather,
    resampling and grain as an anomaly has, and nothing wrong. A video without any texture comes back as it is.
    """
    frames, last = footage.frames, len(footage.frames) - 1
    out = frames.copy()
    try:
        track = find_region(footage, rng, span=FrameRange(1, last - 1))
    except CorruptionError:
        return out
    length = int(np.clip(round(rng.uniform(0.4, 1.6) * footage.fps), 3, last - 1))
    start = int(rng.integers(1, last - length + 1))
    motion, grow = np.eye(3), float(rng.uniform(1.1, 1.6))
    motion[:2, 2] = rng.uniform(0.2, 0.45, 2) * rng.choice([-1, 1], 2)
    for index in range(start, start + length):
        rect = track.rect(index, grow)
        mask = soft_mask(rect, track.centre[index], grow * track.size)
        content = sample_rect(frames[index], motion, rect)
        out[index][rect.slices] = blend_edit(frames, index, rect, content, mask, rng).pixels
    return out
