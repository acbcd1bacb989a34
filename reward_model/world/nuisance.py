"""Harmless damage: what codecs and video autoencoders do to every frame. A judge must call all of it normal."""

from __future__ import annotations

import numpy as np


def degrade(frames: np.ndarray, rng: np.random.Generator, *, probability: float = 0.5) -> np.ndarray:
    """One draw of blur, lost contrast and blotchy noise, the same kind for the whole clip.

    Args:
        frames: (T, H, W, 3) uint8.
        rng: decides whether and how much.
        probability: how often each of the three is applied.

    Returns:
        (T, H, W, 3) uint8; the input itself when nothing was drawn.
    """
    chosen = rng.random(3) < probability * np.array([1.0, 0.6, 0.6])
    if not chosen.any():
        return frames
    picture = frames.astype(np.float32)
    if chosen[0]:
        picture = blur(picture, rng.uniform(0.3, 1.0))
    if chosen[1]:
        mean = picture.mean(axis=(0, 1, 2), keepdims=True)
        picture = mean + rng.uniform(0.7, 1.0) * (picture - mean) + rng.uniform(-10, 10)
    if chosen[2]:
        picture = picture + blotches(picture.shape, rng.uniform(1, 7), rng)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (T, H, W, C) float frames by ``sigma`` pixels, edges repeated."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    height, width = picture.shape[1:3]
    padded = np.pad(picture, ((0, 0), (2, 2), (0, 0), (0, 0)), mode="edge")
    picture = sum(t * padded[:, k : k + height] for k, t in enumerate(taps))
    padded = np.pad(picture, ((0, 0), (0, 0), (2, 2), (0, 0)), mode="edge")
    return sum(t * padded[:, :, k : k + width] for k, t in enumerate(taps))


def blotches(shape: tuple[int, ...], amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Noise constant on 4x4 blocks, half of it fixed in time: what block transforms leave behind. Std about
    ``amplitude`` levels.
    """
    frames, height, width, channels = shape
    coarse = (height + 3) // 4, (width + 3) // 4
    fixed = rng.standard_normal((1, *coarse, channels), np.float32)
    moving = rng.standard_normal((frames, *coarse, channels), np.float32)
    noise = np.float32(amplitude / np.sqrt(2)) * (fixed + moving)
    return noise.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
