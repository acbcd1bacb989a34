"""Dynamic degree: RAFT's optical flow between frames an eighth of a second apart, and VBench's rule for "it moves".

The network is torchvision's ``raft_large``; its outputs are bit-identical to the original's on the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cac_align.metrics.weights import fill_model, read_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch

NUM_UPDATES = 20
#: Below this the correlation pyramid has no fourth level: the original gives NaN, torchvision an error.
MIN_SIDE = 128
_SAMPLED_FPS = 8
_FASTEST = 0.05

#: Names of the original, as they begin, and torchvision's.
_RENAMED = (
    ("fnet.", "feature_encoder."),
    ("cnet.", "context_encoder."),
    ("update_block.encoder.convc", "update_block.motion_encoder.convcorr"),
    ("update_block.encoder.convf", "update_block.motion_encoder.convflow"),
    ("update_block.encoder.conv.", "update_block.motion_encoder.conv.0."),
    ("update_block.gru.", "update_block.recurrent_block."),
    ("update_block.flow_head.", "update_block.flow_head."),
    ("update_block.mask.0.", "mask_predictor.convrelu.0."),
    ("update_block.mask.2.", "mask_predictor.conv."),
)


def load_raft(path: Path, device: torch.device | str = "cpu") -> torch.nn.Module:
    """RAFT-large with the original's weights or torchvision's, or RAFT-small with torchvision's.

    Raises:
        WeightsError: if the file is broken or holds another model.
        ImportError: if torchvision cannot be imported.
    """
    import torch

    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"RAFT needs a torchvision that fits torch ({error}); reinstall both: pip install torch torchvision"
        ) from error
    state = {k.removeprefix("module."): v for k, v in read_tensors(path).items()}
    # norm3 is a second name of downsample.1.
    if any(k.startswith("fnet.") for k in state):
        state = {torchvision_name(k): v for k, v in state.items() if ".norm3." not in k}
    large = any(k.startswith("mask_predictor.") for k in state)
    with torch.device("meta"):
        model = raft_large(weights=None) if large else raft_small(weights=None)
    return fill_model(model, state, path).to(device)


def torchvision_name(name: str) -> str:
    """The name torchvision has for a parameter of the original RAFT.

    >>> torchvision_name("fnet.layer1.0.conv2.weight")
    'feature_encoder.layer1.0.convnormrelu2.0.weight'
    """
    import re

    name = next((new + name.removeprefix(old) for old, new in _RENAMED if name.startswith(old)), name)
    if name.startswith("update_block.motion_encoder.conv") and ".conv.0." not in name:
        return re.sub(r"(convcorr\d|convflow\d)\.", r"\1.0.", name)
    if name.startswith("update_block.recurrent_block."):
        return re.sub(r"\.conv([zrq])(\d)\.", r".convgru\2.conv\1.", name)
    if not name.startswith(("feature_encoder.", "context_encoder.")):
        return name
    encoder, _, rest = name.partition(".")
    if rest.startswith("layer"):
        rest = re.sub(r"\.conv(\d)\.", r".convnormrelu\1.0.", rest)
        return f"{encoder}." + re.sub(r"\.norm(\d)\.", r".convnormrelu\1.1.", rest)
    for old, new in (("conv1.", "convnormrelu.0."), ("norm1.", "convnormrelu.1."), ("conv2.", "conv.")):
        if rest.startswith(old):
            return f"{encoder}.{new}" + rest.removeprefix(old)
    return name


def sampled(num_frames: int, fps: float) -> range:
    """The frames VBench looks at: every k-th with k = round(fps / 8), at least 1."""
    return range(0, num_frames, max(1, round(fps / _SAMPLED_FPS)))


def threshold(height: int, width: int) -> float:
    """Pixels the fastest twentieth must move from one sampled frame to the next."""
    return 6.0 * (min(height, width) / 256.0)


def needed(num_sampled: int) -> int:
    """Number of pairs that must exceed the threshold: a quarter of the sampled frames, rounded to even."""
    return round(4 * (num_sampled / 16.0))


def strengths(raft: torch.nn.Module, frames: torch.Tensor, batch_size: int = 1) -> Iterator[float]:
    """Mean flow of the fastest 5% of pixels, pair by pair.

    Args:
        raft: from :func:`load_raft`.
        frames: (N, 3, H, W) floats in 0-255, already sampled.
        batch_size: pairs at once.
    """
    import torch
    from torch.nn import functional

    height, width = frames.shape[-2:]
    down, right = -height % 8, -width % 8
    padding = (right // 2, right - right // 2, down // 2, down - down // 2)
    for start in range(0, len(frames) - 1, batch_size):
        chunk = frames[start : start + batch_size + 1] / 255 * 2 - 1
        chunk = functional.pad(chunk, padding, mode="replicate")
        with torch.inference_mode():
            flow = raft(chunk[:-1].contiguous(), chunk[1:].contiguous(), num_flow_updates=NUM_UPDATES)[-1]
            length = flow.square().sum(1).sqrt().flatten(1)
            fastest = length.topk(int(length.shape[1] * _FASTEST), dim=1).values.mean(1)
        yield from fastest.tolist()


def moves(
    raft: torch.nn.Module, frames: np.ndarray, fps: float, *, device: torch.device | str = "cpu", batch_size: int = 1
) -> bool:
    """VBench's verdict on a video. The flow is computed until the verdict is certain, and no further.

    Args:
        raft: from :func:`load_raft`.
        frames: (T, H, W, 3) uint8, both sides at least 121 (128 with the padding to multiples of 8).
        fps: frames per second, as the file says.
    """
    from cac_align.metrics.pixels import to_tensor

    picked = frames[list(sampled(len(frames), fps))]
    limit, missing = threshold(*frames.shape[1:3]), needed(len(picked))
    if missing <= 0:
        return len(picked) > 1
    left = len(picked) - 1
    for strength in strengths(raft, to_tensor(picked, device), batch_size):
        missing -= strength > limit
        left -= 1
        if missing <= 0:
            return True
        if missing > left:
            return False
    return False
