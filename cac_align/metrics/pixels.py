"""VBench's resizing of frames to a network's input: always interpolation without antialiasing.

All functions take (T, 3, H, W) floats in 0-255, in any number of frames at a time, and give what torchvision's
``Resize(..., antialias=False)`` gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 224
IMAGING_SIDE = 512


def to_tensor(frames: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """(T, H, W, 3) uint8 frames as (T, 3, H, W) floats in 0-255."""
    import torch

    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()


def short_side(frames: torch.Tensor, side: int) -> tuple[int, int]:
    """The size of the frames when their shorter side is ``side``; the longer one is cut to whole pixels."""
    height, width = frames.shape[-2:]
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def dino_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Short side 224, nothing cropped, ImageNet statistics."""
    return _normalise(_resize(frames, short_side(frames, SIDE), "bilinear") / 255, *IMAGENET)


def clip_pixels(frames: torch.Tensor) -> torch.Tensor:
    """The central 224 x 224 of short side 224, bicubic, CLIP's statistics."""
    frames = _resize(frames, short_side(frames, SIDE), "bicubic")
    top, left = (round((side - SIDE) / 2) for side in frames.shape[-2:])
    return _normalise(frames[..., top : top + SIDE, left : left + SIDE] / 255, *CLIP)


def imaging_pixels(frames: torch.Tensor) -> torch.Tensor:
    """Long side at most 512, values in [0, 1]; the package's mode "longer", its default."""
    height, width = frames.shape[-2:]
    if max(height, width) > IMAGING_SIDE:
        scale = IMAGING_SIDE / max(height, width)
        frames = _resize(frames, (int(scale * height), int(scale * width)), "bilinear")
    return frames / 255


def _resize(frames: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    from torch.nn import functional

    if tuple(frames.shape[-2:]) == size:
        return frames
    return functional.interpolate(frames, size=size, mode=mode, align_corners=False, antialias=False)


def _normalise(frames: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    import torch

    centre, spread = (torch.tensor(v, device=frames.device)[:, None, None] for v in (mean, std))
    return (frames - centre) / spread
