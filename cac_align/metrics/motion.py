"""Motion as a reward: the speed of a video up to a limit, for trainings whose other rewards like it to stand still.

A judge of anomalies is pleased by a video in which nothing happens. The published recipe of velocity matching
(arXiv 2608.23664) therefore has motion as a term of the reward, clipped, and logs how often it is at its limit. Beyond
the limit there is nothing to gain: more speed than that is not asked for, and a reward that is always there says
nothing any more.

The reward stands here and not among those of models (:mod:`cac_align.rewards`) because its measures are metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, get_args

from cac_align.metrics.pixel_flow import pixel_speed
from cac_align.rewards.base import Evaluation, as_frames
from cac_align.rewards.model_reward import read_files
from reward_model.folders import file_digest
from reward_model.shipped import located

if TYPE_CHECKING:
    import numpy as np
    import torch

Measure = Literal["pixels", "tracked", "raft"]


class MotionReward:
    """Speed of a video over a full one, clipped at 1; also ``cac_align.MotionReward``, and ``motion`` in settings.

    ``evaluate(...).parts`` holds the ``speed`` before clipping and ``saturated``, 1 where the reward is at its limit:
    the share of such videos is its mean.

    Args:
        full: speed from which on the reward is 1, in longer sides of the picture per second. The base model's own
            median is a good choice, so that the training keeps its motion and is not paid for more.
        measure: how speed is measured.

            ``"pixels"``: optical flow without a network (:mod:`cac_align.metrics.pixel_flow`).

            ``"tracked"``: the median speed of the one object on a plain ground that the world's videos have.

            ``"raft"``: RAFT's optical flow, the mean of the fastest twentieth of the pixels as in VBench's dynamic
            degree, the median over frames an eighth of a second apart. Needs ``weights``, and 128 pixels a side.
        weights: file of torchvision's ``raft_small`` or ``raft_large``, or of the original RAFT (large).
        device: device of RAFT; None: CUDA where there is one.

    Raises:
        ValueError: an unknown measure, a limit that is not above 0, or weights that do not fit the measure; when
            called, a video of a single frame.

    Example:
        >>> import numpy as np
        >>> still = np.zeros((5, 32, 32, 3), np.uint8)
        >>> MotionReward()([still], fps=16)
        [0.0]
    """

    name = "motion"
    #: Frames that a video needs at the least, see :func:`cac_align.rewards.base.check_num_frames`.
    least_frames = 2

    def __init__(
        self,
        *,
        full: float = 0.25,
        measure: Measure = "pixels",
        weights: str | None = None,
        device: str | None = None,
    ) -> None:
        if isinstance(full, bool) or not isinstance(full, int | float) or not (full > 0 and math.isfinite(full)):
            raise ValueError(
                f"full={full!r} must be a finite number above 0, in longer sides of the picture per second"
            )
        if measure not in get_args(Measure):
            raise ValueError(f"measure={measure!r} must be one of {', '.join(get_args(Measure))}")
        if (measure == "raft") != (weights is not None):
            raise ValueError(
                f"weights={weights!r} and measure={measure!r} do not fit: raft needs the file of its weights, the "
                "other measures have none"
            )
        self.full, self.measure, self.device = float(full), measure, device
        self.weights = None if weights is None else located(weights)

    def __repr__(self) -> str:
        told = f", weights={self.weights!r}" if self.weights else ""
        return f"MotionReward(full={self.full:g}, measure={self.measure!r}{told})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which a worker loads for itself."""
        return {name: value for name, value in vars(self).items() if name != "raft"}

    def check_ready(self) -> None:
        """Raises ValueError if there is no file of weights."""
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"weights={self.weights!r}: there is no such file; download it, or use measure='pixels'")

    def make_ready(self) -> None:
        """Loads RAFT, if it is needed.

        Raises:
            WeightsError: if the file is broken or holds another model.
        """
        if self.measure == "raft":
            _ = self.raft

    @cached_property
    def raft(self) -> torch.nn.Module:
        """The network."""
        import torch

        from cac_align.metrics.flow import load_raft

        self.check_ready()
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return load_raft(Path(self.weights or ""), device)

    def describe(self) -> dict[str, Any]:
        """Everything that decides its scores, for files."""
        weights = {} if self.weights is None else {"weights": file_digest(self.weights)[:16]}
        return {"measure": self.measure, "full": self.full, **weights}

    def __call__(
        self, videos: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, fps: float, **kwargs: object
    ) -> list[float | None]:
        """The reward of each video, in [0, 1]; prompts do not matter."""
        return self.evaluate(videos, prompts, fps=fps).scores

    def evaluate(
        self, videos: Sequence[Any], prompts: Sequence[str] | None = None, *, fps: float | None = None
    ) -> Evaluation:
        """The reward of each video with its parts.

        Args:
            videos: (T, H, W, 3) uint8 each, or paths.
            prompts: not used.
            fps: frames per second; files bring their own.
        """
        opened, rate, unreadable = read_files(videos, fps)
        frames = as_frames(opened)
        speeds = [None if k in unreadable else self.speed(video, rate) for k, video in enumerate(frames)]
        scores = [None if s is None else min(s / self.full, 1.0) for s in speeds]
        saturated = [None if s is None else float(s >= self.full) for s in speeds]
        reasons = [unreadable.get(k) for k in range(len(frames))]
        return Evaluation(scores, [None] * len(frames), reasons, {"speed": speeds, "saturated": saturated})

    def speed(self, frames: np.ndarray, fps: float) -> float:
        """Speed of a video, (T, H, W, 3) uint8, in longer sides of the picture per second.

        Raises:
            ValueError: if it is a single frame, or too small for RAFT.
        """
        if len(frames) < self.least_frames:
            raise ValueError(f"a video of {len(frames)} frame does not move; the motion reward needs at least 2 frames")
        if self.measure == "pixels":
            return pixel_speed(frames, fps)
        if self.measure == "tracked":
            from reward_model.world.tracking import tracked_motion

            return tracked_motion(frames, fps) / max(frames.shape[1:3])
        return self._raft_speed(frames, fps)

    def _raft_speed(self, frames: np.ndarray, fps: float) -> float:
        from cac_align.metrics.flow import MIN_SIDE, sampled, strengths
        from cac_align.metrics.pixels import to_tensor

        height, width = frames.shape[1:3]
        if min(height, width) < MIN_SIDE:
            raise ValueError(
                f"frames of {height}x{width} are too small for RAFT, which needs {MIN_SIDE} pixels a side; use "
                "measure='pixels'"
            )
        picked = sampled(len(frames), fps)
        picked = picked if len(picked) > 1 else range(0, len(frames), len(frames) - 1)  # shorter than an eighth second
        device = next(self.raft.parameters()).device
        moved = list(strengths(self.raft, to_tensor(frames[list(picked)], device)))
        return median(moved) * fps / picked.step / max(height, width)
