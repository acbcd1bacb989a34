"""Known damage to a whole video: its time (order, pace, brightness of frames) and its pictures (blur, noise, blocks).

How bad it is follows from the numbers it was made with, so that a score has an exact truth. Nothing here is local:
a thing that changes its shape is CaC's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

TIME_KINDS = ("jitter", "stutter", "cuts", "flicker", "slow")
PICTURE_KINDS = ("blur", "noise", "blocks")
#: Steps of a video that count as one step of its own pace; the aps protocol shows as many frames.
NUM_STEPS = 16
#: Mean error of a step, in steps, and mean change of brightness from frame to frame, that count as worst.
WORST_STEP, WORST_CHANGE = 1.6, 0.4
#: A single jump counts as at most so many steps.
LARGEST_STEP = 4.0
#: Part of its own pace that a video has lost when it is as bad as can be.
WORST_LOSS = 0.5


@dataclass(frozen=True)
class Timing:
    """Timing of the shown frames: ``order`` (T,) the scene's frame in each frame of the video, ``gain`` (T,) its
    brightness; ``pace`` is the speed of a video in slow motion, 1 for others.
    """

    order: np.ndarray
    gain: np.ndarray
    pace: float = 1.0

    @property
    def loss(self) -> float:
        """Share of the motion that is lost to slowness: 0 none, 1 nearly all."""
        return min(1.0, (1 - self.pace) / WORST_LOSS)


def draw_timing(kind: str, strength: float, num_frames: int, rng: np.random.Generator) -> Timing:
    """The timing of a video with one kind of damage.

    Args:
        kind: one of :data:`TIME_KINDS`, or ``""`` for none.
        strength: 0 (hardly any) to 1.
        num_frames: length of the video; the scene has as many frames.

    Raises:
        ValueError: if the kind is unknown.
    """
    frames, gain, pace = np.arange(num_frames), np.ones(num_frames), 1.0
    if kind == "jitter":  # frames are shown too early or too late
        reach = (0.4 + 2.6 * strength) * num_frames / NUM_STEPS
        frames = frames + np.rint(rng.uniform(-reach, reach, num_frames)).astype(int)
    elif kind == "stutter":  # for a while each frame is held, then the video jumps to where it should be
        held = max(2, round(3 * num_frames / NUM_STEPS))
        length = round((0.2 + 0.8 * strength) * num_frames)
        start = int(rng.integers(num_frames - length + 1))
        frames[start : start + length] = start + np.arange(length) // held * held
    elif kind == "cuts":  # pieces of the video in a random order of places
        frames = _cut(num_frames, 1 + round(5 * strength), rng)
    elif kind == "slow":  # slow motion down to a picture that stands still: some of what should happen never does
        pace = 0.95 - 0.7 * strength if strength < 0.9 else 0.0
        frames = np.rint(rng.uniform(0, (1 - pace) * (num_frames - 1)) + pace * frames).astype(int)
    elif kind == "flicker":
        gain = 1 + (0.1 + 0.5 * strength) * rng.uniform(-1, 1, num_frames)
    elif kind:
        raise ValueError(f"kind={kind!r} must be '' or one of {', '.join(TIME_KINDS)}")
    return Timing(np.clip(frames, 0, num_frames - 1), gain, pace)


def _cut(num_frames: int, num_cuts: int, rng: np.random.Generator) -> np.ndarray:
    """Runs of frames between random cuts; each starts anywhere it fits."""
    inner = 1 + rng.permutation(num_frames - 1)[:num_cuts]
    ends = np.concatenate([[0], np.sort(inner), [num_frames]])
    runs = []
    for length in np.diff(ends):
        start = int(rng.integers(num_frames - length + 1))
        runs.append(np.arange(start, start + length))
    return np.concatenate(runs)


def roughness(timing: Timing, shown: np.ndarray) -> float:
    """Distance of the shown frames from smooth motion: 0 is smooth, 1 the worst.

    The mean error of a step (its length against the one at this pace, in steps of the scene's own, the largest jump
    counting 4) over 1.6, plus the mean change of brightness over 0.4, plus the loss of slow motion; at most 1.

    Args:
        timing: timing of the video.
        shown: (N,) frames of the video that are looked at, in order.
    """
    step = len(timing.order) / NUM_STEPS
    error = np.minimum(np.abs(np.diff(timing.order[shown]) - timing.pace * np.diff(shown)) / step, LARGEST_STEP)
    change = np.abs(np.diff(timing.gain[shown]))
    return float(min(1.0, error.mean() / WORST_STEP + change.mean() / WORST_CHANGE + timing.loss))


def damage_pictures(frames: np.ndarray, kind: str, strength: float, *, seed: int, index: np.ndarray) -> np.ndarray:
    """Frames with one kind of damage all over; the same in any selection of frames.

    Args:
        frames: (N, H, W, 3) uint8.
        kind: one of :data:`PICTURE_KINDS`, or ``""``.
        strength: 0 (hardly any) to 1.
        seed: seed of the noise.
        index: (N,) the numbers of these frames in their video.

    Raises:
        ValueError: if the kind is unknown.
    """
    if not kind:
        return frames
    picture: np.ndarray = frames.astype(np.float32)
    size = frames.shape[1]
    if kind == "blur":
        sigma = (0.5 + 2.0 * strength) * size / 32
        picture = gaussian_filter(picture, (0, sigma, sigma, 0))
    elif kind == "noise":
        picture = picture + (8 + 42 * strength) * _noise(frames.shape[1:], seed, index)
    elif kind == "blocks":
        share = 0.25 + 0.75 * strength
        picture = (1 - share) * picture + share * _coarse(picture, max(2, size // 8))
    else:
        raise ValueError(f"kind={kind!r} must be '' or one of {', '.join(PICTURE_KINDS)}")
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _noise(shape: tuple[int, ...], seed: int, index: np.ndarray) -> np.ndarray:
    """Unit noise (N, H, W, 3), another crop of one tile for each frame."""
    height, width, channels = shape
    rng = np.random.default_rng([seed, 9])
    tile = rng.standard_normal((2 * height, 2 * width, channels), np.float32)
    corners = rng.integers(0, (height, width), size=(int(index.max(initial=0)) + 1, 2))
    return np.stack([tile[a : a + height, b : b + width] for a, b in corners[index]])


def _coarse(picture: np.ndarray, block: int) -> np.ndarray:
    """(N, H, W, 3) with every block of pixels at its mean; a rest at the right or bottom stays."""
    count, height, width, channels = picture.shape
    rows, columns = height // block, width // block
    part = picture[:, : rows * block, : columns * block].reshape(count, rows, block, columns, block, channels)
    out = picture.copy()
    out[:, : rows * block, : columns * block] = part.mean(axis=(2, 4)).repeat(block, axis=1).repeat(block, axis=2)
    return out


def brighten(frames: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 times (N,)."""
    if (gain == 1).all():
        return frames
    return np.clip(frames * gain[:, None, None, None].astype(np.float32) + 0.5, 0, 255).astype(np.uint8)
