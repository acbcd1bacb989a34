"""Random weights in the layout of VBench's cache, and small videos to score with them: the same bytes on every machine.

No real weight can be had offline. What these show is that our computation and the package's are the same function.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cac_align.metrics import weights
from reward_model.video.writing import LOSSLESS_H264, write_video

#: name -> (frames, height, width, fps, pixels the texture moves per frame). Landscape, portrait, odd, over 512.
VIDEOS = {
    "fast": (4, 128, 192, 8.0, 9),
    "slow": (5, 160, 136, 16.0, 1),
    "odd": (7, 131, 199, 24.0, 3),
    "large": (3, 272, 544, 8.0, 0),
}
DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "aesthetic_quality",
    "imaging_quality",
    "dynamic_degree",
    "temporal_flickering",
)


def make_frames(name: str) -> np.ndarray:
    """(T, H, W, 3) uint8: the video of that name."""
    num, height, width, _, speed = VIDEOS[name]
    return moving_texture(num, height, width, speed, seed=sum(map(ord, name)))


def moving_texture(num: int, height: int, width: int, speed: int, *, seed: int) -> np.ndarray:
    """(T, H, W, 3) uint8: a smooth texture that moves over a still one, with a little noise."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.float64)
    ground = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    ground = sum(np.roll(ground, k, (0, 1)) for k in range(8)) / 8
    frames = []
    for k in range(num):
        frame = ground.copy()
        patch = np.roll(ground[::-1], k * speed, axis=1)
        frame[height // 4 : -height // 4, : width // 2] = patch[height // 4 : -height // 4, : width // 2]
        frames.append(frame + random.randint(-3, 4, frame.shape))
    return np.clip(frames, 0, 255).astype(np.uint8)


def write_videos(folder: Path) -> dict[str, Path]:
    """The videos as files that decode to exactly these frames."""
    return {n: write_video(folder / f"{n}-0.mp4", make_frames(n), VIDEOS[n][3], LOSSLESS_H264) for n in VIDEOS}


class Noise:
    """Uniform numbers that cost nothing: slices of one fixed table."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        self.table = self.random.uniform(-1, 1, 1 << 20).astype(np.float32)

    def __call__(self, shape: tuple[int, ...], scale: float) -> torch.Tensor:
        start, count = int(self.random.randint(len(self.table))), math.prod(shape)
        first = self.table[-start:] if start else self.table  # the table from ``start`` before its end, round and round
        flat = first[:count] if count <= len(first) else np.resize(np.roll(self.table, start), count)
        flat = flat * np.float32(scale)
        return torch.from_numpy(flat.reshape(shape).copy())


def randomise(state: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Numbers of a sensible size for every tensor: small biases and class tokens and sharp attention, so that
    the result depends on the picture and hardly on the constants.
    """
    noise, found = Noise(seed), {}
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros((), dtype=torch.long)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            found[name] = 1 + noise(shape, 0.2)
        elif name.endswith(("weight", "proj")):
            gain = 2.0 if any(part in name for part in ("qkv", "in_proj", "query", "key")) else 1.0
            found[name] = noise(shape, gain * math.sqrt(3 / math.prod(shape[1:])))
        else:
            found[name] = noise(shape, 0.3 if "pos" in name else 0.02)
    return found


def write_weights(
    root: Path, *, width: int = 768, depth: int = 12, musiq_depth: int = 14, full_clip: bool = False
) -> Path:
    """A cache folder with weights for every native dimension.

    The package fixes the sizes of DINO and MUSIQ (the defaults here); smaller ones are for us alone. CLIP's are small
    unless asked for at full size (1.3 GB): that is for measuring time.
    """
    _save(root / weights.DINO_B16.path, dino(width, depth))
    _save(root / weights.MUSIQ_SPAQ.path, musiq(musiq_depth))
    _save(root / weights.RAFT_THINGS.path, {f"module.{k}": v for k, v in raft().items()})
    b32, l14 = ((768, 12, 32, 512), (1024, 24, 14, 768)) if full_clip else ((128, 2, 32, 64), (64, 2, 14, 768))
    _save_archive(root / weights.CLIP_B32.path, clip_tower(*b32, seed=4))
    _save_archive(root / weights.CLIP_L14.path, clip_tower(*l14, seed=5))
    _save(root / weights.AESTHETIC_HEAD.path, {"weight": Noise(6)((1, 768), 10.0), "bias": torch.tensor([5.0])})
    return root


def dino(width: int, depth: int) -> dict[str, torch.Tensor]:
    import timm

    with torch.device("meta"):
        model = timm.create_model(
            "vit_base_patch16_224", embed_dim=width, depth=depth, num_heads=max(1, width // 64), num_classes=0
        )
    return randomise(model.state_dict(), 1)


def musiq(depth: int) -> dict[str, torch.Tensor]:
    from cac_align.metrics.musiq import Musiq

    with torch.device("meta"):
        model = Musiq(depth=depth)
    state = randomise(model.state_dict(), 2)
    return state | {"head.weight": state["head.weight"] * 20, "head.bias": torch.tensor([50.0])}


def raft() -> dict[str, torch.Tensor]:
    """Under the original's names, second names of shared tensors included. A tame flow head leaves room for both
    verdicts.
    """
    from torchvision.models.optical_flow import raft_large

    from cac_align.metrics.flow import torchvision_name

    with torch.device("meta"):
        shapes = raft_large(weights=None).state_dict()
    state = randomise({n: shapes[torchvision_name(n)] for n in _raft_names() if torchvision_name(n) in shapes}, 3)
    for name in ("weight", "bias"):
        state[f"update_block.flow_head.conv2.{name}"] *= 0.018
    return state | {k.replace("downsample.1", "norm3"): v for k, v in state.items() if "downsample.1." in k}


def _raft_names() -> list[str]:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = []
    for net in ("fnet", "cnet"):
        parts = ["conv1", "norm1", "conv2"]
        for layer in (1, 2, 3):
            parts += [
                f"layer{layer}.{block}.{kind}{k}" for block in (0, 1) for kind in ("conv", "norm") for k in (1, 2)
            ]
            parts += [f"layer{layer}.0.downsample.{k}" for k in (0, 1)]
        names += [f"{net}.{part}.{kind}" for part in parts for kind in norm]
    parts = [f"encoder.{n}" for n in ("convc1", "convc2", "convf1", "convf2", "conv")]
    parts += [f"gru.conv{gate}{k}" for k in (1, 2) for gate in "zrq"]
    parts += ["flow_head.conv1", "flow_head.conv2", "mask.0", "mask.2"]
    return names + [f"update_block.{part}.{kind}" for part in parts for kind in norm]


def clip_tower(width: int, layers: int, patch: int, embedding: int, seed: int) -> dict[str, torch.Tensor]:
    """CLIP's names: a vision tower, and the smallest text tower that openai-clip accepts."""
    state: dict[str, torch.Size | tuple[int, ...]] = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((224 // patch) ** 2 + 1, width),
        "visual.proj": (width, embedding),
        "visual.conv1.weight": (width, 3, patch, patch),
        "positional_embedding": (77, 64),
        "text_projection": (64, embedding),
        "token_embedding.weight": (128, 64),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for tower, size, count in (("visual.transformer", width, layers), ("transformer", 64, 1)):
        for block in (f"{tower}.resblocks.{k}" for k in range(count)):
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
            state |= {f"{block}.attn.in_proj_weight": (3 * size, size), f"{block}.attn.in_proj_bias": (3 * size,)}
            for part, (rows, columns) in {
                "attn.out_proj": (size, size),
                "mlp.c_fc": (4 * size, size),
                "mlp.c_proj": (size, 4 * size),
            }.items():
                state |= {f"{block}.{part}.weight": (rows, columns), f"{block}.{part}.bias": (rows,)}
            size_of = {f"{n}.{kind}": (size,) for n in norms[-2:] for kind in ("weight", "bias")}
            state |= size_of
    for name in norms[:3]:
        state |= {f"{name}.{kind}": (width if name.startswith("visual") else 64,) for kind in ("weight", "bias")}
    made = randomise({k: torch.empty(v) for k, v in state.items()}, seed)
    made["visual.proj"] = made["visual.proj"] / math.sqrt(width / embedding)
    made |= {"logit_scale": torch.tensor(1.0)}
    # As in the real files; openai-clip rounds to half precision whatever it reads.
    return {name: tensor.half() for name, tensor in made.items()}


def _save(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


class _Bag(torch.nn.Module):
    """Parameters under dotted names."""


def _save_archive(path: Path, state: dict[str, torch.Tensor]) -> None:
    """As TorchScript, which CLIP's files are."""
    root = _Bag()
    for name, tensor in state.items():
        *parents, last = name.split(".")
        bag = root
        for parent in parents:
            if parent not in dict(bag.named_children()):
                bag.add_module(parent, _Bag())
            bag = bag.get_submodule(parent)
        bag.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(torch.jit.script(root), str(path))
