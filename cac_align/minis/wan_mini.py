"""Builds wan-mini: a real ``WanPipeline``, every part trained from scratch, in about 90 minutes on one CPU core.

    from cac_align.minis.wan_mini import build_wan_mini
    build_wan_mini("assets/wan-mini", "runs/wan-mini")

Steps: draw normal videos of the procedural world, train the VAE, encode all videos once, train the transformer with its
text encoder on the latents, write the pipeline. Each step leaves its result in the working directory, and a second call
continues where a killed one stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cac_align.minis.training_loop import save_atomically
from cac_align.minis.wan_config import build_wan_pipeline
from cac_align.minis.wan_flow_training import FlowConfig, LatentVideos, normalize_latents, train_flow
from cac_align.minis.wan_vae_training import (
    Phase,
    VaeConfig,
    encode_videos,
    store_latent_statistics,
    train_vae,
)
from cac_align.minis.world_videos import WorldVideos, load_world_videos
from reward_model.files import atomic_folder

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanPipeline


@dataclass(frozen=True)
class WanMiniConfig:
    """Everything that sets the cost of a build."""

    num_videos: int = 4000
    num_held_out: int = 64
    vae: VaeConfig = field(default_factory=VaeConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)

    def scaled(self, scale: float) -> WanMiniConfig:
        """The same recipe with ``scale`` times the steps and videos, at least one step of everything."""
        if not 0 < scale <= 1:
            raise ValueError(f"scale={scale} must lie in (0, 1]: 1.0 is the full recipe, 0.001 a smoke test")
        phases = tuple(Phase(p.num_frames, p.batch_size, _shrink(p.num_steps, scale)) for p in self.vae.phases)
        return replace(
            self,
            num_videos=_shrink(self.num_videos, scale, least=8),
            num_held_out=_shrink(self.num_held_out, scale, least=4),
            vae=replace(self.vae, phases=phases),
            flow=replace(self.flow, num_steps=_shrink(self.flow.num_steps, scale)),
        )


def _shrink(count: int, scale: float, least: int = 1) -> int:
    return max(least, round(count * scale))


def build_wan_mini(
    output_dir: str | Path,
    work_dir: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    scale: float = 1.0,
    resume: bool = True,
) -> WanPipeline:
    """Trains wan-mini and writes it for ``WanPipeline.from_pretrained(output_dir)``.

    Args:
        output_dir: receives the pipeline (about 18 MB of safetensors).
        work_dir: videos, latents, checkpoints, TensorBoard logs and sample sheets; safe to delete afterwards.
        seed: seed of initial weights and of every batch; the videos are those of the seeds from 1,000,000 on.
        device: CUDA where there is one, else the CPU, unless given. Repeatable on a CPU with a fixed number of threads.
        scale: share of the full recipe's steps and videos, in (0, 1].
        resume: continue from what ``work_dir`` holds; False trains anew.

    Raises:
        ValueError: if ``scale`` is out of range.

    Example:
        >>> pipe = build_wan_mini("/tmp/wan-smoke", "/tmp/wan-smoke-work", scale=0.001)  # doctest: +SKIP
    """
    config, work = WanMiniConfig().scaled(scale), Path(work_dir)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    videos = load_world_videos(work / "data", config.num_videos + config.num_held_out)
    pipe = build_wan_pipeline("mini", seed=seed)
    seen = videos.first(config.num_videos)
    vae = train_vae(pipe.vae, seen, work / "vae", config.vae, seed=seed, device=chosen, resume=resume)
    pipe.register_modules(vae=vae)
    mean, std = _cached_latents(vae, videos, work / "latents.pt", resume)
    train, held_out = _split(pipe, mean, std, videos.prompts, config.num_held_out)
    pipe.to(chosen)
    train_flow(pipe, train, held_out, work / "flow", config.flow, seed=seed, resume=resume)
    pipe.to("cpu")
    with atomic_folder(output_dir, keep=("README.md",)) as fresh:
        pipe.save_pretrained(fresh)
    return pipe


def _cached_latents(
    vae: AutoencoderKLWan, videos: WorldVideos, path: Path, resume: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of all videos, read back only if they come from these very VAE weights."""
    fingerprint = torch.stack([p.double().sum().cpu() for p in vae.parameters()])
    if resume and path.exists():
        saved = torch.load(path, weights_only=True)
        if torch.equal(saved["fingerprint"], fingerprint) and len(saved["mean"]) == len(videos):
            return saved["mean"], saved["std"]
    mean, std = encode_videos(vae, videos)
    save_atomically({"mean": mean, "std": std, "fingerprint": fingerprint}, path)
    return mean, std


def _split(
    pipe: WanPipeline, mean: torch.Tensor, std: torch.Tensor, prompts: list[str], num_held_out: int
) -> tuple[LatentVideos, LatentVideos]:
    """Stores the latent statistics in the VAE's config and sets the last videos aside."""
    cut = len(prompts) - num_held_out
    store_latent_statistics(pipe.vae, mean[:cut], std[:cut])
    train = normalize_latents(pipe, mean[:cut], std[:cut], prompts[:cut])
    return train, normalize_latents(pipe, mean[cut:], std[cut:], prompts[cut:])
