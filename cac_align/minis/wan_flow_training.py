"""Trains the mini Wan transformer and its text encoder by flow matching on cached latents.

``x_t = (1 - sigma) x_0 + sigma eps``; the model predicts the velocity ``eps - x_0`` at ``timestep = 1000 sigma``.
Prompts are dropped for some samples, so that classifier-free guidance works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cac_align.minis.compact_prompts import encode_compact, prompt_bias
from cac_align.minis.training_loop import LoopConfig, LossAndNumbers, TrainingLoop, generators, mini_optimizers
from cac_align.minis.world_videos import NUM_FRAMES, SIZE, contact_sheet
from reward_model.video.writing import write_video

if TYPE_CHECKING:
    from diffusers import WanPipeline

#: Parameters that are matrices but no linear maps between features of equal standing: AdamW trains them.
ADAM_NAMES = ("patch_embedding", "proj_out", "shared", "relative_attention_bias", "scale_shift_table")
SAMPLE_PROMPTS = (
    "a red ball bounces on a black background",
    "a blue square moves right on a gray background",
    "a yellow triangle circles on a teal background",
    "a white ball moves up on a brown background",
    "a green triangle moves left on a black background",
    "a purple square moves down on a gray background",
)
#: Padded lengths met in training, so that callers may choose any ``max_sequence_length``.
SEQUENCE_LENGTHS = (32, 64, 128, 226, 512)


@dataclass(frozen=True)
class FlowConfig:
    """About 0.8 s a step of 16 videos on one 2.5 GHz core that is shared with other work."""

    num_steps: int = 3400
    batch_size: int = 16
    lr: float = 0.01
    adam_lr: float = 2e-3
    shift: float = 3.0
    prompt_dropout: float = 0.1
    ema_decay: float = 0.998
    save_every: int = 500


@dataclass(frozen=True)
class LatentVideos:
    """Normalised posterior ``mean`` and ``std`` (N, 16, 21, 4, 4) with one prompt each."""

    mean: torch.Tensor
    std: torch.Tensor
    prompts: list[str]

    def draw(self, index: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """A posterior sample of the chosen videos."""
        noise = torch.randn(self.mean[index].shape, generator=generator)
        return self.mean[index] + self.std[index] * noise


def normalize_latents(pipe: WanPipeline, mean: torch.Tensor, std: torch.Tensor, prompts: list[str]) -> LatentVideos:
    """Latents in the scale in which ``WanPipeline`` denoises."""
    shape = (1, -1, 1, 1, 1)
    center = torch.tensor(pipe.vae.config.latents_mean).view(shape)
    scale = torch.tensor(pipe.vae.config.latents_std).view(shape)
    return LatentVideos((mean - center) / scale, std / scale, prompts)


def draw_sigmas(batch_size: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Noise levels in (0, 1): uniform, then shifted towards noise as the sampler's ``flow_shift`` does; stratified."""
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    return shift * u / (1 + (shift - 1) * u)


def flow_loss(
    pipe: WanPipeline,
    x0: torch.Tensor,
    prompts: list[str],
    generator: torch.Generator,
    *,
    shift: float,
    max_sequence_length: int = 512,
) -> torch.Tensor:
    """Mean squared error of the velocity for each sample, (B,)."""
    device = next(pipe.transformer.parameters()).device
    sigma = draw_sigmas(len(x0), shift, generator)
    noise = torch.randn(x0.shape, generator=generator)
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy, velocity = (1 - level) * x0 + level * noise, noise - x0
    embeds, bias = encode_compact(pipe.text_encoder, pipe.tokenizer, prompts, max_sequence_length)
    with prompt_bias(pipe.transformer, bias):
        predicted = pipe.transformer(noisy.to(device), 1000 * sigma.to(device), embeds, return_dict=False)[0]
    return (predicted - velocity.to(device)).square().mean(dim=(1, 2, 3, 4))


def train_flow(
    pipe: WanPipeline,
    data: LatentVideos,
    held_out: LatentVideos,
    directory: Path,
    config: FlowConfig,
    *,
    seed: int = 0,
    resume: bool = True,
) -> WanPipeline:
    """Trains ``pipe``'s transformer and text encoder in place, then loads their averaged weights into it."""
    modules = {"transformer": pipe.transformer.train(), "text_encoder": pipe.text_encoder.train()}
    optimizers = mini_optimizers(modules.values(), lr=config.lr, adam_lr=config.adam_lr, adam_names=ADAM_NAMES)
    loop_config = LoopConfig(
        config.num_steps,
        seed=seed + 1,
        ema_decay=config.ema_decay,
        save_every=config.save_every,
        warmup_steps=min(100, config.num_steps // 10),
    )
    loop = TrainingLoop(modules, optimizers, loop_config, directory, resume)

    def loss_fn(step: int, rng: np.random.Generator, generator: torch.Generator) -> LossAndNumbers:
        index = rng.integers(0, len(data.prompts), config.batch_size)
        dropped = rng.random(config.batch_size) < config.prompt_dropout
        prompts = ["" if drop else data.prompts[i] for i, drop in zip(index, dropped, strict=True)]
        length = int(rng.choice(SEQUENCE_LENGTHS))
        latents = data.draw(index, generator)
        loss = flow_loss(pipe, latents, prompts, generator, shift=config.shift, max_sequence_length=length)
        return loss.mean(), {}

    def on_save(loop: TrainingLoop) -> None:
        average = averaged_pipeline(pipe, loop)
        loop.writer.add_scalar("flow/held_out_loss", held_out_loss(average, held_out, config.shift), loop.step)
        _log_samples(average, loop, directory)

    loop.run(loss_fn, on_save, name="flow")
    pipe.transformer.load_state_dict(loop.ema["transformer"].state_dict())
    pipe.text_encoder.load_state_dict(loop.ema["text_encoder"].state_dict())
    pipe.transformer.eval()
    pipe.text_encoder.eval()
    return pipe


def averaged_pipeline(pipe: WanPipeline, loop: TrainingLoop) -> WanPipeline:
    """A pipeline that samples from the averaged weights, sharing everything else."""
    return type(pipe)(pipe.tokenizer, loop.ema["text_encoder"], pipe.vae, pipe.scheduler, loop.ema["transformer"])


@torch.no_grad()
def held_out_loss(pipe: WanPipeline, data: LatentVideos, shift: float, batch_size: int = 16) -> float:
    """The loss on unseen videos with fixed noise."""
    losses = []
    for k in range(0, len(data.prompts), batch_size):
        index = np.arange(k, min(k + batch_size, len(data.prompts)))
        _, generator = generators(0, k)
        prompts = [data.prompts[i] for i in index]
        losses.append(flow_loss(pipe, data.draw(index, generator), prompts, generator, shift=shift))
    return float(torch.cat(losses).mean())


def sample_videos(
    pipe: WanPipeline, prompts: list[str], *, num_inference_steps: int = 20, guidance_scale: float = 3.0, seed: int = 0
) -> np.ndarray:
    """(N, 81, 32, 32, 3) uint8 from the unmodified pipeline call; video k depends on ``seed + k`` alone."""
    pipe.set_progress_bar_config(disable=True)
    videos = pipe(
        prompts,
        height=SIZE,
        width=SIZE,
        num_frames=NUM_FRAMES,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed + k) for k in range(len(prompts))],
        max_sequence_length=64,
        output_type="np",
    ).frames
    return (videos * 255).round().astype(np.uint8)


def _log_samples(pipe: WanPipeline, loop: TrainingLoop, directory: Path) -> None:
    from PIL import Image

    videos = sample_videos(pipe, list(SAMPLE_PROMPTS))
    sheet = contact_sheet(videos, num_columns=11)
    Image.fromarray(sheet).save(directory / f"samples-{loop.step:06d}.png")
    loop.writer.add_image("flow/samples", sheet, loop.step, dataformats="HWC")
    save_mp4(np.concatenate(list(videos), axis=2), directory / f"samples-{loop.step:06d}.mp4")


def save_mp4(frames: np.ndarray, path: Path, fps: int = 16, zoom: int = 4) -> None:
    """(T, H, W, 3) uint8 to H.264, each pixel enlarged ``zoom`` times."""
    write_video(path, frames.repeat(zoom, axis=1).repeat(zoom, axis=2), fps)
