"""Videos that are trained on, of the data term or of preference pairs: found, cut to the size of the run, encoded once
and kept on the disk.

A file's name is a hash of all that its latents depend on: the VAE's weights, the video's bytes, size, length and rate.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cac_align.metrics.videos import find_videos
from cac_align.pipelines import Pipeline
from reward_model.digests import json_digest, text_digest
from reward_model.engine.checkpoints import fingerprint
from reward_model.engine.guards import safetensors_fault
from reward_model.files import atomic
from reward_model.folders import file_digest
from reward_model.journal import read_lines, read_object
from reward_model.shipped import located
from reward_model.video.clip import Video, VideoError, load_video, resize_frames

if TYPE_CHECKING:
    from cac_align.flow_grpo.training_settings import TrainingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionedClip:
    """A video file and the text that it shows."""

    path: Path
    prompt: str


def find_clips(source: str | Path) -> list[CaptionedClip]:
    """The videos of a folder or of a list, in a fixed order.

    Args:
        source: a folder, whose prompts are found as :func:`cac_align.metrics.find_videos` finds them (also the chosen
            videos of :func:`cac_align.best_of_n`), or a ``.jsonl`` file of objects with ``video`` (a path, relative to
            this file) and ``prompt``. Other fields are ignored.

    Raises:
        ValueError: if there is no such folder or file, it holds no video, or a line is broken.
    """
    path = Path(located(source))
    if path.is_dir():
        return [CaptionedClip(entry.path, entry.prompt) for entry in find_videos(path)]
    if path.suffix != ".jsonl" or not path.is_file():
        raise ValueError(f"{str(source)!r} is neither a folder of videos nor a .jsonl file; check the path")
    clips = [_listed(line, number, path) for number, line in enumerate(read_lines(path), 1)]
    if not clips:
        raise ValueError(f"{str(source)!r} names no video; give it a line for each, with 'video' and 'prompt'")
    return clips


def _listed(line: bytes, number: int, path: Path) -> CaptionedClip:
    try:
        entry = read_object(line)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}, line {number}: {error}") from error
    video, prompt = entry.get("video"), entry.get("prompt")
    if not isinstance(video, str) or not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{str(path)!r}, line {number} needs texts under 'video' and 'prompt', got {line[:60]!r}")
    file = path.parent / video
    if not file.is_file():
        raise ValueError(f"{str(path)!r}, line {number}: there is no video {str(file)!r}; fix the path")
    return CaptionedClip(file, prompt.strip())


def clips_digest(clips: Sequence[CaptionedClip]) -> str:
    """A digest that changes with any byte of a video, with a prompt and with their order; not with where they lie."""
    return json_digest([[file_digest(clip.path), clip.prompt] for clip in clips])


def read_clip(clip: CaptionedClip, num_frames: int, height: int, width: int, fps: float) -> np.ndarray:
    """The first frames of a video at a rate, its middle cut to the aspect ratio and resized: (T, H, W, 3) uint8.

    Raises:
        VideoError: if the file cannot be read, or is too short or too slow.
    """
    video = load_video(clip.path)
    wanted = frames_of_run(clip.path, video, num_frames, fps)
    return resize_frames(_middle(video.take(wanted), height / width), (height, width))


def frames_of_run(path: Path, video: Video, num_frames: int, fps: float) -> list[int]:
    """The frames of a video that a run of this length and rate takes.

    Args:
        path: its file, for messages.
        video: the video; nothing of it is decoded.
        num_frames, fps: of the run.

    Raises:
        VideoError: if it is too short or too slow.
    """
    if video.fps < fps * 0.99:
        raise VideoError(f"{str(path)!r} has {video.fps:g} frames a second, fewer than the {fps:g} of the run")
    wanted = [round(k * video.fps / fps) for k in range(num_frames)]
    if wanted[-1] >= video.num_frames:
        raise VideoError(
            f"{str(path)!r} lasts {video.num_frames / video.fps:.2f} s, shorter than the {num_frames} frames at "
            f"{fps:g} fps of the run"
        )
    return wanted


def _middle(frames: np.ndarray, ratio: float) -> np.ndarray:
    """The largest part of the pictures around their middle with this ratio of height to width."""
    rows, columns = frames.shape[1:3]
    height, width = min(rows, round(columns * ratio)), min(columns, round(rows / ratio))
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])


@torch.no_grad()
def encode_frames(pipe: Pipeline, frames: np.ndarray) -> torch.Tensor:
    """The latents that a Wan pipeline decodes to these frames, (C, T, h, w) float32 on the CPU: the mode of the VAE's
    posterior, in the scale in which the transformer denoises.

    Args:
        pipe: with its VAE, on any device.
        frames: (T, H, W, 3) uint8.
    """
    vae = pipe.vae
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].to(vae.device, vae.dtype) / 127.5 - 1
    latents = vae.encode(pixels).latent_dist.mode().float()
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return ((latents - mean) / std)[0].cpu().contiguous()


class ClipLatents:
    """The latents of all videos that are trained on, by their place.

    Args:
        clips: the videos.
        config: size, length and rate of the run.
        vae: identity of the VAE, see :func:`vae_id`.

    Example:
        >>> latents = ClipLatents(find_clips("footage"), config, vae_id(pipe))                    # doctest: +SKIP
        >>> latents.fill(pipe)                                                                    # doctest: +SKIP
        >>> latents[0].shape                                                                      # doctest: +SKIP
        torch.Size([16, 21, 60, 104])
    """

    def __init__(self, clips: Sequence[CaptionedClip], config: TrainingSettings, vae: str) -> None:
        self.clips, self.config, self.vae = list(clips), config, vae
        self.folder = Path(config.data_cache or Path(config.output_dir) / "data")

    def path(self, clip: CaptionedClip) -> Path:
        """File of the latents of a video."""
        config = self.config
        size = [config.num_frames, config.height, config.width, config.fps]
        return self.folder / f"{text_digest(json.dumps([self.vae, file_digest(clip.path), size]))[:32]}.safetensors"

    def fill(self, pipe: Pipeline) -> int:
        """Encodes what is missing, one video at a time. Returns how many there were.

        Raises:
            ValueError: if a video cannot be read, or does not fit the run; the message names it.
        """
        from safetensors.torch import save_file

        config, missing = self.config, [c for c in self.clips if not _whole(self.path(c))]
        wrong = []
        for clip in missing:
            try:
                frames = read_clip(clip, config.num_frames, config.height, config.width, config.fps)
            except VideoError as error:
                wrong.append(str(error))
                continue
            if not wrong:
                with atomic(self.path(clip)) as temporary:
                    save_file({"latents": encode_frames(pipe, frames)}, temporary)
        if wrong:
            more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise ValueError(f"{wrong[0]}{more}; leave such videos out, or set num_frames and fps that they have")
        return len(missing)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(C, T, h, w) float32 on the CPU."""
        from safetensors.torch import load_file

        return load_file(self._paths[index])["latents"]

    @cached_property
    def _paths(self) -> list[Path]:
        return [self.path(clip) for clip in self.clips]


def vae_id(pipe: Pipeline) -> str:
    """16 hex digits that change with the weights or statistics of the pipeline's VAE, and with its tiling."""
    config = pipe.vae.config
    parts = [fingerprint(pipe.vae), str(pipe.vae.dtype), list(config.latents_mean), list(config.latents_std)]
    return json_digest([*parts, bool(getattr(pipe.vae, "use_tiling", False))])[:16]


def _whole(path: Path) -> bool:
    return path.is_file() and safetensors_fault(path) is None
