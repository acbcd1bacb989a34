"""VBench's measures of one video, computed in this process.

A measure maps a :class:`Clip` to one number in [0, 1] (a rating may leave it) and raises ValueError for a video that it
cannot score. The frames of a clip are decoded once and what two measures need is made once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.metrics.dimensions import Dimension
from reward_model.video.clip import Video

if TYPE_CHECKING:
    import numpy as np
    import torch

Measure = Callable[["Clip"], float]


class Clip:
    """One video on its way through the measures.

    Args:
        video: its frames and rate.
        device: where networks run.
        batch_size: frames a network sees at once; what is held in memory beyond the decoded bytes grows with it.
    """

    def __init__(self, video: Video, *, device: torch.device | str = "cpu", batch_size: int = 16) -> None:
        self.frames, self.fps, self.device, self.batch_size = video.frames, video.fps, device, batch_size

    def batches(self) -> Iterator[torch.Tensor]:
        """(B, 3, H, W) floats in 0-255."""
        from cac_align.metrics.pixels import to_tensor

        for start in range(0, len(self.frames), self.batch_size):
            yield to_tensor(self.frames[start : start + self.batch_size], self.device)

    @cached_property
    def clip_batches(self) -> list[torch.Tensor]:
        """Inputs of CLIP, shared by all measures that use it; 0.6 MB per frame."""
        from cac_align.metrics.pixels import clip_pixels

        return [clip_pixels(batch) for batch in self.batches()]


def open_measure(
    dimension: Dimension,
    *,
    cache_dir: str | os.PathLike[str] | None,
    device: torch.device | str,
    batch_size: int,
    strict: bool,
) -> Measure:
    """The measure of a dimension, its networks loaded.

    Raises:
        WeightsError: if a file is missing or broken.
        ImportError: if a library is missing.
    """
    paths = [weights.find(cache_dir) for weights in dimension.weights]
    return _OPENERS[dimension.name](paths, device, batch_size, strict)


def consistency(features: torch.Tensor) -> float:
    """Similarity of every frame to the one before it and to the first one.

    Args:
        features: (T, D), one row per frame; any length but zero.

    Returns:
        The mean over t >= 1 of (max(0, cos(f[t-1], f[t])) + max(0, cos(f[0], f[t]))) / 2.
    """
    from torch.nn import functional

    features = functional.normalize(features.float(), dim=-1)
    before = functional.cosine_similarity(features[:-1], features[1:]).clamp(min=0)
    first = functional.cosine_similarity(features[:1], features[1:]).clamp(min=0)
    return float(((before + first) / 2).double().mean())


def flicker_share(frames: np.ndarray) -> float:
    """1 minus the mean absolute difference of neighbouring frames, as a share of 255.

    Args:
        frames: (T, H, W, 3) uint8.
    """
    import numpy as np

    steps = pairwise(frames)
    gaps = [np.maximum(a, b).astype(np.int64) - np.minimum(a, b) for a, b in steps]
    return (255.0 - float(np.mean([g.mean() for g in gaps]))) / 255.0


def _open_subject(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    import torch

    from cac_align.metrics.encoders import DinoEncoder
    from cac_align.metrics.pixels import dino_pixels

    encode = DinoEncoder(paths[0], device)
    return lambda clip: consistency(torch.cat([encode(dino_pixels(batch)) for batch in clip.batches()]))


def _open_background(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    import torch

    from cac_align.metrics.encoders import ClipEncoder

    encode = ClipEncoder(paths[0], device)
    return lambda clip: consistency(torch.cat([encode(batch) for batch in clip.clip_batches]))


def _open_aesthetic(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    import torch
    from torch.nn import functional

    from cac_align.metrics.encoders import ClipEncoder, aesthetic_head

    encode, head = ClipEncoder(paths[0], device), aesthetic_head(paths[1], device)

    def rate(clip: Clip) -> float:
        ratings = [head(functional.normalize(encode(batch), dim=-1))[:, 0] / 10 for batch in clip.clip_batches]
        return float(torch.cat(ratings).mean())

    return rate


def _open_imaging(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    import torch

    from cac_align.metrics.musiq import load_musiq
    from cac_align.metrics.pixels import imaging_pixels

    model = load_musiq(paths[0], device)

    def rate(clip: Clip) -> float:
        with torch.inference_mode():
            ratings = [model(imaging_pixels(batch)).double() for batch in clip.batches()]
        return float(torch.cat(ratings).mean()) / 100

    return rate


def _open_dynamic(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    from cac_align.metrics import flow

    raft = flow.load_raft(paths[0], device)

    def judge(clip: Clip) -> float:
        height, width = clip.frames.shape[1:3]
        num = len(flow.sampled(len(clip.frames), clip.fps))
        small = min(height + -height % 8, width + -width % 8) < flow.MIN_SIDE
        if not strict and (small or num < 3):
            given = f"{width} x {height} pixels" if small else f"{num} of {len(clip.frames)} frames at {clip.fps:g} fps"
            raise ValueError(
                f"dynamic_degree needs sides of at least 121 pixels and three sampled frames, got {given}: there the "
                "package answers without looking. strict=True repeats its answer"
            )
        if small:  # RAFT gives NaN there, which exceeds no threshold
            return float(flow.needed(num) <= 0 and num > 1)
        return float(flow.moves(raft, clip.frames, clip.fps, device=device, batch_size=max(1, batch_size // 16)))

    return judge


def _open_flicker(paths: list[Path], device: torch.device | str, batch_size: int, strict: bool) -> Measure:
    return lambda clip: flicker_share(clip.frames)


_OPENERS: dict[str, Callable[[list[Path], Any, int, bool], Measure]] = {
    "subject_consistency": _open_subject,
    "background_consistency": _open_background,
    "temporal_flickering": _open_flicker,
    "dynamic_degree": _open_dynamic,
    "aesthetic_quality": _open_aesthetic,
    "imaging_quality": _open_imaging,
}
