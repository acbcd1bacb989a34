"""The dimensions of VBench (arXiv 2311.17982) that score any video, and what each of them needs.

Six more (object_class, multiple_objects, color, spatial_relationship, scene, appearance_style) compare a video with
annotations of VBench's own prompts; the package refuses them for other videos, and so do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cac_align.metrics.weights import (
    AESTHETIC_HEAD,
    AMT_S,
    CLIP_B32,
    CLIP_L14,
    DINO_B16,
    MUSIQ_SPAQ,
    RAFT_THINGS,
    UMT_L16,
    VICLIP,
    WeightFile,
)


@dataclass(frozen=True)
class Dimension:
    """One dimension.

    Attributes:
        name: as the package spells it.
        weights: the files it reads, in the package's cache.
        native: computed in this process too; the others by the package only.
        pooled: the package's total over several videos is the mean over all their frames, not over the videos.
        per_video_scale: what the package multiplies a video's value with: 100 for imaging quality, whose total is
            nevertheless in [0, 1].
        needs_prompt: compares the video with its prompt.
    """

    name: str
    weights: tuple[WeightFile, ...]
    native: bool = True
    pooled: bool = False
    per_video_scale: float = 1.0
    needs_prompt: bool = False


DIMENSIONS: dict[str, Dimension] = {
    d.name: d
    for d in (
        Dimension("subject_consistency", (DINO_B16,), pooled=True),
        Dimension("background_consistency", (CLIP_B32,), pooled=True),
        Dimension("temporal_flickering", ()),
        Dimension("dynamic_degree", (RAFT_THINGS,)),
        Dimension("aesthetic_quality", (CLIP_L14, AESTHETIC_HEAD)),
        Dimension("imaging_quality", (MUSIQ_SPAQ,), per_video_scale=100.0),
        Dimension("motion_smoothness", (AMT_S,), native=False),
        Dimension("human_action", (UMT_L16,), native=False, needs_prompt=True),
        Dimension("temporal_style", (VICLIP,), native=False, needs_prompt=True),
        Dimension("overall_consistency", (VICLIP,), native=False, needs_prompt=True),
    )
}

#: Computed in this process.
NATIVE = tuple(d.name for d in DIMENSIONS.values() if d.native)


def check_dimension(name: str, backend: Literal["native", "package"] = "native") -> Dimension:
    """The dimension of this name.

    Raises:
        ValueError: unknown, or not computed by ``backend``.
    """
    if name not in DIMENSIONS:
        raise ValueError(f"dimension={name!r} must be one of {', '.join(DIMENSIONS)}")
    if backend not in ("native", "package"):
        raise ValueError(f"backend={backend!r} must be 'native' or 'package'")
    dimension = DIMENSIONS[name]
    if backend == "native" and not dimension.native:
        raise ValueError(
            f"dimension={name!r} is computed by the vbench package only: pass backend='package' "
            "(cac-align vbench install makes its environment)"
        )
    return dimension


def total(dimension: Dimension, scores: Sequence[float], num_frames: Sequence[int]) -> float:
    """The package's total (one process) of several videos, in [0, 1].

    Args:
        dimension: decides between the mean over videos and the mean over frames.
        scores: one per video, in [0, 1].
        num_frames: number of frames of each video; a consistency has one value for every frame but the first.

    Raises:
        ValueError: no scores, or not one length for each.
    """
    if not scores or len(scores) != len(num_frames):
        raise ValueError(
            f"total needs a length for each of at least one score, got {len(num_frames)} for {len(scores)}"
        )
    weights = [n - 1 for n in num_frames] if dimension.pooled else [1] * len(scores)
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
