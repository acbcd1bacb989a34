"""Training videos of the mini Wan: normal videos of the procedural world and their prompts, drawn once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

#: Seeds below this are free for tests and for the judge.
FIRST_TRAINING_SEED = 1_000_000
NUM_FRAMES, SIZE = 81, 32


@dataclass(frozen=True)
class WorldVideos:
    """``frames`` (N, 81, 32, 32, 3) uint8 and one prompt each."""

    frames: np.ndarray
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def first(self, num_videos: int) -> WorldVideos:
        """The first videos alone; the rest are held out."""
        return WorldVideos(self.frames[:num_videos], self.prompts[:num_videos])


def load_world_videos(directory: Path, num_videos: int, first_seed: int = FIRST_TRAINING_SEED) -> WorldVideos:
    """Draws the videos, or opens them where an earlier call has left them complete."""
    from reward_model.world import make_video

    directory.mkdir(parents=True, exist_ok=True)
    frames_path, prompts_path = directory / f"frames-{num_videos}.npy", directory / f"prompts-{num_videos}.json"
    if not prompts_path.exists():  # written last, so it also says that the frames are complete
        shape = (num_videos, NUM_FRAMES, SIZE, SIZE, 3)
        frames = np.lib.format.open_memmap(frames_path, "w+", dtype=np.uint8, shape=shape)
        prompts = []
        for k in tqdm(range(num_videos), desc="world videos", mininterval=5.0):
            frames[k], truth = make_video(first_seed + k, setting="single", size=SIZE)
            prompts.append(truth.prompt)
        frames.flush()
        temporary = prompts_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(prompts))
        temporary.replace(prompts_path)
    return WorldVideos(np.load(frames_path, mmap_mode="r"), json.loads(prompts_path.read_text()))


def write_clips(folder: Path, num_videos: int, first_seed: int = FIRST_TRAINING_SEED) -> Path:
    """Writes videos without loss, as files with a list of their prompts, for the data term of Flow-GRPO
    (``data_regulariser``): by default the first ones that wan-mini was trained on. Returns the list's path.
    """
    from reward_model.files import write_text
    from reward_model.video.writing import FFV1, write_video
    from reward_model.world import make_video

    lines = []
    for k in tqdm(range(num_videos), desc="world videos", mininterval=5.0):
        frames, truth = make_video(first_seed + k, setting="single", size=SIZE)
        name = f"{k:05d}.mkv"
        write_video(folder / name, frames, truth.fps, FFV1)
        lines.append(json.dumps({"video": name, "prompt": truth.prompt}) + "\n")
    return write_text(folder / "clips.jsonl", "".join(lines))


def to_vae_input(frames: np.ndarray) -> torch.Tensor:
    """(B, T, H, W, 3) uint8 to (B, 3, T, H, W) in [-1, 1], as the VAE takes it."""
    return torch.from_numpy(np.array(frames)).float().div(127.5).sub(1).movedim(-1, 1)


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """The inverse of :func:`to_vae_input`."""
    return ((video.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


def contact_sheet(videos: np.ndarray, num_columns: int = 9, zoom: int = 3) -> np.ndarray:
    """(N, T, H, W, 3) to one picture: a row per video, frames at equal distances."""
    index = np.linspace(0, videos.shape[1] - 1, num_columns).round().astype(int)
    rows = [np.concatenate(list(video[index]), axis=1) for video in videos]
    return np.concatenate(rows, axis=0).repeat(zoom, axis=0).repeat(zoom, axis=1)
