"""Normal videos to make probes of: from the procedural world, from a folder, or drawn by a small pipeline."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

Videos = list[tuple[np.ndarray, str]]

#: World seeds no judge was trained, tuned or tested on.
FIRST_SEED = 70_000_000


def world_videos(num: int, seed: int = 0) -> tuple[str, Videos, float]:
    """Normal videos of every setting of the world; returns what they are, the videos, and their frames per second."""
    from reward_model.world import make_video

    made = [make_video(FIRST_SEED + 10_000 * seed + k) for k in range(num)]
    return f"{num} normal world videos", [(f, t.prompt) for f, t in made], made[0][1].fps


def folder_videos(folder: Path, num: int) -> tuple[str, Videos, float]:
    """The first videos of a folder, as :func:`cac_align.metrics.find_videos` finds them.

    Raises:
        ValueError: if there is none that can be read, or they differ in frames per second.
    """
    from cac_align.metrics.videos import find_videos
    from reward_model.video.clip import VideoError, load_video

    entries, loaded, reasons = [], [], []
    for entry in find_videos(folder):
        try:
            loaded.append(load_video(entry.path))
            entries.append(entry)
        except VideoError as error:
            reasons.append(str(error))
            log.warning("left out: %s", error)
        if len(loaded) == num:
            break
    if not loaded:
        raise ValueError(f"no video of {folder} can be read; the first: {reasons[0]}")
    rates = sorted({v.fps for v in loaded})
    if len(rates) > 1:
        raise ValueError(f"videos of {folder} have {', '.join(f'{r:g}' for r in rates)} fps; probe them one by one")
    videos = [(np.asarray(v.frames), e.prompt) for v, e in zip(loaded, entries, strict=True)]
    return f"{len(videos)} videos of {folder.name}", videos, rates[0]


def pipeline_videos(
    model: str, prompts: Path, num: int, *, seed: int = 0, keep_all: bool = False, num_inference_steps: int = 16
) -> tuple[str, Videos, float]:
    """Videos a Wan pipeline of 32 x 32 pixels draws, one of each prompt; those the rule finds a fault in are left out.

    Raises:
        ValueError: the pipeline, some of its weights or the prompts are missing, or the rule objects to every video.
    """
    from diffusers import WanPipeline

    from cac_align.flow_grpo.needs import check_model
    from cac_align.pipelines import open_pipeline
    from cac_align.prompts import read_prompts
    from cac_align.selection.candidates import candidate_seed, encode_once, generate
    from reward_model.world.tracking import find_faults

    check_model(model, "--pipe")
    pipe = open_pipeline(model, WanPipeline)
    pipe.set_progress_bar_config(disable=True)
    options = {"height": 32, "width": 32, "num_frames": 81, "guidance_scale": 2.0, "max_sequence_length": 64}
    options["num_inference_steps"] = num_inference_steps
    texts = [p.text for p in read_prompts(prompts)][:num]
    with encode_once(pipe):
        drawn = [(generate(pipe, t, [candidate_seed(seed, k)], options)[0], t) for k, t in enumerate(texts)]
    kept = drawn if keep_all else [(f, t) for f, t in drawn if not find_faults(f)]
    if not kept:
        raise ValueError(f"the rule objects to all {len(drawn)} videos of {model}; pass --keep-all, or other prompts")
    what = f"{len(kept)} videos of {Path(model).name}" + ("" if keep_all else f" without a fault, of {len(drawn)}")
    return what, kept, 16.0
