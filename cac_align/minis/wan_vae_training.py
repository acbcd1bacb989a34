"""Trains the mini Wan VAE: single frames, then clips, then the full 81 frames.

The order matters. Single frames are cheap and teach appearance; clips teach motion; the causal caches then drift on any
length that was not trained (a VAE trained on 9 frames lost its colours after frame 9), so training ends at the length
that is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from cac_align.minis.training_loop import LoopConfig, LossAndNumbers, TrainingLoop, mini_optimizers
from cac_align.minis.world_videos import NUM_FRAMES, WorldVideos, contact_sheet, to_uint8, to_vae_input

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


@dataclass(frozen=True)
class Phase:
    """``num_steps`` batches of ``batch_size`` clips of ``num_frames``."""

    num_frames: int
    batch_size: int
    num_steps: int


@dataclass(frozen=True)
class VaeConfig:
    """On one 2.5 GHz core, shared with other work: about 0.5-0.7, 1.1-1.8 and 4 s a step in the three phases."""

    phases: tuple[Phase, ...] = (Phase(1, 48, 800), Phase(17, 4, 450), Phase(NUM_FRAMES, 2, 50))
    lr: float = 0.03
    adam_lr: float = 2e-3
    kl_weight: float = 2e-4
    l1_weight: float = 0.1
    object_weight: float = 6.0

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase of a step; the last one for any step beyond the end."""
        for phase in self.phases:
            if step < phase.num_steps:
                return phase
            step -= phase.num_steps
        return self.phases[-1]


def object_mask(video: torch.Tensor, threshold: float = 0.15) -> torch.Tensor:
    """1 where a frame differs from its own median colour: the object, on a plain background. (B, 1, T, H, W)."""
    background = video.flatten(3).median(dim=-1).values[..., None, None]
    return ((video - background).abs().amax(dim=1, keepdim=True) > threshold).float()


def vae_loss(
    vae: AutoencoderKLWan, video: torch.Tensor, generator: torch.Generator, config: VaeConfig
) -> LossAndNumbers:
    """Weighted squared and absolute error plus KL; object pixels count ``1 + object_weight`` times."""
    posterior = vae.encode(video).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(video.device)
    error = vae.decode(posterior.mean + posterior.std * noise).sample - video
    weight = 1 + config.object_weight * object_mask(video)
    pixel = error.square() + config.l1_weight * error.abs()
    reconstruction = (weight * pixel).sum() / (3 * weight.sum())
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    numbers = {"mse": float(error.detach().square().mean()), "kl": float(kl.detach()), "frames": float(video.shape[2])}
    return reconstruction + config.kl_weight * kl, numbers


@contextlib.contextmanager
def single_frame_convolutions() -> Iterator[None]:
    """Causal convolutions of one frame without a past become 2D convolutions: same numbers, a third of the work."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    stock = WanCausalConv3d.forward

    def forward(self: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        if x.shape[2] > 1 or cache_x is not None:
            return stock(self, x, cache_x)
        padding = (self._padding[2], self._padding[0])
        newest, stride = self.weight[:, :, -1], self.stride[1:]
        flat = torch.nn.functional.conv2d(x[:, :, 0], newest, self.bias, stride=stride, padding=padding)
        return flat.unsqueeze(2)

    WanCausalConv3d.forward = forward
    try:
        yield
    finally:
        WanCausalConv3d.forward = stock


def draw_clips(videos: WorldVideos, phase: Phase, rng: np.random.Generator) -> torch.Tensor:
    """A random batch of clips, (B, 3, T, H, W)."""
    index = rng.integers(0, len(videos), phase.batch_size)
    start = rng.integers(0, NUM_FRAMES - phase.num_frames + 1, phase.batch_size)
    return to_vae_input(
        np.stack([videos.frames[i, s : s + phase.num_frames] for i, s in zip(index, start, strict=True)])
    )


def train_vae(
    vae: AutoencoderKLWan,
    videos: WorldVideos,
    directory: Path,
    config: VaeConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resume: bool = True,
) -> AutoencoderKLWan:
    """Trains in place and returns the averaged weights in evaluation mode."""
    vae.to(device).train()
    optimizers = mini_optimizers([vae], lr=config.lr, adam_lr=config.adam_lr)
    loop_config = LoopConfig(config.num_steps, seed=seed, ema_decay=0.99)
    loop = TrainingLoop({"vae": vae}, optimizers, loop_config, directory, resume)

    def loss_fn(step: int, rng: np.random.Generator, generator: torch.Generator) -> LossAndNumbers:
        clips = draw_clips(videos, config.phase_at(step), rng).to(device)
        return vae_loss(vae, clips, generator, config)

    def on_save(loop: TrainingLoop) -> None:
        _log_reconstructions(loop, videos, config.phase_at(loop.step).num_frames, directory)

    with single_frame_convolutions():
        loop.run(loss_fn, on_save, name="vae")
    return loop.ema["vae"]


@torch.no_grad()
def _log_reconstructions(loop: TrainingLoop, videos: WorldVideos, num_frames: int, directory: Path) -> None:
    from PIL import Image

    clips = np.asarray(videos.frames[:4, -num_frames:])
    rebuilt = reconstruct(loop.ema["vae"], clips)
    pairs = np.stack([clips, rebuilt], axis=1).reshape(-1, *clips.shape[1:])
    sheet = contact_sheet(pairs, num_columns=min(9, num_frames))
    Image.fromarray(sheet).save(directory / f"reconstruction-{loop.step:06d}.png")
    loop.writer.add_image("vae/reconstruction", sheet, loop.step, dataformats="HWC")


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, frames: np.ndarray) -> np.ndarray:
    """(N, T, H, W, 3) uint8 through the VAE and back (posterior mean)."""
    device = next(vae.parameters()).device
    return to_uint8(vae.decode(vae.encode(to_vae_input(frames).to(device)).latent_dist.mode()).sample)


@torch.no_grad()
def encode_videos(
    vae: AutoencoderKLWan, videos: WorldVideos, batch_size: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of all videos, each (N, 16, 21, 4, 4)."""
    device = next(vae.parameters()).device
    means, stds = [], []
    for k in tqdm(range(0, len(videos), batch_size), desc="encode", mininterval=5.0):
        posterior = vae.encode(to_vae_input(videos.frames[k : k + batch_size]).to(device)).latent_dist
        means.append(posterior.mean.cpu())
        stds.append(posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)


def store_latent_statistics(vae: AutoencoderKLWan, means: torch.Tensor, stds: torch.Tensor) -> None:
    """Writes the latents' mean and standard deviation per channel into the VAE's config for ``WanPipeline``."""
    axes = (0, 2, 3, 4)
    variance = means.var(dim=axes) + stds.square().mean(dim=axes)
    vae.register_to_config(latents_mean=means.mean(dim=axes).tolist(), latents_std=variance.sqrt().tolist())
